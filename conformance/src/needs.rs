//! What this machine has.

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
