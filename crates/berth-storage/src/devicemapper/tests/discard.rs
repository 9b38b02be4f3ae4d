//! Blocks of deleted files go back to the pool.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use berth_types::LayerId;

use super::{Devicemapper, disk, opts};
use crate::suite::{layer, rw};
use crate::{Access, Mounted, StorageDriver as _, ThinPool as _};

const MIB: u64 = 1 << 20;
const FILE: u64 = 24 * MIB;

/// Makes all that was written count: what a file system does not need any more is known to it when
/// its journal is written.
fn settle(driver: &Devicemapper, root: &Path) {
    rustix::fs::syncfs(File::open(root).unwrap()).unwrap();
    driver.sync().unwrap();
}

#[test]
fn vm_devicemapper_deleted_files_give_their_blocks_back_where_that_is_asked_for() {
    let test = "vm_devicemapper_deleted_files_give_their_blocks_back_where_that_is_asked_for";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    #[rustfmt::skip]
    let table = [
        ("never",   "noatime", false),
        ("discard", "discard", true),
    ];
    for (name, option, at_once) in table {
        let home = disk.path().join(name);
        let options = opts(&[
            "dm.fs=ext4",
            "dm.basesize=128M",
            "dm.loopdatasize=128M",
            "dm.loopmetadatasize=4M",
            &format!("dm.mountopt={option}"),
        ]);
        let driver = Devicemapper::open(&home, &options).unwrap();
        let base = layer(&driver, None, &["kept"]);
        let id = LayerId::random();
        driver.create(&id, Some(&base), &rw()).unwrap();
        let mounted = Mounted::new(driver.prepare(&id, Access::Write).unwrap()).unwrap();
        let used = || {
            settle(&driver, mounted.root());
            driver.usage().unwrap().data.used
        };
        let before = used();
        let big = mounted.root().join("big");
        let mut file = File::create(&big).unwrap();
        file.write_all(&vec![1; usize::try_from(FILE).unwrap()]).unwrap();
        drop(file);
        let full = used();
        assert!(full >= before + FILE, "{name}: {before} {full}");
        std::fs::remove_file(&big).unwrap();
        let are_back = || used() < full - FILE / 2;
        // The file system's own thread gives them back.
        let until = Instant::now() + Duration::from_secs(30);
        while at_once && !are_back() && Instant::now() < until {
            std::thread::sleep(Duration::from_millis(100));
        }
        assert_eq!(are_back(), at_once, "{name}: {before} {full} {}", used());
        // By hand it goes everywhere.
        let trim = Command::new("fstrim").arg(mounted.root()).output().unwrap();
        assert!(trim.status.success(), "{trim:?}");
        assert!(are_back(), "{name}: {before} {full} {}", used());
        drop(mounted);
        driver.close().unwrap();
    }
}
