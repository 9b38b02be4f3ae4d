//! What this machine has.

use std::process::Command;

/// Whether a program is there.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).metadata().is_ok())
}

/// Whether the kernel has aufs.
pub(crate) fn has_aufs() -> bool {
    let known = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
    known.lines().any(|line| line.ends_with("\taufs"))
}

/// Why there can be no pool of ZFS here, else `None`.
pub(crate) fn zfs() -> Option<&'static str> {
    let succeeds = |program: &str, words: &[&str]| {
        let done = Command::new(program).args(words).output();
        done.is_ok_and(|done| done.status.success())
    };
    let is_there = succeeds("modprobe", &["-q", "zfs"]) && succeeds("zpool", &["list"]);
    if is_there { None } else { Some("zfs-dkms (contrib): cargo xtask vm zfs") }
}
