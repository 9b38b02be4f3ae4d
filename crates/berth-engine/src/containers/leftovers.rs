//! What a container's watcher would have tidied up, had it not died.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_runtime::Bundle;
use berth_runtime::shim::{Found, Target};
use berth_shim_proto::ShimConfig;
use berth_sys::mount::{Unmount, unmount};

/// Ends what runs of a container whose watcher is gone, and undoes its mounts. Goes on after each
/// failure and logs it; nothing here touches a container whose watcher lives.
pub(crate) fn end(bundle: &Path) {
    if let Some(pid) = read_pid(&bundle.join("pid"))
        && belongs_to(pid, bundle)
        && let Err(error) = kill(pid)
    {
        tracing::warn!(pid, %error, "init of a container without a watcher not ended");
    }
    let Some(config) = shim_config(bundle) else { return };
    for mount in config.mounts.iter().rev() {
        if let Err(error) = unmount(&mount.target, Unmount::Lazy)
            && !matches!(error.raw_os_error(), Some(EINVAL | ENOENT))
        {
            tracing::warn!(target = %mount.target.display(), %error, "not unmounted");
        }
    }
    for dir in &config.remove_dirs {
        match std::fs::remove_dir(dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(dir = %dir.display(), %error, "mount point not removed");
            }
            _ => {}
        }
    }
}

/// How long a watcher may take to tidy up after its container was killed.
const PATIENCE: Duration = Duration::from_secs(5);
const NAP: Duration = Duration::from_millis(2);

/// Ends a container by way of its watcher, so that the watcher tidies up; by force when it is gone or
/// does not answer.
pub(crate) fn end_with_watcher(bundle: &Bundle) {
    if let Ok(Found::Alive(watcher)) = bundle.find() {
        match watcher.signal(SIGKILL, Target::All) {
            Ok(()) => {
                let until = Instant::now() + PATIENCE;
                while Instant::now() < until {
                    if !matches!(bundle.find(), Ok(Found::Alive(_))) {
                        return;
                    }
                    std::thread::sleep(NAP);
                }
            }
            Err(error) => tracing::warn!(
                container = bundle.id(), error = %berth_types::kind::chain(&error),
                "the watcher does not listen"
            ),
        }
    }
    end(bundle.dir());
}

/// Where the container's root is mounted, by its spec.
pub(crate) fn root_path(bundle: &Path) -> Option<PathBuf> {
    let text = std::fs::read(bundle.join("config.json")).ok()?;
    let spec: serde_json::Value = serde_json::from_slice(&text).ok()?;
    spec.pointer("/root/path").and_then(serde_json::Value::as_str).map(PathBuf::from)
}

const ENOENT: i32 = 2;
const EINVAL: i32 = 22;
const SIGKILL: i32 = 9;

/// What the watcher of this bundle was told.
pub(crate) fn shim_config(bundle: &Path) -> Option<ShimConfig> {
    let text = std::fs::read(bundle.join("shim.json")).ok()?;
    serde_json::from_slice(&text).ok()
}

fn read_pid(file: &Path) -> Option<i32> {
    std::fs::read_to_string(file).ok()?.trim().parse().ok().filter(|&pid| pid > 1)
}

/// Whether the process with this number still is the container's: numbers are used again.
fn belongs_to(pid: i32, bundle: &Path) -> bool {
    let Some(id) = bundle.file_name().and_then(|name| name.to_str()) else { return false };
    std::fs::read_to_string(format!("/proc/{pid}/cgroup")).is_ok_and(|groups| groups.contains(id))
}

fn kill(pid: i32) -> std::io::Result<()> {
    let process = berth_sys::process::pidfd_open(pid)?;
    berth_sys::process::pidfd_send_signal(&process, SIGKILL)?;
    berth_sys::process::pidfd_wait(&process, Some(std::time::Duration::from_secs(5))).map(|_| ())
}
