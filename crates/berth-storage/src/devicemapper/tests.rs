//! Against a kernel that has a device-mapper, in the virtual machine.

mod crash;
mod damage;
mod devices;
mod discard;
mod docker;
mod grow;
mod lost;
mod lvm;
mod spare;
mod udev;
mod watch;

use std::path::Path;
use std::process::Command;
use std::sync::Arc;

use testkit::disk::{Disk, Mounted};

use super::Devicemapper;
use crate::{StorageDriver, StorageError, suite};
pub(super) use crash::stop_at;

/// What makes devices that are quickly formatted.
const SMALL: [&str; 3] = ["dm.basesize=400M", "dm.loopdatasize=3G", "dm.loopmetadatasize=64M"];

fn disk() -> Mounted {
    Disk::take().format("ext4", &[]).mount("ext4", "")
}

/// The devices of a home that are active.
fn active(home: &Path) -> Vec<String> {
    let prefix = super::layout::prefix(home).unwrap();
    let all = berth_sys::dm::Control::open().unwrap().list().unwrap();
    all.into_iter().map(|(name, _)| name).filter(|name| name.starts_with(&prefix)).collect()
}

fn opts(options: &[&str]) -> Vec<String> {
    options.iter().map(|&option| option.to_owned()).collect()
}

/// Opens a driver with small devices.
fn small(home: &Path, more: &[&str]) -> Devicemapper {
    try_small(home, more).unwrap()
}

fn try_small(home: &Path, more: &[&str]) -> Result<Devicemapper, StorageError> {
    Devicemapper::open(home, &opts(&[&SMALL, more].concat()))
}

/// Runs the contract suite over homes that are copies of one, for that is quicker than formatting a
/// base device for each. Two file systems share the cases, but in long runs.
fn keeps_the_contract(options: &[&str], half: usize) {
    let disk = disk();
    let template = disk.path().join("template");
    drop(small(&template, options));
    let open = |home: &Path| -> Arc<dyn StorageDriver> {
        if home.symlink_metadata().is_err() {
            let mut copy = Command::new("cp");
            copy.args(["-a", "--sparse=always"]).arg(&template).arg(home);
            assert!(copy.status().unwrap().success());
        }
        Arc::new(small(home, options))
    };
    for (at, (name, case)) in suite::CASES.iter().enumerate() {
        if !testkit::is_soak() && (LONG.contains(name) || at % 2 != half) {
            continue;
        }
        let dir = disk.path().join(name);
        std::fs::create_dir(&dir).unwrap();
        case(&open, &dir.join("home"));
        assert_eq!(active(&dir.join("home")), [""; 0], "{name}");
        std::fs::remove_dir_all(dir).unwrap();
    }
}

/// Minutes under emulation.
const LONG: [&str; 3] = ["tall", "threads", "beside"];

#[test]
fn vm_devicemapper_keeps_the_contract_over_xfs() {
    if testkit::in_vm("vm_devicemapper_keeps_the_contract_over_xfs") {
        keeps_the_contract(&["dm.fs=xfs"], 0);
    }
}

#[test]
fn vm_devicemapper_keeps_the_contract_over_ext4() {
    if testkit::in_vm("vm_devicemapper_keeps_the_contract_over_ext4") {
        keeps_the_contract(&["dm.fs=ext4"], 1);
    }
}
