//! Devices one by one, as an administrator asks for them.

use berth_types::LayerId;

use super::{Devicemapper, disk, opts};
use crate::suite::{content, layer, rw, same, write};
use crate::{Access, DeviceKind, Mounted, StorageDriver as _, ThinDevices as _};

#[test]
fn vm_devicemapper_devices_are_listed_copied_looked_into_and_removed_when_nobody_needs_them() {
    let test =
        "vm_devicemapper_devices_are_listed_copied_looked_into_and_removed_when_nobody_needs_them";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let options =
        opts(&["dm.fs=ext4", "dm.basesize=64M", "dm.loopdatasize=256M", "dm.loopmetadatasize=4M"]);
    let driver = Devicemapper::open(&home, &options).unwrap();
    let base = layer(&driver, None, &["base"]);
    driver.release(&base).unwrap();
    let own = LayerId::random();
    driver.create(&own, Some(&base), &rw()).unwrap();
    let plan = driver.prepare(&own, Access::Write).unwrap();
    let used = Mounted::new(plan).unwrap();
    std::fs::File::create(used.root().join("own")).unwrap();
    let kinds = |driver: &Devicemapper| -> Vec<(String, DeviceKind, Option<u32>)> {
        let all = driver.devices().unwrap().into_iter();
        all.map(|device| (device.id, device.kind, device.open_count)).collect()
    };
    let mut expected = vec![
        ("base".to_owned(), DeviceKind::Base, None),
        (base.to_string(), DeviceKind::Layer, None),
        (own.to_string(), DeviceKind::Layer, Some(1)),
    ];
    assert_eq!(kinds(&driver), expected);
    for id in ["base", &own.as_str()[..12]] {
        let mapped = driver.device(id).unwrap().mapped.unwrap();
        assert!(mapped.sectors > 0 && mapped.highest > Some(0), "{id}: {mapped:?}");
    }
    // Of one in use: as it is now.
    let made = driver.snapshot("rescue", own.as_str()).unwrap();
    assert_eq!((made.id.as_str(), made.kind), ("snapshot-rescue", DeviceKind::Snapshot));
    std::fs::remove_file(used.root().join("own")).unwrap();
    drop(used);
    driver.release(&own).unwrap();
    #[rustfmt::skip]
    let refused = [
        (driver.snapshot("rescue", own.as_str()).unwrap_err(), "there is a snapshot rescue already".to_owned()),
        (driver.snapshot("../x", own.as_str()).unwrap_err(),
         "invalid name of a snapshot: \"../x\" (letters, digits, and _ . - behind the first, 64 at most)".to_owned()),
        (driver.device("nosuch").unwrap_err(), "No such device: nosuch".to_owned()),
        (driver.device("").unwrap_err(), "No such device: ".to_owned()),
    ];
    for (error, text) in refused {
        assert_eq!(error.to_string(), text);
    }
    drop(driver);
    let driver = Devicemapper::open(&home, &options).unwrap();
    driver.recover(&|_| false).unwrap();
    let target = disk.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mounted = Mounted::new(driver.look_into("snapshot-r", &target).unwrap()).unwrap();
    driver.let_go("snapshot-rescue").unwrap();
    let files = target.join("rootfs");
    assert!(files.join("own").is_file() && files.join("base").is_file());
    assert!(std::fs::File::create(target.join("new")).is_err(), "it is read-only");
    let is_known = |id: &LayerId| *id == base;
    let remove = |id: &str| driver.remove_device(id, &is_known).map_err(|error| error.to_string());
    let name = driver.device("snapshot-rescue").unwrap().name;
    assert_eq!(
        remove("snapshot-rescue"),
        Err(format!("failed to remove device {name}: Device is Busy"))
    );
    drop(mounted);
    assert_eq!(remove("snapshot-rescue"), Ok(()));
    // Which has no layer's directory.
    driver.snapshot("bare", "base").unwrap();
    drop(Mounted::new(driver.look_into("snapshot-bare", &target).unwrap()).unwrap());
    driver.let_go("snapshot-bare").unwrap();
    assert_eq!(remove("snapshot-bare"), Ok(()));
    let needed = |id: &str, whose: &str| {
        Err(format!("device {id} is needed and cannot be removed: it is {whose}"))
    };
    assert_eq!(remove("base"), needed("base", "what layers without a parent begin as"));
    assert_eq!(remove(base.as_str()), needed(base.as_str(), "a layer of an image or a container"));
    assert_eq!(remove(own.as_str()), Ok(()), "no record knows it");
    expected.truncate(2);
    assert_eq!(kinds(&driver), expected);
    let next = LayerId::random();
    driver.create(&next, Some(&base), &rw()).unwrap();
    write(&driver, &next, &["next"]);
    assert_eq!(content(&driver, &next), same(&["base", "next"]));
}
