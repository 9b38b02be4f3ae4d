//! Where the new tree is a snapshot of the old one, what the old one's inodes say of themselves is read from
//! its file system's tree: many at once, and faster than one by one.

use std::collections::HashMap;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use berth_sys::btrfs::{self, Inode};
use rustix::fs::{FileType, Stat};

/// So many take 100 MB. Beyond, each is asked for.
const MOST: usize = 1_000_000;

/// What the inodes of the old tree are, by their numbers.
#[derive(Debug)]
pub(super) struct Known(HashMap<u64, Inode>);

impl Known {
    /// `None` where `new` is not the whole of a snapshot of `old` that did not change since: then all of
    /// `old` is on the disk; where there are numbers of several trees in one; and where the kernel does
    /// not tell.
    pub(super) fn find(old: impl AsFd, new: impl AsFd) -> Option<Self> {
        match find(old.as_fd(), new.as_fd()) {
            Ok(found) => found,
            Err(error) => {
                tracing::debug!(%error, "a snapshot is compared without its file system's help");
                None
            }
        }
    }

    /// Whether an inode of the snapshot is untouched: it has the number and all that stat says of
    /// an inode of the old tree, to the time of the last change, which nobody can set. `false` is no
    /// answer.
    pub(super) fn is_untouched(&self, old: u64, new: &Stat) -> bool {
        let special = [FileType::CharacterDevice, FileType::BlockDevice];
        if old != new.st_ino || special.contains(&FileType::from_raw_mode(new.st_mode)) {
            return false;
        }
        let inode = Inode {
            mode: new.st_mode,
            uid: new.st_uid,
            gid: new.st_gid,
            size: u64::try_from(new.st_size).unwrap_or(0),
            mtime: (new.st_mtime, new.st_mtime_nsec),
            ctime: (new.st_ctime, new.st_ctime_nsec),
        };
        self.0.get(&old) == Some(&inode)
    }
}

fn find(old: BorrowedFd<'_>, new: BorrowedFd<'_>) -> io::Result<Option<Known>> {
    for top in [old, new] {
        if !btrfs::is_top(top)? {
            return Ok(None);
        }
    }
    if !btrfs::is_read_only(old)? || !btrfs::nested(old)?.is_empty() {
        return Ok(None);
    }
    let (was, is) = (btrfs::subvolume(old)?, btrfs::subvolume(new)?);
    if was.uuid != is.parent || was.changed > is.created {
        return Ok(None);
    }
    let mut known = HashMap::new();
    btrfs::inodes(old, |number, inode| {
        if known.len() == MOST {
            return Err(io::Error::other("it has too many files"));
        }
        known.insert(number, inode);
        Ok(())
    })?;
    Ok(Some(Known(known)))
}
