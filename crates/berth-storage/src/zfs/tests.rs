//! Against a kernel that has ZFS, in the virtual machine.

mod crash;
mod docker;

use std::path::Path;
use std::sync::Arc;

use testkit::zpool::Zpool;

use super::Zfs;
use crate::{StorageDriver, suite};
pub(super) use crash::stop_at;

fn opts(options: &[&str]) -> Vec<String> {
    options.iter().map(|&option| option.to_owned()).collect()
}

/// Opens the driver on the dataset that `home` is on.
fn open(home: &Path) -> Zfs {
    Zfs::open(home, &[]).unwrap()
}

/// Minutes under emulation, where a command takes half a second.
const LONG: [&str; 4] = ["chain", "tall", "threads", "beside"];

#[test]
fn vm_zfs_keeps_the_contract() {
    let Some(pool) = Zpool::or_skip("vm_zfs_keeps_the_contract") else { return };
    for (name, case) in suite::CASES {
        if !testkit::is_soak() && LONG.contains(name) {
            continue;
        }
        let dir = pool.create(name, &[]);
        case(&|home| -> Arc<dyn StorageDriver> { Arc::new(open(home)) }, &dir.join("home"));
    }
}
