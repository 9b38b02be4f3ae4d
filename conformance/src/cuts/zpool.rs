//! The pool of ZFS that a lab's layers are in.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use super::succeed;

const POOL: &str = "berth-cuts";
/// What layers are below.
const DATASET: &str = "berth-cuts/layers";

/// Makes it on an empty device, and lets go of it.
pub(super) fn create(device: &Path) -> Result<()> {
    let mut create = Command::new("zpool");
    create.args(["create", "-f", "-m", "none", "-o", "cachefile=none", POOL]).arg(device);
    succeed(&mut create)?;
    succeed(Command::new("zfs").args(["create", DATASET]))?;
    export()
}

/// Makes one that a cut may have left usable; none of its datasets is mounted.
pub(super) fn import(device: &Path) -> Result<()> {
    let mut import = Command::new("zpool");
    import.args(["import", "-f", "-N", "-o", "cachefile=none", "-d"]).arg(device).arg(POOL);
    succeed(&mut import)
}

/// Nothing in it is broken: every block that anything refers to has its checksum.
pub(super) fn check() -> Result<()> {
    succeed(Command::new("zpool").args(["scrub", "-w", POOL]))?;
    let output = Command::new("zpool").args(["status", "-x", POOL]).output().context("zpool")?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(said.trim() == format!("pool '{POOL}' is healthy"), "zpool status: {said}");
    Ok(())
}

/// Fails while anybody uses it.
pub(super) fn export() -> Result<()> {
    succeed(Command::new("zpool").args(["export", POOL]))
}

/// After a failure: whoever uses it loses it.
pub(super) fn destroy() {
    drop(Command::new("zpool").args(["destroy", "-f", POOL]).output());
}
