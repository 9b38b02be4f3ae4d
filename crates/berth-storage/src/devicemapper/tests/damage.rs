//! Pools that are full, lost, old or somebody else's.

use std::fs::{self, File};
use std::io::Write as _;

use berth_types::LayerId;

use super::super::records::{Records, Role};
use super::{Devicemapper, active, disk, opts, small};
use crate::suite::{content, layer, listed, rw, same};
use crate::{
    Access, CreateOptions, Mounted, StorageDriver as _, StorageError, ThinDevices as _,
    ThinPool as _,
};

fn refused(opened: Result<Devicemapper, StorageError>) -> String {
    berth_types::kind::chain(&opened.expect_err("it must not open"))
}

#[test]
fn vm_devicemapper_lost_and_foreign_pools_are_refused_and_nothing_is_made_anew() {
    let test = "vm_devicemapper_lost_and_foreign_pools_are_refused_and_nothing_is_made_anew";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let files = home.join("devicemapper");
    let base = layer(&small(&home, &[]), None, &["a"]);
    for what in ["data", "metadata"] {
        let (file, away) = (files.join(what), files.join("away"));
        fs::rename(&file, &away).unwrap();
        let text = format!("{what} loopback file {} not found", file.display());
        assert_eq!(refused(Devicemapper::open(&home, &[])), text);
        assert!(file.metadata().is_err(), "nothing is made in its place");
        fs::rename(&away, &file).unwrap();
    }
    // The pool as it was some changes ago.
    fs::copy(files.join("metadata"), files.join("older")).unwrap();
    let driver = small(&home, &[]);
    layer(&driver, Some(&base), &["b"]);
    layer(&driver, Some(&base), &["c"]);
    drop(driver);
    fs::rename(files.join("metadata"), files.join("newer")).unwrap();
    fs::rename(files.join("older"), files.join("metadata")).unwrap();
    let text = refused(Devicemapper::open(&home, &[]));
    assert!(text.contains("it is an older or another pool"), "{text}");
    fs::rename(files.join("newer"), files.join("metadata")).unwrap();
    // Another base device than the one on record.
    let records = Records::open(&home).unwrap();
    let set = records.set().unwrap();
    let other = super::super::records::DeviceSet { uuid: "x".to_owned(), ..set.clone() };
    records.set_set(&other).unwrap();
    let text = refused(Devicemapper::open(&home, &[]));
    let expected = format!(
        "devmapper: Base Device UUID and Filesystem verification failed: devmapper: Current Base \
         Device UUID:{} does not match with stored UUID:x. Possibly using a different thin pool \
         than last invocation",
        set.uuid
    );
    assert_eq!(text, expected);
    records.set_set(&set).unwrap();
    let text = refused(Devicemapper::open(&home, &opts(&["dm.thinpooldev=nosuch"])));
    assert_eq!(text, "devmapper: Non existing device nosuch");
    let driver = small(&home, &[]);
    assert_eq!(listed(&driver).len(), 3);
    assert_eq!(content(&driver, &base), same(&["a"]));
    let file = records.dir().join(base.as_str());
    let kept = fs::read(&file).unwrap();
    File::create(&file).unwrap();
    let text = driver.prepare(&base, Access::Read).unwrap_err().to_string();
    assert_eq!(text, format!("{} is damaged", file.display()));
    berth_fs::atomic::write(&file, &kept).unwrap();
}

#[test]
fn vm_devicemapper_a_nearly_full_pool_takes_no_layers() {
    if !testkit::in_vm("vm_devicemapper_a_nearly_full_pool_takes_no_layers") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = small(&home, &["dm.min_free_space=99%"]);
    let error = driver.create(&LayerId::random(), None, &CreateOptions::default()).unwrap_err();
    let text = error.to_string();
    let (begin, end) = (
        "devmapper: Thin Pool has ",
        " free data blocks which is less than minimum required 48660 free data blocks. Create \
         more free space in thin pool or use dm.min_free_space option to change behavior",
    );
    assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
    assert_eq!(listed(&driver), []);
    drop(driver);
    let driver = small(&home, &["dm.min_free_space=0%"]);
    let base = layer(&driver, None, &["a"]);
    let scarce = ["dm.fs=ext4", "dm.loopmetadatasize=2M", "dm.min_free_space=97%"];
    let other = small(&disk.path().join("scarce"), &scarce);
    let error = other.create(&LayerId::random(), None, &CreateOptions::default()).unwrap_err();
    let text = error.to_string();
    let end = " free metadata blocks. Create more free metadata space in thin pool or use \
               dm.min_free_space option to change behavior";
    assert!(text.starts_with(begin) && text.ends_with(end), "{text}");
    assert_eq!(content(&driver, &base), same(&["a"]));
}

#[test]
fn vm_devicemapper_a_layer_in_use_is_deleted_when_it_no_longer_is() {
    if !testkit::in_vm("vm_devicemapper_a_layer_in_use_is_deleted_when_it_no_longer_is") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = small(&home, &[]);
    let base = layer(&driver, None, &["a"]);
    let used = LayerId::random();
    driver.create(&used, Some(&base), &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&used, Access::Write).unwrap()).unwrap();
    let mut open = File::create(mounted.root().join("open")).unwrap();
    driver.remove(&used).unwrap();
    driver.reap().unwrap();
    let is_count = |(key, _): &(String, String)| key == "Deferred Deleted Device Count";
    let count = |driver: &Devicemapper| driver.status().into_iter().find(is_count).unwrap().1;
    assert_eq!(count(&driver), "1");
    open.write_all(b"still there").unwrap();
    // The id lives again beside it.
    driver.create(&used, Some(&base), &rw()).unwrap();
    assert_eq!(content(&driver, &used), same(&["a"]));
    drop((open, mounted));
    // Nobody asks for it: it was in use when it was asked for.
    while count(&driver) != "0" {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
    assert_eq!(content(&driver, &used), same(&["a"]));
    let trash = Records::open(&home).unwrap().roles().unwrap();
    assert!(!trash.iter().any(|role| matches!(role, Role::Removing(..))), "{trash:?}");
}

