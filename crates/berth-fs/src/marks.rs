//! How a directory of changes says what of the layers below is gone.

use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat, XattrFlags};
use rustix::io::Errno;

use crate::changes::xattr;
use crate::root::names;

/// What names of whiteouts begin with, in a tar as in a directory of changes of aufs.
pub(crate) const PREFIX: &[u8] = b".wh.";
/// What aufs's own names begin with.
pub(crate) const META_PREFIX: &[u8] = b".wh..wh.";
/// The file that makes a directory opaque; fuse-overlayfs leaves it beside the attribute.
pub(crate) const OPAQUE_FILE: &[u8] = b".wh..wh..opq";
/// The xattr that hides everything below a directory of an overlay layer.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";

/// A union file system's way to mark a directory of changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Marks {
    /// Character devices 0:0, and opaque directories by the `trusted.overlay.opaque` xattr.
    Overlay,
    /// Files: `.wh.NAME` beside what is gone, `.wh..wh..opq` in an opaque directory. Other names that
    /// begin with `.wh..wh.` are aufs's own.
    Aufs,
}

/// What a directory of changes says of one name.
#[derive(Debug, Clone, Copy)]
pub enum Seen {
    /// Nothing: it is as below.
    Nothing,
    /// What is below is gone; of the mark that says so.
    Deleted(Stat),
    /// This is there.
    Entry(Stat),
}

impl Marks {
    /// What `dir` says of `name`.
    pub fn look(self, dir: BorrowedFd<'_>, name: &[u8]) -> Result<Seen, Errno> {
        if self == Self::Aufs
            && let Some(mark) = stat(dir, &whiteout_of(name))?
        {
            return Ok(Seen::Deleted(mark));
        }
        Ok(match stat(dir, name)? {
            None => Seen::Nothing,
            Some(stat) if self == Self::Overlay && is_whiteout(&stat) => Seen::Deleted(stat),
            Some(stat) => Seen::Entry(stat),
        })
    }

    /// The names of which `dir` says something, sorted.
    pub(crate) fn names(self, dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
        let mut all = names(dir)?;
        match self {
            Self::Overlay => all.retain(|name| name != OPAQUE_FILE),
            Self::Aufs => {
                all.retain(|name| !name.starts_with(META_PREFIX) && name != PREFIX);
                for name in &mut all {
                    if name.starts_with(PREFIX) {
                        name.drain(..PREFIX.len());
                    }
                }
                all.sort_unstable();
                all.dedup();
            }
        }
        Ok(all)
    }

    /// Whether nothing of the layers below is shown in `dir`.
    pub fn is_opaque(self, dir: BorrowedFd<'_>) -> Result<bool, Errno> {
        match self {
            Self::Overlay => Ok(xattr(dir, OPAQUE)?.is_some_and(|value| value == b"y")),
            Self::Aufs => Ok(stat(dir, OPAQUE_FILE)?.is_some()),
        }
    }

    /// Makes nothing of the layers below show in `dir`.
    pub fn set_opaque(self, dir: impl AsFd) -> Result<(), Errno> {
        match self {
            Self::Overlay => rustix::fs::fsetxattr(dir, OPAQUE, b"y", XattrFlags::empty()),
            Self::Aufs => make_file(dir.as_fd(), OPAQUE_FILE),
        }
    }

    /// Whether a file hides a directory of its name in the layers further down, if one above both has
    /// a directory of that name, too. aufs leaves the file out and goes on.
    pub fn files_hide(self) -> bool {
        self == Self::Overlay
    }
}

/// The name of aufs's mark for `name`.
pub(crate) fn whiteout_of(name: &[u8]) -> Vec<u8> {
    [PREFIX, name].concat()
}

/// Makes a mark of aufs, or leaves the one that is there.
pub(crate) fn make_file(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    match rustix::fs::openat(dir, name, flags, Mode::from_raw_mode(0o444)) {
        Err(Errno::EXIST) => Ok(()),
        other => other.map(drop),
    }
}

/// Whether a file is an overlay whiteout.
pub(crate) fn is_whiteout(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn stat(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        // What is too long to be marked is never marked.
        Err(Errno::NOENT | Errno::NAMETOOLONG) => Ok(None),
        Err(error) => Err(error),
    }
}
