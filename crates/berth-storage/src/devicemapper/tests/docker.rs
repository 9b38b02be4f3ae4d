//! What an administrator who knows Docker's driver finds.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_fs::atomic;
use berth_sys::dm::{self, Control};
use berth_types::LayerId;

use super::super::driver::check_udev;
use super::super::options::Options;
use super::super::records::Role;
use super::{Devicemapper, active, disk, opts, small, try_small};
use crate::suite::{content, layer, rw, same, write};
use crate::{Access, CreateOptions, Mounted, StorageDriver as _};

fn sized(size: &str) -> CreateOptions {
    let storage_opt = [("size".to_owned(), size.to_owned())].into();
    CreateOptions { storage_opt, ..rw() }
}

fn text(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap()
}

#[test]
fn udev_that_cannot_be_waited_for_is_refused_unless_overridden() {
    let options = |words: &[&str]| Options::parse(&opts(words)).unwrap();
    let refused = check_udev(false, &options(&[])).unwrap_err();
    assert_eq!(refused.to_string(), "driver not supported");
    assert!(refused.is_not_supported());
    check_udev(true, &options(&[])).unwrap();
    check_udev(false, &options(&["dm.override_udev_sync_check=true"])).unwrap();
}

#[test]
fn vm_devicemapper_files_devices_and_status_are_dockers() {
    if !testkit::in_vm("vm_devicemapper_files_devices_and_status_are_dockers") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = Devicemapper::open(&home, &opts(&["dm.basesize=1G"])).unwrap();
    let meta = home.metadata().unwrap();
    let (major, minor) = (rustix::fs::major(meta.dev()), rustix::fs::minor(meta.dev()));
    let prefix = format!("docker-{major}:{minor}-{}", meta.ino());
    let pool = format!("{prefix}-pool");
    let mut status = driver.status();
    status.retain(|(key, _)| key != "Thin Pool Full In");
    #[rustfmt::skip]
    let expected = [
        ("Pool Name", pool.as_str()), ("Pool Blocksize", "65.54kB"), ("Base Device Size", "1.074GB"),
        ("Backing Filesystem", "xfs"), ("Udev Sync Supported", "true"),
        ("Data file", "/dev/loop"), ("Metadata file", "/dev/loop"),
        ("Data loop file", home.to_str().unwrap()), ("Metadata loop file", home.to_str().unwrap()),
        ("Data Space Used", ""), ("Data Space Total", "107.4GB"), ("Data Space Available", ""),
        ("Metadata Space Used", ""), ("Metadata Space Total", "2.147GB"), ("Metadata Space Available", ""),
        ("Thin Pool Minimum Free Space", "10.74GB"), ("Deferred Removal Enabled", "true"),
        ("Deferred Deletion Enabled", "true"), ("Deferred Deleted Device Count", "0"),
        ("Thin Pool Level", "normal"),
    ];
    assert_eq!(status.len(), expected.len(), "{status:?}");
    for ((key, value), (wanted, begin)) in status.iter().zip(expected) {
        assert!(key == wanted && value.starts_with(begin), "{key}: {value}");
    }
    let control = Control::open().unwrap();
    let table = &control.table(&pool).unwrap()[0];
    assert_eq!((table.target.as_str(), table.length), ("thin-pool", 209_715_200));
    assert!(table.params.trim().ends_with(" 128 32768 1 skip_block_zeroing"), "{}", table.params);
    assert!(control.info(&format!("{prefix}-base")).unwrap().is_none(), "at rest");

    let base = layer(&driver, None, &["a"]);
    let top = LayerId::random();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let metadata = home.join("metadata");
    assert_eq!(
        text(metadata.join("base")),
        r#"{"device_id":1,"size":1073741824,"transaction_id":1,"initialized":true,"deleted":false}"#
    );
    assert_eq!(
        text(metadata.join(top.as_str())),
        r#"{"device_id":3,"size":1073741824,"transaction_id":3,"initialized":false,"deleted":false}"#
    );
    assert_eq!(
        text(metadata.join("transaction-metadata")),
        format!(r#"{{"open_transaction_id":3,"device_hash":"{top}","device_id":3}}"#)
    );
    let data = driver.metadata(&top).unwrap().unwrap();
    let expected = [
        ("DeviceId", "3".to_owned()),
        ("DeviceName", format!("{prefix}-{top}")),
        ("DeviceSize", "1073741824".to_owned()),
    ];
    assert_eq!(data, expected.map(|(key, value)| (key.to_owned(), value)).into());
    {
        let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
        assert_eq!(mounted.root(), home.join("mnt").join(top.as_str()));
        let mounts = text("/proc/self/mountinfo");
        let line = mounts.lines().find(|line| line.contains(top.as_str())).unwrap();
        let source = format!(" - xfs /dev/mapper/{prefix}-{top} ");
        assert!(line.contains(&source) && line.contains(" /rootfs /"), "{line}");
        assert!(line.contains(",nouuid,"), "{line}");
    }
    driver.release(&top).unwrap();
    let points = home.join("mnt");
    assert_eq!(fs::read_dir(points.join(top.as_str())).unwrap().count(), 0, "empty, and it stays");
    fs::remove_dir(points.join(top.as_str())).unwrap();
    fs::create_dir(points.join("f".repeat(64))).unwrap();
    driver.recover(&|_| false).unwrap();
    let mut names: Vec<_> =
        fs::read_dir(&points).unwrap().map(|e| e.unwrap().file_name()).collect();
    names.sort();
    let layers = driver.list().unwrap();
    let mut expected: Vec<_> = layers.iter().map(|(id, _)| id.as_str()).collect();
    expected.sort_unstable();
    assert_eq!(names, expected, "each layer has one, made again where it was lost");
    for file in ["data", "metadata"] {
        let meta = home.join("devicemapper").join(file).metadata().unwrap();
        assert_eq!(meta.mode() & 0o7777, 0o600);
        assert!(meta.blocks() * 512 < meta.len() / 4, "{file} is sparse");
    }
    drop(driver);
    assert!(control.info(&pool).unwrap().is_none(), "the pool goes with its driver");
    assert_eq!(active(&home), [""; 0], "and its devices");
    let driver = Devicemapper::open(&home, &[]).unwrap();
    let kept = text(metadata.join("deviceset-metadata"));
    assert!(kept.starts_with(r#"{"next_device_id":3,"BaseDeviceUUID":""#), "{kept}");
    assert_eq!(content(&driver, &top), same(&["a"]));
}

#[test]
fn vm_devicemapper_layers_begin_on_a_base_device_as_docker_makes_it() {
    if !testkit::in_vm("vm_devicemapper_layers_begin_on_a_base_device_as_docker_makes_it") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let driver = small(&home, &[]);
    let set = &driver.set;
    let base = set.device(&Role::Base).unwrap().unwrap();
    set.activate(&Role::Base, &base).unwrap();
    let name = set.name(&Role::Base, &base);
    let empty = |top: &Path| {
        fs::remove_dir(top.join("rootfs")).unwrap();
        fs::remove_file(top.join("id")).unwrap();
    };
    set.look_in(&dm::path(&name), |_, _, top| {
        empty(top);
        Ok(())
    })
    .unwrap();
    set.deactivate(&name).unwrap();
    drop(driver);
    for mark in [None, Some(&b"of another"[..]), Some(&b"\xff\xfe"[..])] {
        match mark {
            None => fs::remove_file(home.join(".berth-base")).unwrap(),
            Some(mark) => atomic::write(&home.join(".berth-base"), mark).unwrap(),
        }
        let driver = small(&home, &[]);
        let bottom = layer(&driver, None, &["a"]);
        let top = layer(&driver, Some(&bottom), &["b"]);
        assert_eq!(content(&driver, &top), same(&["a", "b"]));
    }
}

#[test]
fn vm_devicemapper_sizes_grow_and_never_shrink() {
    if !testkit::in_vm("vm_devicemapper_sizes_grow_and_never_shrink") {
        return;
    }
    let disk = disk();
    let both = ["dm.fs=xfs", "dm.fs=ext4"];
    for &fs in if testkit::is_soak() { &both[..] } else { &both[..1] } {
        let home = disk.path().join(fs);
        let driver = small(&home, &[fs]);
        let old = layer(&driver, None, &["old"]);
        let room = |driver: &Devicemapper, id: &LayerId| {
            let plan = driver.prepare(id, Access::Read).unwrap();
            let mounted = Mounted::new(plan).unwrap();
            let info = rustix::fs::statvfs(mounted.root()).unwrap();
            (info.f_blocks * info.f_frsize) >> 20
        };
        let error = driver.create(&LayerId::random(), Some(&old), &sized("100M")).unwrap_err();
        let least = "devmapper: Container size cannot be smaller than 419.4MB";
        assert_eq!(error.to_string(), least);
        let big = LayerId::random();
        driver.create(&big, Some(&old), &sized("600M")).unwrap();
        write(&driver, &big, &["new"]);
        assert_eq!(content(&driver, &big), same(&["new", "old"]));
        assert!(room(&driver, &big) > 450, "{fs}: {}", room(&driver, &big));
        assert!(room(&driver, &old) < 400, "{fs}: {}", room(&driver, &old));
        drop(driver);
        let smaller = try_small(&home, &["dm.basesize=300M"]).unwrap_err();
        let text = "devmapper: Base device size cannot be smaller than 419.4MB";
        assert_eq!(smaller.to_string(), text);
        for _ in 0..2 {
            let driver = small(&home, &["dm.basesize=700M"]);
            let new = layer(&driver, None, &["x"]);
            assert!(room(&driver, &new) > 500, "{fs}: {}", room(&driver, &new));
            assert!(room(&driver, &old) < 400, "{fs}: {}", room(&driver, &old));
        }
        let driver = small(&home, &["dm.basesize=700M", "dm.loopdatasize=5G"]);
        let status = driver.status();
        let total = status.iter().find(|(key, _)| key == "Data Space Total").unwrap();
        assert_eq!(total.1, "5.369GB");
    }
}

#[test]
fn vm_devicemapper_options_reach_mounts_and_devices() {
    if !testkit::in_vm("vm_devicemapper_options_reach_mounts_and_devices") {
        return;
    }
    let disk = disk();
    let home = disk.path().join("devicemapper");
    let more = [
        "dm.mountopt=noatime,nodiscard",
        "dm.mkfsarg=-n",
        "dm.mkfsarg=size=8192",
        "dm.xfs_nospace_max_retries=3",
        "dm.blocksize=128K",
        "dm.use_deferred_deletion=false",
    ];
    let driver = small(&home, &more);
    let base = layer(&driver, None, &["a"]);
    let plan = driver.prepare(&base, Access::Read).unwrap();
    let mounted = Mounted::new(plan).unwrap();
    let mounts = text("/proc/self/mounts");
    let line = mounts.lines().find(|line| line.contains(base.as_str())).unwrap();
    assert!(line.contains(" ro,noatime,"), "{line}");
    let node = berth_sys::dm::path(&driver.metadata(&base).unwrap().unwrap()["DeviceName"]);
    let minor = rustix::fs::minor(node.metadata().unwrap().rdev());
    let knob = format!("/sys/fs/xfs/dm-{minor}/error/metadata/ENOSPC/max_retries");
    assert_eq!(text(knob).trim(), "3");
    let status = driver.status();
    assert!(status.contains(&("Pool Blocksize".to_owned(), "131.1kB".to_owned())));
    assert!(status.contains(&("Deferred Deletion Enabled".to_owned(), "false".to_owned())));
    drop(mounted);
    driver.release(&base).unwrap();
    driver.remove(&base).unwrap();
    driver.reap().unwrap();
}
