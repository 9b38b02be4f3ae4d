//! Pools that fill: who is told, and what is refused.

use std::fs::File;
use std::io::Write as _;
use std::sync::mpsc;
use std::time::Duration;

use berth_types::LayerId;

use super::{Devicemapper, disk, opts};
use crate::suite::{content, layer, rw, same};
use crate::{Access, Level, Mounted, StorageDriver as _, ThinPool as _};

#[test]
fn vm_devicemapper_levels_are_told_as_the_pool_fills_and_empties() {
    let test = "vm_devicemapper_levels_are_told_as_the_pool_fills_and_empties";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let options = opts(&[
        "dm.fs=ext4",
        "dm.basesize=128M",
        "dm.loopdatasize=64M",
        "dm.loopmetadatasize=4M",
        "dm.berth_warn_level=50%",
        "dm.berth_stop_level=75%",
        "dm.berth_when_full=error",
    ]);
    let driver = Devicemapper::open(&home, &options).unwrap();
    let pool = driver.set.pool.name.clone();
    let table = driver.set.mapper.table(&pool).unwrap();
    assert!(
        table[0].params.trim().ends_with(" 2 skip_block_zeroing error_if_no_space"),
        "{table:?}"
    );
    let (sender, told) = mpsc::channel();
    driver.on_change(Box::new(move |usage| sender.send(usage.level).unwrap_or_default()));
    let base = layer(&driver, None, &["kept"]);
    let greedy = LayerId::random();
    driver.create(&greedy, Some(&base), &rw()).unwrap();
    driver.sync().unwrap();
    assert_eq!(driver.usage().unwrap().level, Level::Normal);
    let mounted = Mounted::new(driver.prepare(&greedy, Access::Write).unwrap()).unwrap();
    let mut file = File::create(mounted.root().join("big")).unwrap();
    let mut write =
        |mebibytes: usize| file.write_all(&vec![1; mebibytes << 20]).and_then(|()| file.sync_all());
    write(28).unwrap();
    assert_eq!(driver.usage().unwrap().level, Level::Warning);
    driver.check_room().unwrap();
    write(12).unwrap();
    let usage = driver.usage().unwrap();
    assert_eq!(usage.level, Level::Stop, "{usage:?}");
    let percent = usage.data.permille() / 10;
    let expected = format!(
        "devmapper: thin pool {pool} is nearly full: {percent}% of the room for its data is in use, \
         and from 75% on it takes no new images or containers (dm.berth_stop_level); remove \
         containers or images (berth container prune, berth rmi), or make the pool larger (berth \
         storage extend)"
    );
    let refused = driver.create(&LayerId::random(), Some(&base), &rw()).unwrap_err();
    assert_eq!(refused.to_string(), expected);
    assert_eq!(driver.check_room().unwrap_err().to_string(), expected);
    write(40).expect_err("more than there is, and nobody waits");
    // Nobody looks: the kernel says so.
    let patience = Duration::from_mins(2);
    let mut levels = Vec::new();
    while levels.last() != Some(&Level::Full) {
        levels.push(told.recv_timeout(patience).unwrap());
    }
    assert_eq!(levels, [Level::Warning, Level::Stop, Level::Full]);
    drop((file, mounted));
    driver.remove(&greedy).unwrap();
    driver.reap().unwrap();
    assert_eq!(driver.usage().unwrap().level, Level::Normal);
    let next = layer(&driver, Some(&base), &["next"]);
    assert_eq!(content(&driver, &next), same(&["kept", "next"]));
    let mut last = Level::Full;
    while last != Level::Normal {
        last = told.recv_timeout(patience).unwrap();
    }
}
