//! Pools that are made larger while they are in use.

use std::fs::File;
use std::io::Write as _;

use berth_types::LayerId;

use super::{Devicemapper, disk, opts};
use crate::suite::{content, layer, rw, same};
use crate::{Access, Level, Mounted, StorageDriver as _, ThinPool as _};

const MIB: u64 = 1 << 20;

#[test]
fn vm_devicemapper_a_full_pool_on_files_is_recovered_by_making_it_larger() {
    let test = "vm_devicemapper_a_full_pool_on_files_is_recovered_by_making_it_larger";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let options = opts(&[
        "dm.fs=ext4",
        "dm.basesize=128M",
        "dm.loopdatasize=32M",
        "dm.loopmetadatasize=4M",
        "dm.berth_when_full=error",
    ]);
    let driver = Devicemapper::open(&home, &options).unwrap();
    let base = layer(&driver, None, &["kept"]);
    driver.sync().unwrap();
    let greedy = LayerId::random();
    driver.create(&greedy, Some(&base), &rw()).unwrap();
    let fill = |name| {
        let plan = driver.prepare(&greedy, Access::Write).unwrap();
        let mounted = Mounted::new(plan).unwrap();
        File::create(mounted.root().join(name))
            .and_then(|mut file| file.write_all(&vec![1; 30 << 20]).and_then(|()| file.sync_all()))
    };
    fill("first").expect_err("more than there is");
    assert_eq!(driver.usage().unwrap().level, Level::Full);
    for (data, metadata) in [(Some(16 * MIB), None), (Some(64 * MIB), Some(2 * MIB))] {
        let error = driver.grow(data, metadata).unwrap_err().to_string();
        assert_eq!(error, "devmapper: Can't shrink file");
        assert_eq!(driver.usage().unwrap().data.total, 32 * MIB, "all or nothing");
    }
    let error = driver.extend(disk.device(), false).unwrap_err().to_string();
    assert!(error.contains("berth storage extend --size"), "{error}");
    driver.grow(Some(64 * MIB), Some(8 * MIB)).unwrap();
    let usage = driver.usage().unwrap();
    assert_eq!((usage.data.total, usage.metadata.total), (64 * MIB, 8 * MIB));
    assert!(usage.level < Level::Full, "{usage:?}");
    driver.remove(&greedy).unwrap();
    driver.reap().unwrap();
    // By hand: the file alone is enough.
    let file = home.join("devicemapper/data");
    File::options().write(true).open(&file).and_then(|file| file.set_len(96 * MIB)).unwrap();
    let status = driver.status();
    let total = status.iter().find(|(key, _)| key == "Data Space Total").unwrap();
    assert_eq!(total.1, "100.7MB");
    let next = layer(&driver, Some(&base), &["next"]);
    assert_eq!(content(&driver, &next), same(&["kept", "next"]));
    drop(driver);
    let driver = Devicemapper::open(&home, &options).unwrap();
    assert_eq!(driver.usage().unwrap().data.total, 96 * MIB, "it stays so");
    assert_eq!(content(&driver, &next), same(&["kept", "next"]));
}
