//! Against a kernel that has a device-mapper.

use super::*;
use crate::loopdev::LoopDevice;

fn line(length: u64, target: &str, params: &str) -> Line {
    Line { start: 0, length, target: target.to_owned(), params: params.to_owned() }
}

fn text(device: u64) -> String {
    format!("{}:{}", rustix::fs::major(device), rustix::fs::minor(device))
}

/// Devices of a test, removed in reverse.
struct Made<'a>(&'a Control, Vec<String>);

impl Made<'_> {
    fn device(&mut self, name: &str, table: &[Line]) -> io::Result<Info> {
        self.0.create(name)?;
        self.1.push(name.to_owned());
        self.0.load(name, table)?;
        self.0.resume(name)
    }
}

impl Drop for Made<'_> {
    fn drop(&mut self) {
        for name in self.1.iter().rev() {
            if let Err(error) = self.0.remove(name, Removal::Now) {
                assert!(is_gone(&error), "{name}: {error}");
            }
        }
    }
}

#[test]
fn the_numbers_are_those_of_the_header_file() {
    assert_eq!(request(Command::Version), 0xc138_fd00);
    assert_eq!(request(Command::Message), 0xc138_fd0e);
}

#[test]
fn vm_devices_are_made_looked_at_renamed_and_removed_when_nobody_uses_them() {
    let test = "vm_devices_are_made_looked_at_renamed_and_removed_when_nobody_uses_them";
    if !testkit::in_vm(test) {
        return;
    }
    testkit::load_module("dm_mod");
    testkit::load_module("loop");
    let dir = tempfile::tempdir().unwrap();
    File::create(dir.path().join("file")).unwrap().set_len(1 << 20).unwrap();
    let below = LoopDevice::attach(&dir.path().join("file")).unwrap();
    let control = Control::open().unwrap();
    assert!(control.version().unwrap() > Version::DEFERRED_REMOVAL);
    assert_eq!(control.info("berth-a").unwrap(), None);
    let mut made = Made(&control, Vec::new());
    let table = [line(2048, "linear", &format!("{} 0", text(below.device())))];
    let info = made.device("berth-a", &table).unwrap();
    assert_eq!(path("berth-a").metadata().unwrap().rdev(), info.device);
    assert_eq!(info.node().metadata().unwrap().rdev(), info.device);
    assert_eq!(control.table("berth-a").unwrap(), table);
    assert_eq!(control.dependencies("berth-a").unwrap(), [below.device()]);
    assert!(control.list().unwrap().contains(&("berth-a".to_owned(), info.device)));
    control.suspend("berth-a", Suspension::Flush).unwrap();
    assert!(control.info("berth-a").unwrap().unwrap().is_suspended);
    control.resume("berth-a").unwrap();
    control.rename("berth-a", "berth-b").unwrap();
    made.1.push("berth-b".to_owned());
    assert_eq!(control.info("berth-a").unwrap(), None);
    assert!(path("berth-a").symlink_metadata().is_err());
    let open = File::open(path("berth-b")).unwrap();
    assert_eq!(crate::block::size(&open).unwrap(), 1 << 20);
    let busy = control.remove("berth-b", Removal::Now).unwrap_err();
    assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
    control.remove("berth-b", Removal::Deferred).unwrap();
    let info = control.info("berth-b").unwrap().unwrap();
    assert!(info.is_deferred && info.open_count == 1, "{info:?}");
    control.message("berth-b", 0, "@cancel_deferred_remove").unwrap();
    assert!(!control.info("berth-b").unwrap().unwrap().is_deferred);
    control.remove("berth-b", Removal::Deferred).unwrap();
    assert!(path("berth-b").symlink_metadata().is_ok(), "who opens it next finds it");
    drop(open);
    while control.info("berth-b").unwrap().is_some() {
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
    control.clear_nodes("berth-b").unwrap();
    assert!(path("berth-b").symlink_metadata().is_err());
    assert!(is_gone(&control.remove("berth-b", Removal::Deferred).unwrap_err()));
    assert!(control.message("berth-b", 0, "x").is_err());
}

#[test]
fn vm_long_lists_are_whole() {
    if !testkit::in_vm("vm_long_lists_are_whole") {
        return;
    }
    testkit::load_module("dm_mod");
    let control = Control::open().unwrap();
    let mut made = Made(&control, Vec::new());
    let names: Vec<String> = (0..60).map(|at| format!("{}-{at:02}", "long".repeat(25))).collect();
    for name in &names {
        made.device(name, &[line(8, "zero", "")]).unwrap();
    }
    let mut listed: Vec<String> =
        control.list().unwrap().into_iter().map(|(name, _)| name).collect();
    listed.retain(|name| names.contains(name));
    listed.sort();
    assert_eq!(listed, names);
}
