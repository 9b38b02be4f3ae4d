//! The directory of one run: gone when it ends, or when the next run begins if it was killed.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};

const PREFIX: &str = "run-";

/// A directory that is locked while it is used.
#[derive(Debug)]
pub(super) struct RunDir {
    path: PathBuf,
    /// Holds the lock, and names the directory shortly, for the sake of sockets.
    dir: File,
}

impl RunDir {
    /// Makes the directory, and removes those whose runs were killed. The caller holds the cache's
    /// lock, so that none is taken for dead between its making and its locking.
    pub(super) fn create(cache: &Path) -> Result<Self> {
        clear(cache)?;
        let path = cache.join(format!("{PREFIX}{}", std::process::id()));
        std::fs::create_dir(&path).with_context(|| format!("cannot create {}", path.display()))?;
        let dir = File::open(&path)?;
        dir.lock()?;
        Ok(Self { path, dir })
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The same directory by a path that is never too long for a socket's name.
    pub(super) fn short_path(&self) -> PathBuf {
        use std::os::fd::AsRawFd as _;
        PathBuf::from(format!("/proc/self/fd/{}", self.dir.as_raw_fd()))
    }
}

impl Drop for RunDir {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            crate::ui::error(&format!("cannot remove {}: {error}", self.path.display()));
        }
    }
}

fn clear(cache: &Path) -> Result<()> {
    for entry in std::fs::read_dir(cache)? {
        let entry = entry?;
        if !entry.file_name().to_string_lossy().starts_with(PREFIX) {
            continue;
        }
        match File::open(entry.path())?.try_lock() {
            Ok(()) => std::fs::remove_dir_all(entry.path())?,
            Err(TryLockError::WouldBlock) => {}
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_directories_of_runs_that_ended_are_removed() {
        let cache = std::env::temp_dir().join(format!("berth-rundir-{}", std::process::id()));
        std::fs::create_dir(&cache).unwrap();
        let dead = cache.join("run-1");
        std::fs::create_dir(&dead).unwrap();
        std::fs::create_dir(cache.join("6.1_2")).unwrap();
        let alive = RunDir::create(&cache).unwrap();
        clear(&cache).unwrap();
        assert!(!dead.is_dir() && cache.join("6.1_2").is_dir());
        assert!(alive.path().is_dir() && alive.short_path().is_dir());
        let path = alive.path().to_owned();
        drop(alive);
        assert!(!path.is_dir());
        std::fs::remove_dir_all(cache).unwrap();
    }
}
