//! Helper programs that outlived whoever mounted.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_sys::process::{pidfd_open, pidfd_send_signal};
use berth_types::LayerId;

use super::driver::PROGRAM;

const SIGTERM: i32 = 15;

/// Ends the helpers that serve layers below `home` which nobody keeps. Those whose mounts are in
/// sight have ended with them; what is left was mounted in a namespace of a process that is gone,
/// and would hold that namespace for ever.
pub(super) fn end_strays(home: &Path, keep: &dyn Fn(&LayerId) -> bool) {
    let entries = match fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "no processes to be seen");
            return;
        }
    };
    for pid in entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()) {
        if served_by(pid, home).is_some_and(|id| !keep(&id))
            && let Err(error) = end(pid, home)
        {
            tracing::debug!(%error, pid, "a helper was not ended");
        }
    }
}

/// The layer below `home` that a process serves, if it is such a helper.
pub(super) fn served_by(pid: i32, home: &Path) -> Option<LayerId> {
    let line = fs::read(format!("/proc/{pid}/cmdline")).ok()?;
    let mut words = line.split(|&byte| byte == 0).filter(|word| !word.is_empty());
    let program = Path::new(std::ffi::OsStr::from_bytes(words.next()?));
    let target = PathBuf::from(std::ffi::OsStr::from_bytes(words.next_back()?));
    if program.file_name()? != PROGRAM {
        return None;
    }
    let below = target.strip_prefix(home).ok()?;
    LayerId::parse(below.parent()?.to_str()?).ok()
}

fn end(pid: i32, home: &Path) -> io::Result<()> {
    let process = pidfd_open(pid)?;
    // The number may have been used again before the descriptor held the process.
    if served_by(pid, home).is_some() {
        pidfd_send_signal(&process, SIGTERM)?;
    }
    Ok(())
}
