//! Layers without a parent that are made in advance.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_types::LayerId;

use super::crash::stop;
use super::{Devicemapper, active, disk, small};
use crate::suite::{content, layer, listed, rw, same};
use crate::{DeviceKind, LayerState, Mounted, PoolDevice, StorageDriver as _, ThinDevices as _};

const PATIENCE: Duration = Duration::from_mins(1);

fn spare(driver: &Devicemapper) -> Option<PoolDevice> {
    driver.devices().unwrap().into_iter().find(|device| device.kind == DeviceKind::Spare)
}

/// Has one made, and gives its number once it is ready.
fn ready(driver: &Devicemapper) -> u32 {
    driver.keep_spare();
    let begun = Instant::now();
    loop {
        if let Some(spare) = spare(driver)
            && spare.open_count == Some(1)
            && driver.set.spares.has_one()
        {
            return spare.number;
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", spare(driver));
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn number(driver: &Devicemapper, id: &LayerId) -> u32 {
    driver.device(id.as_str()).unwrap().number
}

/// Opens a driver with a spare, and makes that a layer.
pub(super) fn take(home: &Path) -> LayerId {
    let driver = small(home, &[]);
    driver.recover(&|_| false).unwrap();
    ready(&driver);
    layer(&driver, None, &["own"])
}

#[test]
fn vm_devicemapper_a_layer_of_an_image_on_nothing_is_the_spare() {
    if !testkit::in_vm("vm_devicemapper_a_layer_of_an_image_on_nothing_is_the_spare") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = small(&home, &[]);
    assert_eq!(spare(&driver), None);
    let expected = ready(&driver);
    assert_eq!(ready(&driver), expected, "one is enough");
    let own = LayerId::random();
    driver.create(&own, None, &rw()).unwrap();
    assert_ne!(number(&driver, &own), expected, "a container's layer is none");
    driver.remove(&own).unwrap();
    driver.reap().unwrap();
    let refused = driver.remove_device("spare", &|_| false).unwrap_err().to_string();
    assert!(refused.contains("what the next layer without a parent becomes"), "{refused}");

    let first = layer(&driver, None, &["first"]);
    assert_eq!((number(&driver, &first), spare(&driver)), (expected, None));
    assert_eq!(driver.device(first.as_str()).unwrap().open_count, Some(0), "it is unmounted");
    assert_eq!(content(&driver, &first), same(&["first"]));
    // Whoever does not come to fill it removes it.
    let expected = ready(&driver);
    let left = LayerId::random();
    driver.create(&left, None, &crate::CreateOptions::default()).unwrap();
    assert_eq!(number(&driver, &left), expected);
    driver.remove(&left).unwrap();
    driver.reap().unwrap();
    assert!(driver.device(left.as_str()).is_err());

    // The next process has it, at rest.
    let expected = ready(&driver);
    drop(driver);
    assert_eq!(active(&home), [""; 0]);
    let driver = small(&home, &[]);
    driver.recover(&|_| false).unwrap();
    assert_eq!(
        spare(&driver).map(|spare| (spare.number, spare.open_count)),
        Some((expected, None))
    );
    let second = layer(&driver, None, &["second"]);
    assert_eq!((number(&driver, &second), spare(&driver)), (expected, None));
    assert_eq!(content(&driver, &second), same(&["second"]));
    let old = ready(&driver);
    drop(driver);

    // The base device has grown.
    let driver = small(&home, &["dm.basesize=480M"]);
    driver.recover(&|_| false).unwrap();
    let third = layer(&driver, None, &["third"]);
    assert_ne!(number(&driver, &third), old);
    ready(&driver);
    assert_eq!(spare(&driver).unwrap().size, 480 << 20);
    let mut expected = [first, second, third].map(|id| (id, LayerState::Committed));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(listed(&driver), expected);
    drop(driver);
    assert_eq!(active(&home), [""; 0]);
}

#[test]
fn vm_devicemapper_a_spare_that_is_not_whole_becomes_no_layer() {
    let test = "vm_devicemapper_a_spare_that_is_not_whole_becomes_no_layer";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = small(&home, &["dm.fs=xfs"]);
    let unfit = ready(&driver);
    let target = disk.path().join("target");
    std::fs::create_dir(&target).unwrap();
    let mut plan = driver.look_into("spare", &target).unwrap();
    plan.mounts[0].options.retain(|option| option != "ro");
    let seen = Mounted::new(plan).unwrap();
    // As xfs does when it cannot write its log.
    let mut shutdown = Command::new("xfs_io");
    let done = shutdown.args(["-x", "-c", "shutdown"]).arg(&target).output().unwrap();
    assert!(done.status.success(), "{done:?}");
    drop(seen);
    let own = layer(&driver, None, &["own"]);
    assert_ne!(number(&driver, &own), unfit);
    assert_eq!(content(&driver, &own), same(&["own"]));
    assert_eq!(ready(&driver), unfit, "mounted once more, it works");
    let next = layer(&driver, None, &["next"]);
    assert_eq!(number(&driver, &next), unfit);
    assert_eq!(content(&driver, &next), same(&["next"]));
    // One that no record knows any more is none either.
    let unknown = ready(&driver);
    std::fs::remove_file(home.join("metadata/.berth-spare")).unwrap();
    let last = layer(&driver, None, &["last"]);
    assert_ne!(number(&driver, &last), unknown);
}

#[test]
fn vm_devicemapper_a_stop_around_a_spare_is_undone() {
    if !testkit::in_vm("vm_devicemapper_a_stop_around_a_spare_is_undone") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    for at in ["dm.spare.made", "dm.spare.turned"] {
        stop(&home, at, "spare:");
        let driver = small(&home, &[]);
        driver.recover(&|_| false).unwrap();
        let left = listed(&driver);
        assert_eq!(left.len(), usize::from(at == "dm.spare.turned"), "{at}");
        for (id, state) in left {
            assert_eq!((content(&driver, &id), state), (Vec::new(), LayerState::Active), "{at}");
            driver.remove(&id).unwrap();
        }
        driver.reap().unwrap();
        drop(driver);
        let made = take(&home);
        let driver = small(&home, &[]);
        driver.recover(&|_| false).unwrap();
        assert_eq!(content(&driver, &made), same(&["own"]), "{at}");
        driver.remove(&made).unwrap();
        driver.reap().unwrap();
        drop(driver);
        assert_eq!(active(&home), [""; 0], "{at}");
        let files = std::fs::read_dir(home.join("metadata")).unwrap().count();
        assert!(files <= 4, "{at}: {files} files");
    }
}
