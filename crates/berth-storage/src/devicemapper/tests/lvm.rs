//! Direct-lvm: pools on whole disks, by hand and by the driver.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::Path;
use std::process::Command;

use berth_sys::loopdev::LoopDevice;
use testkit::disk::Disk;

use super::crash::stop;
use super::{Devicemapper, opts};
use crate::suite::{content, layer, same};
use crate::{Level, StorageDriver as _, StorageError, ThinPool as _};

fn lvm(words: &[&str]) {
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).env("DM_DISABLE_UDEV", "1");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{words:?}: {output:?}");
}

/// Takes everything off a disk.
fn wipe(disk: &Path) {
    let file = File::options().write(true).open(disk).unwrap();
    let end = berth_sys::block::size(&file).unwrap() - (4 << 20);
    for at in [0, end] {
        file.write_all_at(&vec![0; 4 << 20], at).unwrap();
    }
    file.sync_all().unwrap();
}

fn head(disk: &Path) -> Vec<u8> {
    let mut bytes = vec![0; 1 << 20];
    File::open(disk).unwrap().read_exact(&mut bytes).unwrap();
    bytes
}

#[test]
fn vm_devicemapper_direct_lvm_is_made_on_an_empty_disk_alone() {
    let test = "vm_devicemapper_direct_lvm_is_made_on_an_empty_disk_alone";
    if !testkit::in_vm(test) {
        return;
    }
    if !testkit::has_program("lvcreate") || !testkit::has_program("thin_check") {
        return testkit::skip(test, "lvm2 and thin-provisioning-tools");
    }
    let disk = Disk::take();
    let path = disk.path().to_owned();
    let name = path.display().to_string();
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("devicemapper");
    let device = format!("dm.directlvm_device={name}");
    let open = |more: &[&str]| Devicemapper::open(&home, &opts(&[&[&*device], more].concat()));
    let refused = |opened: Result<Devicemapper, StorageError>| opened.unwrap_err().to_string();

    wipe(&path);
    let disk = disk.format("ext4", &[]);
    let before = head(&path);
    let has_fs = format!(
        "{name} has a filesystem already, use dm.directlvm_device_force=true if you want to wipe \
         the device"
    );
    assert_eq!(refused(open(&[])), has_fs);
    assert!(head(&path) == before, "it is as it was");
    let not_available = format!("{name} is not available for use with devicemapper");
    let mounted = disk.mount("ext4", "");
    assert_eq!(refused(open(&["dm.directlvm_device_force=true"])), not_available, "mounted");
    let _disk = mounted.unmount();
    assert_eq!(
        refused(Devicemapper::open(&home, &opts(&["dm.directlvm_device=/dev/nosuch"]))),
        "/dev/nosuch is not available for use with devicemapper"
    );
    wipe(&path);
    let mut file = File::options().write(true).open(&path).unwrap();
    file.write_all(b"precious").and_then(|()| file.sync_all()).unwrap();
    drop(file);
    assert!(refused(open(&[])).contains("is not empty"));
    lvm(&["pvcreate", "-f", &name]);
    lvm(&["vgcreate", "tank", &name]);
    let in_group = format!(
        "{name} is already part of a volume group \"tank\": must remove this device from any \
         volume group or provide a different device"
    );
    assert_eq!(refused(open(&["dm.directlvm_device_force=true"])), in_group);
    lvm(&["vgremove", "-f", "tank"]);
    lvm(&["pvremove", "-f", &name]);
    wipe(&path);

    // Stopped in the middle, once; and without the room that was asked for.
    fs::create_dir_all(&home).unwrap();
    stop(&home, "dm.lvm.begun", &format!("open:{device}"));
    let saved = home.join("setup-config.json");
    assert!(saved.symlink_metadata().is_err());
    let text =
        refused(open(&["dm.thinp_percent=99", "dm.thinp_metapercent=1", "dm.basesize=300M"]));
    assert!(text.ends_with(": exit status 5"), "{text}");
    assert!(home.join(".berth-setup").symlink_metadata().is_err());
    let driver = open(&["dm.basesize=300M", "dm.directlvm_device_force=true"]).unwrap();
    let status = driver.status();
    let value = |key: &str| status.iter().find(|(k, _)| k == key).map(|(_, value)| &**value);
    assert_eq!(value("Pool Name"), Some("docker-thinpool"));
    assert_eq!(value("Pool Blocksize"), Some("524.3kB"));
    assert_eq!((value("Data file"), value("Data loop file")), (None, None));
    let config = format!(
        r#"{{"Device":"{name}","ThinpPercent":0,"ThinpMetaPercent":0,"AutoExtendPercent":0,"AutoExtendThreshold":0}}"#
    );
    assert_eq!(fs::read_to_string(&saved).unwrap(), config);
    let profile = fs::read_to_string("/etc/lvm/profile/docker-thinpool.profile").unwrap();
    assert_eq!(
        profile,
        "activation{\nthin_pool_autoextend_threshold=80\nthin_pool_autoextend_percent=20\n}"
    );
    let base = layer(&driver, None, &["a"]);
    let second = extends(&driver, dir.path());
    drop(driver);
    let changed = refused(open(&["dm.thinp_autoextend_percent=30"]));
    assert_eq!(changed, "changing direct-lvm config is not supported");
    let by_hand = |home: &Path| {
        Devicemapper::open(home, &opts(&["dm.thinpooldev=/dev/mapper/docker-thinpool"]))
    };
    let used = refused(by_hand(&dir.path().join("other")));
    assert_eq!(
        used,
        "devmapper: Unable to take ownership of thin-pool (docker-thinpool) that already has used \
         data blocks"
    );
    assert_eq!(
        refused(Devicemapper::open(&home, &opts(&["dm.thinpooldev=docker-no--such"]))),
        "devmapper: Non existing device docker-no--such (a volume that is not active: lvchange -ay \
         docker/no-such)"
    );
    // As after a reboot.
    let again: [&dyn Fn() -> _; 2] = [&|| open(&[]), &|| by_hand(&home)];
    for again in again {
        lvm(&["lvchange", "-an", "docker/thinpool"]);
        let driver = again().unwrap();
        assert_eq!(content(&driver, &base), same(&["a"]));
    }
    lvm(&["vgremove", "-f", "docker"]);
    lvm(&["pvremove", "-f", &name]);
    lvm(&["pvremove", "-f", second.path().to_str().unwrap()]);
}

