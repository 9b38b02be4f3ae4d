//! What a container's watcher would have tidied up, had it not died.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_runtime::Bundle;
use berth_runtime::shim::{Found, Target};
use berth_shim_proto::ShimConfig;
use berth_sys::mount::{Unmount, unmount};

/// Ends what is left of a container whose watcher is gone or does not answer, and undoes its mounts. Goes
/// on after each failure and logs it.
pub(crate) fn end(shim: &Path, bundle: &Path) {
    end_watchers(shim, bundle);
    if let Some(pid) = read_pid(&bundle.join("pid"))
        && belongs_to(pid, bundle)
        && let Err(error) = kill(pid, Some(PATIENCE))
    {
        tracing::warn!(pid, %error, "init of a container without a watcher not ended");
    }
    let Some(config) = shim_config(bundle) else { return };
    clean_up(shim, bundle);
    for mount in config.mounts.iter().rev() {
        if let Err(error) = unmount(&mount.target, Unmount::Lazy)
            && !matches!(error.raw_os_error(), Some(EINVAL | ENOENT))
        {
            tracing::warn!(target = %mount.target.display(), %error, "not unmounted");
        }
    }
    for step in &config.teardown {
        if let Err(error) = step.take() {
            tracing::warn!(?step, %error, "not undone");
        }
    }
}

/// Kills the watcher and what it forked off: before a container has its own program, its processes are
/// known by the watcher's arguments alone.
fn end_watchers(shim: &Path, bundle: &Path) {
    let until = Instant::now() + PATIENCE;
    loop {
        let left: Vec<i32> = watchers(shim, bundle);
        if left.is_empty() {
            return;
        }
        if Instant::now() > until {
            tracing::warn!(?left, bundle = %bundle.display(), "watchers do not end");
            return;
        }
        for pid in left {
            match kill(pid, Some(NAP)) {
                Err(error) if error.raw_os_error() != Some(ESRCH) => {
                    tracing::warn!(pid, %error, "watcher not ended");
                }
                _ => {}
            }
        }
        std::thread::sleep(NAP);
    }
}

/// The processes whose command line is that of this bundle's watcher.
fn watchers(shim: &Path, bundle: &Path) -> Vec<i32> {
    let entries = match std::fs::read_dir("/proc") {
        Ok(entries) => entries,
        Err(error) => {
            tracing::warn!(%error, "no processes to be seen");
            return Vec::new();
        }
    };
    let pids = entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok());
    let is_watcher = |pid: &i32| {
        let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let mut words = line.split(|byte| *byte == 0);
        let names = |word: Option<&[u8]>, path: &Path| {
            word.is_some_and(|word| word == path.as_os_str().as_encoded_bytes())
        };
        names(words.next(), shim) && names(words.next(), bundle)
    };
    pids.filter(is_watcher).collect()
}

/// Lets the watcher's program undo what the watcher did: control groups with all processes, mounts.
fn clean_up(shim: &Path, bundle: &Path) {
    let output = std::process::Command::new(shim).arg("--cleanup").arg(bundle).output();
    match output {
        Ok(output) if output.status.success() => {}
        Ok(output) => tracing::warn!(
            bundle = %bundle.display(), error = %String::from_utf8_lossy(&output.stderr).trim(),
            "not tidied up"
        ),
        Err(error) => tracing::warn!(shim = %shim.display(), %error, "not tidied up"),
    }
}

/// How long a watcher may take to tidy up after its container was killed.
const PATIENCE: Duration = Duration::from_secs(5);
const NAP: Duration = Duration::from_millis(2);

/// Ends a container by way of its watcher, so that the watcher tidies up; by force when it is gone or
/// does not answer.
pub(crate) fn end_with_watcher(shim: &Path, bundle: &Bundle) {
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
    end(shim, bundle.dir());
}

/// Where the container's root is mounted, by its spec.
pub(crate) fn root_path(bundle: &Path) -> Option<PathBuf> {
    let text = std::fs::read(bundle.join("config.json")).ok()?;
    let spec: serde_json::Value = serde_json::from_slice(&text).ok()?;
    spec.pointer("/root/path").and_then(serde_json::Value::as_str).map(PathBuf::from)
}

const ENOENT: i32 = 2;
const ESRCH: i32 = 3;
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

fn kill(pid: i32, wait: Option<Duration>) -> std::io::Result<()> {
    let process = berth_sys::process::pidfd_open(pid)?;
    berth_sys::process::pidfd_send_signal(&process, SIGKILL)?;
    berth_sys::process::pidfd_wait(&process, wait).map(|_| ())
}
