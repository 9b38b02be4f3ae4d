//! Beside a udev daemon, which looks into every device that appears, and without one.

use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use super::{active, disk, small};
use crate::suite::{content, layer, rw, same, write};
use crate::{Access, Mounted, StorageDriver as _};

const UDEVD: &str = "/lib/systemd/systemd-udevd";
const DIR: &str = "/run/udev";

/// A udev daemon of this test. Dropped: no trace of it is left.
struct Udev(Child);

impl Udev {
    fn start() -> Self {
        let this = Self(Command::new(UDEVD).spawn().unwrap());
        let until = Instant::now() + Duration::from_mins(1);
        while Path::new(DIR).join("control").symlink_metadata().is_err() {
            assert!(Instant::now() < until, "udev does not come up");
            std::thread::sleep(Duration::from_millis(50));
        }
        this
    }
}

impl Drop for Udev {
    fn drop(&mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
        // Programs of LVM would wait for it.
        std::fs::remove_dir_all(DIR).unwrap();
    }
}

/// Layers are made, mounted, written to and removed, and nothing is ever busy.
fn come_and_go(home: &Path, rounds: usize) {
    let driver = small(home, &["dm.fs=ext4"]);
    let status = driver.status();
    assert!(status.contains(&("Udev Sync Supported".to_owned(), "true".to_owned())), "{status:?}");
    let base = layer(&driver, None, &["base"]);
    driver.release(&base).unwrap();
    for round in 0..rounds {
        let id = berth_types::LayerId::random();
        driver.create(&id, Some(&base), &rw()).unwrap();
        write(&driver, &id, &["own"]);
        let mounted = Mounted::new(driver.prepare(&id, Access::Write).unwrap()).unwrap();
        assert!(mounted.root().join("own").is_file(), "round {round}");
        drop(mounted);
        driver.release(&id).unwrap();
        let names = active(home);
        assert_eq!(names.len(), 1, "round {round}: only the pool is active: {names:?}");
        driver.remove(&id).unwrap();
        driver.reap().unwrap();
    }
    let devices: Vec<_> = std::fs::read_dir(home.join("metadata"))
        .unwrap()
        .map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned())
        .filter(|name| name.contains(".berth-") || name.len() == 64)
        .collect();
    assert_eq!(devices, [base.to_string()], "what was removed is deleted");
    assert_eq!(content(&driver, &base), same(&["base"]));
    driver.release(&base).unwrap();
    driver.close().unwrap();
    assert_eq!(active(home), [""; 0]);
    let links: Vec<_> = std::fs::read_dir("/dev/mapper").unwrap().collect();
    assert_eq!(links.len(), 1, "only control: {links:?}");
}

#[test]
fn vm_devicemapper_devices_come_and_go_beside_udev_and_without_it() {
    let test = "vm_devicemapper_devices_come_and_go_beside_udev_and_without_it";
    if !testkit::in_vm(test) {
        return;
    }
    if !Path::new(UDEVD).is_file() {
        return testkit::skip(test, "udev");
    }
    let rounds = if testkit::is_soak() { 100 } else { 10 };
    let disk = disk();
    come_and_go(&disk.path().join("without"), rounds);
    let udev = Udev::start();
    come_and_go(&disk.path().join("beside"), rounds);
    drop(udev);
}
