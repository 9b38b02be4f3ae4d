//! Other programs that drivers need.

use std::path::Path;

/// Whether a program of this name is on the path.
pub(crate) fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(program).metadata().is_ok())
}

/// Has the kernel load a module. Whether it is there is seen by what is asked of it next; it may be
/// built in. One that is loaded costs no program.
pub(crate) fn load_module(name: &str) {
    let loaded = Path::new("/sys/module").join(name);
    if loaded.try_exists().is_ok_and(|is_loaded| is_loaded) {
        return;
    }
    let done = std::process::Command::new("modprobe").arg("-q").arg(name).status();
    if !done.as_ref().is_ok_and(std::process::ExitStatus::success) {
        tracing::debug!(?done, name, "modprobe");
    }
}