/// Adds a second disk to the group of the pool in use.
fn extends(driver: &Devicemapper, dir: &Path) -> LoopDevice {
    testkit::load_module("loop");
    let file = dir.join("second");
    File::create(&file).unwrap().set_len(512 << 20).unwrap();
    let second = LoopDevice::attach(&file).unwrap();
    let extend = |wipe| driver.extend(second.path(), wipe);
    let name = second.path().display();
    File::options().write(true).open(second.path()).unwrap().write_all(b"precious").unwrap();
    let wiped = format!(
        "{name} is not empty: what is on it is wiped when that is asked for (berth storage extend \
         --force)"
    );
    assert_eq!(extend(false).unwrap_err().to_string(), wiped);
    let before = driver.usage().unwrap();
    // Stopped after each step; what is on the disk then is no reason to refuse it.
    for at in ["dm.extend.made", "dm.extend.added", "dm.extend.metadata"] {
        stop(dir, at, &format!("extend:{name}"));
    }
    extend(false).unwrap();
    let after = driver.usage().unwrap();
    assert!(after.data.total > before.data.total + (480 << 20), "{before:?} {after:?}");
    assert!(after.metadata.total > before.metadata.total, "{before:?} {after:?}");
    assert_eq!(after.level, Level::Normal);
    let error = extend(false).unwrap_err().to_string();
    assert_eq!(
        error,
        "devmapper: the volume group docker has no room that the thin pool could have"
    );
    let error = driver.grow(Some(1 << 40), None).unwrap_err().to_string();
    assert!(error.contains("berth storage extend --device"), "{error}");
    second
}
