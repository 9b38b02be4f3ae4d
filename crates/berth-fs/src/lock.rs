//! One process at a time: an exclusive lock on a file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;

/// Why a lock was not taken.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    #[error("{} is held by process {}", .path.display(), holder(*.pid))]
    Held { path: PathBuf, pid: Option<u32> },
    #[error("cannot lock {}", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

fn holder(pid: Option<u32>) -> String {
    pid.map_or_else(|| "(unknown)".to_owned(), |pid| pid.to_string())
}

/// An exclusive lock, held until this is dropped or the process dies.
///
/// The descriptor is closed on exec, so programs started meanwhile do not hold the lock.
#[derive(Debug)]
pub struct LockGuard {
    file: File,
}

impl LockGuard {
    /// Takes the lock at once, or says who holds it. The file is created, and never removed.
    pub fn acquire(path: &Path) -> Result<Self, LockError> {
        let io = |source| LockError::Io { path: path.to_owned(), source };
        let mut file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .mode(0o600)
            .open(path)
            .map_err(io)?;
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                let mut text = String::new();
                file.read_to_string(&mut text).map_err(io)?;
                return Err(LockError::Held {
                    path: path.to_owned(),
                    pid: text.trim().parse().ok(),
                });
            }
            Err(error) => return Err(io(error.into())),
        }
        match note_holder(&mut file) {
            // Only others who want it are told less.
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                tracing::debug!(%error, path = %path.display(), "a lock does not name its holder");
                file.set_len(0).map_err(io)?;
            }
            other => other.map_err(io)?,
        }
        Ok(Self { file })
    }
}

/// Over what is there, and only then cut to its length: on a full disk the old block is enough.
fn note_holder(file: &mut File) -> io::Result<()> {
    let text = format!("{}\n", std::process::id());
    file.rewind()?;
    file.write_all(text.as_bytes())?;
    file.set_len(text.len() as u64)
}

impl Drop for LockGuard {
    fn drop(&mut self) {
        // Closing is not enough: a child that another thread has just begun has a copy of the
        // descriptor until its exec.
        if let Err(error) = rustix::fs::flock(&self.file, FlockOperation::Unlock) {
            tracing::warn!(%error, "a lock is released by closing it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_told_who_the_first_is() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let guard = LockGuard::acquire(&path).unwrap();
        let error = LockGuard::acquire(&path).unwrap_err();
        let expected = format!("{} is held by process {}", path.display(), std::process::id());
        assert_eq!(error.to_string(), expected);
        drop(guard);
        LockGuard::acquire(&path).unwrap();
    }

    #[test]
    fn a_copy_of_the_descriptor_does_not_hold_the_lock() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let guard = LockGuard::acquire(&path).unwrap();
        let copy = guard.file.try_clone().unwrap();
        drop(guard);
        LockGuard::acquire(&path).unwrap();
        drop(copy);
    }
}
