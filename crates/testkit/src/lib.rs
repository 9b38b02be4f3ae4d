//! What tests of several crates share: named skips, and things that must be cleaned up.

#![forbid(unsafe_code)]

pub mod disk;
pub mod http;
mod loopfs;
pub mod writelog;
pub mod zpool;

use std::io::Write as _;

pub use loopfs::{Filler, LoopFs};

/// Says that `test` cannot run here because `need` is missing.
///
/// The runner counts these: each line goes to the file named by `BERTH_SKIP_LOG` when it is set.
pub fn skip(test: &str, need: &str) {
    let line = format!("{test}: {need}\n");
    if let Some(path) = std::env::var_os("BERTH_SKIP_LOG") {
        let file = std::fs::OpenOptions::new().append(true).create(true).open(&path);
        let written = file.and_then(|mut file| file.write_all(line.as_bytes()));
        assert!(written.is_ok(), "cannot note a skip in {}", path.display());
    }
    say(&format!("skipped {}", line.trim_end()));
}

fn say(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").expect("stderr can be written");
}

/// Whether this process may mount and make device nodes.
pub fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Whether this process runs in the virtual machine of `cargo xtask vm`; if not, `test` is skipped.
pub fn in_vm(test: &str) -> bool {
    let is_inside = std::env::var_os("BERTH_VM").is_some();
    if !is_inside {
        skip(test, "a virtual machine (cargo xtask test --only vm)");
    }
    is_inside
}

/// Whether a test takes all of its cases, however long they take: in `cargo xtask soak`.
pub fn is_soak() -> bool {
    std::env::var_os("BERTH_SOAK").is_some()
}

/// Loads a module of the kernel, for tests in the virtual machine. It may be built in.
pub fn load_module(name: &str) {
    if std::path::Path::new("/sys/module").join(name).is_dir() {
        return;
    }
    let done = std::process::Command::new("modprobe").arg(name).status();
    assert!(done.is_ok_and(|status| status.success()), "modprobe {name}");
}

/// Whether a program of this name is on the path.
pub fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|dir| dir.join(name).metadata().is_ok())
}