#[test]
fn vm_devicemapper_a_device_that_is_held_at_the_end_goes_with_its_holder() {
    let test = "vm_devicemapper_a_device_that_is_held_at_the_end_goes_with_its_holder";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = small(&home, &[]);
    let base = layer(&driver, None, &["a"]);
    let name = driver.device(base.as_str()).unwrap().name;
    let hold = || File::open(berth_sys::dm::path(&name)).unwrap();
    let holder = hold();
    drop(driver);
    assert!(active(&home).contains(&name), "somebody uses it");
    // The next process takes it as it is, and keeps it.
    let driver = small(&home, &[]);
    assert_eq!(content(&driver, &base), same(&["a"]));
    drop(holder);
    assert_eq!(driver.device(base.as_str()).unwrap().open_count, Some(0));
    let holder = hold();
    drop(driver);
    drop(holder);
    // The kernel does it by a thread of its own.
    let begun = std::time::Instant::now();
    while active(&home).contains(&name) {
        assert!(begun.elapsed().as_secs() < 30, "nobody uses it any more");
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    drop(small(&home, &[]));
    assert_eq!(active(&home), [""; 0]);
}

#[test]
fn vm_devicemapper_a_full_pool_fails_writes_and_is_emptied_by_removals() {
    let test = "vm_devicemapper_a_full_pool_fails_writes_and_is_emptied_by_removals";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let more = ["dm.loopdatasize=128M", "dm.fs=ext4", "dm.mountopt=errors=remount-ro"];
    let driver = small(&home, &more);
    // Else writes wait for a minute.
    let knob = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
    fs::File::options().write(true).open(knob).unwrap().write_all(b"1").unwrap();
    let base = layer(&driver, None, &["kept"]);
    driver.sync().unwrap();
    let greedy = LayerId::random();
    driver.create(&greedy, Some(&base), &rw()).unwrap();
    {
        let plan = driver.prepare(&greedy, Access::Write).unwrap();
        let mounted = Mounted::new(plan).unwrap();
        let mut file = File::create(mounted.root().join("big")).unwrap();
        let written = file.write_all(&vec![1; 200 << 20]).and_then(|()| file.sync_all());
        written.expect_err("more than there is");
    }
    let error = driver.create(&LayerId::random(), Some(&base), &rw()).unwrap_err().to_string();
    assert!(error.starts_with("devmapper: Thin Pool has 0 free data blocks"), "{error}");
    assert_eq!(content(&driver, &base), same(&["kept"]), "what was there is read");
    drop(driver);
    let driver = small(&home, &more);
    driver.recover(&|_| false).unwrap();
    driver.remove(&greedy).unwrap();
    driver.reap().unwrap();
    let next = layer(&driver, Some(&base), &["next"]);
    assert_eq!(content(&driver, &next), same(&["kept", "next"]));
}

#[test]
fn vm_devicemapper_full_metadata_fail_changes_and_are_emptied_by_removals() {
    let test = "vm_devicemapper_full_metadata_fail_changes_and_are_emptied_by_removals";
    if !testkit::in_vm(test) {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let more = ["dm.basesize=64M", "dm.fs=ext4", "dm.min_free_space=0%", "dm.loopdatasize=256M"];
    let with = |size| small(&home, &[&more[..], &[size]].concat());
    let driver = with("dm.loopmetadatasize=2M");
    let pool = driver.set.pool.name.clone();
    let base = layer(&driver, None, &["kept"]);
    let greedy = LayerId::random();
    driver.create(&greedy, Some(&base), &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&greedy, Access::Write).unwrap()).unwrap();
    let mut file = File::create(mounted.root().join("big")).unwrap();
    file.write_all(&vec![1; 30 << 20]).and_then(|()| file.sync_all()).unwrap();
    driver.sync().unwrap();
    let fill = |driver: &Devicemapper, first: u32| {
        let mut free = first..;
        let mut made =
            || driver.set.mapper.message(&pool, &format!("create_thin {}", free.next()?)).ok();
        while made().is_some() {}
    };
    fill(&driver, 1000);
    let full = format!(
        "devmapper: thin pool {pool} has no free metadata blocks: remove containers or images, or \
         make its metadata larger (berth storage extend)"
    );
    let create = |driver: &Devicemapper| driver.create(&LayerId::random(), Some(&base), &rw());
    assert_eq!(create(&driver).unwrap_err().to_string(), full);
    let written = file.write_all(&vec![1; 4 << 20]).and_then(|()| file.sync_all());
    written.expect_err("new blocks cannot be recorded");
    drop((file, mounted));
    assert_eq!(content(&driver, &base), same(&["kept"]), "what was there is read");
    driver.remove(&greedy).unwrap();
    driver.reap().unwrap();
    let next = layer(&driver, Some(&base), &["next"]);
    fill(&driver, 2000);
    driver.grow(None, Some(3 << 20)).unwrap();
    create(&driver).unwrap();
    // Once more, over a start.
    fill(&driver, 3000);
    assert_eq!(create(&driver).unwrap_err().to_string(), full);
    drop(driver);
    let driver = with("dm.loopmetadatasize=4M");
    driver.recover(&|_| false).unwrap();
    create(&driver).unwrap();
    assert_eq!(content(&driver, &next), same(&["kept", "next"]));
}
