//! Room for removals on a full disk.
//!
//! Renaming a directory to where it will be deleted may take a block. A file beside what is removed
//! keeps some, which nobody else gets until a removal asks for it. It is made again when there is
//! room.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate};

/// The file's name.
pub const NAME: &str = ".berth-reserve";
/// What xfs wants to have free before it adds an entry to a large directory, several times.
const BYTES: u64 = 1 << 20;

/// The room kept in one directory.
#[derive(Debug)]
pub struct Reserve {
    path: PathBuf,
}

impl Reserve {
    /// What is kept in `dir`, if anything is.
    pub fn at(dir: &Path) -> Self {
        Self { path: dir.join(NAME) }
    }

    /// Carries out `act`; where that runs out of space, once more with the room that was kept.
    pub fn spend<T>(&self, mut act: impl FnMut() -> io::Result<T>) -> io::Result<T> {
        match act() {
            Err(error) if error.kind() == io::ErrorKind::StorageFull && self.release() => act(),
            other => other,
        }
    }

    /// Keeps room again, as far as there is any.
    pub fn renew(&self) {
        let mut open = OpenOptions::new();
        open.write(true).create(true).truncate(false).mode(0o600);
        let renewed = open.open(&self.path).and_then(|file| {
            if file.metadata()?.len() < BYTES {
                fallocate(&file, FallocateFlags::empty(), 0, BYTES)?;
            }
            Ok(())
        });
        if let Err(error) = renewed {
            tracing::debug!(%error, path = %self.path.display(), "no room is kept for removals");
        }
    }

    /// Gives the room away where the file system has less than it, to whoever is next.
    pub fn lend(&self) {
        let Some(dir) = self.path.parent() else { return };
        // Not what is free: ext4 has more of that than it gives to anybody.
        let is_full = rustix::fs::statvfs(dir)
            .is_ok_and(|stat| stat.f_bavail.saturating_mul(stat.f_frsize) < BYTES);
        if is_full && self.release() {
            tracing::warn!(dir = %dir.display(), "the disk is full: room kept for removals is used");
        }
    }

    fn release(&self) -> bool {
        let released = OpenOptions::new().write(true).open(&self.path).and_then(|file| {
            let had = file.metadata()?.len() > 0;
            file.set_len(0)?;
            Ok(had)
        });
        released.unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_room_is_given_to_what_runs_out_of_space_and_kept_again() {
        let dir = tempfile::tempdir().unwrap();
        let length = || std::fs::metadata(dir.path().join(NAME)).map_or(0, |meta| meta.len());
        let reserve = Reserve::at(dir.path());
        let full = || Err::<(), _>(io::Error::from(io::ErrorKind::StorageFull));
        // Nothing is kept yet, so it is not tried again.
        let mut tries = 0;
        reserve
            .spend(|| {
                tries += 1;
                full()
            })
            .unwrap_err();
        reserve.renew();
        assert_eq!((tries, length()), (1, BYTES));
        reserve.spend(|| if length() > 0 { full() } else { Ok(()) }).unwrap();
        assert_eq!(length(), 0);
        reserve.renew();
        reserve.spend(|| Err::<(), _>(io::Error::other("something else"))).unwrap_err();
        assert_eq!(length(), BYTES);
    }
}
