//! The pid file: one daemon for each.

use std::io;
use std::path::{Path, PathBuf};

/// Why no pid file was written.
#[derive(Debug, thiserror::Error)]
pub(super) enum PidfileError {
    #[error("process with PID {pid} is still running")]
    Running { pid: u32 },
    #[error("cannot use the pid file {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// A pid file that names this process, removed on drop.
#[derive(Debug)]
pub(super) struct Pidfile {
    path: PathBuf,
}

impl Pidfile {
    /// Writes the file, unless it names a process that runs.
    pub(super) fn create(path: &Path) -> Result<Self, PidfileError> {
        let io = |source| PidfileError::Io { path: path.to_owned(), source };
        match std::fs::read_to_string(path) {
            Ok(text) => {
                let own = std::process::id();
                let named = text.trim().parse().ok().filter(|pid| *pid != own);
                if let Some(pid) = named.filter(|pid| is_running(*pid)) {
                    return Err(PidfileError::Running { pid });
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(io(error)),
        }
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent).map_err(io)?;
        }
        let text = std::process::id().to_string();
        berth_fs::atomic::write(path, text.as_bytes()).map_err(io)?;
        Ok(Self { path: path.to_owned() })
    }
}

impl Drop for Pidfile {
    fn drop(&mut self) {
        let own = std::process::id().to_string();
        let is_own = std::fs::read_to_string(&self.path).is_ok_and(|text| text.trim() == own);
        if is_own && let Err(error) = std::fs::remove_file(&self.path) {
            tracing::warn!(%error, path = %self.path.display(), "pid file not removed");
        }
    }
}

fn is_running(pid: u32) -> bool {
    let Some(pid) = i32::try_from(pid).ok().and_then(rustix::process::Pid::from_raw) else {
        return false;
    };
    // EPERM is a process of somebody else: it runs.
    !matches!(rustix::process::test_kill_process(pid), Err(rustix::io::Errno::SRCH))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pid_file_of_a_running_process_is_refused_and_kept() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("berth.pid");
        berth_fs::atomic::write(&path, b"1").unwrap();
        let error = Pidfile::create(&path).unwrap_err();
        assert_eq!(error.to_string(), "process with PID 1 is still running");
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "1");
    }

    #[test]
    fn a_stale_or_broken_pid_file_is_replaced_and_removed_at_the_end() {
        for stale in ["999999999", "", "x", "-1", "0"] {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("berth.pid");
            berth_fs::atomic::write(&path, stale.as_bytes()).unwrap();
            let pidfile = Pidfile::create(&path).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), std::process::id().to_string());
            drop(pidfile);
            assert!(!path.try_exists().unwrap(), "{stale:?}");
        }
    }
}
