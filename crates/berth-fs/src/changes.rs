//! What differs between a container's tree and the image below it.
//!
//! The rules are those of Docker's naive comparison: an entry has changed when its mode, owner,
//! device number or `security.capability` differ, or, for anything but a directory, its size or
//! modification time. A directory above a change is itself listed as modified. Within a directory
//! the present names come first, sorted, then the deleted ones; parents precede their children.
//!
//! A layer's tar has whole seconds, so Docker takes a time without a fraction for any within its
//! second, and sleeps after each commit to the end of the second, for what is changed in it would be
//! missed. Here nobody sleeps: of two entries that only such times tell apart, the content decides.

mod content;
mod overlay;
mod trees;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

pub use overlay::of_upper;
pub use trees::{Base, between};

use crate::root::{MAX_DEPTH, READ_DIR, Root, names};

/// How a path changed. The numbers are those of Docker's API.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ChangeKind {
    /// It differs (or something in it does).
    Modified = 0,
    /// It is new.
    Added = 1,
    /// It is gone.
    Deleted = 2,
}

/// One changed path.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Change {
    /// Absolute, as seen in the container.
    pub path: PathBuf,
    /// How it changed.
    pub kind: ChangeKind,
}

/// Why two trees could not be compared.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", .path.display())]
pub struct ChangesError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

pub(crate) const CAPABILITY: &str = "security.capability";

fn failed(action: &'static str, path: &Path) -> impl FnOnce(Errno) -> ChangesError {
    let path = path.to_owned();
    move |error| ChangesError { action, path, source: error.into() }
}

fn is_dir(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::Directory
}

/// An extended attribute of a regular file or directory, by name, not following links.
pub(crate) fn xattr_at(
    dir: BorrowedFd<'_>,
    name: &[u8],
    stat: &Stat,
    attribute: &str,
) -> Result<Option<Vec<u8>>, Errno> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    if !matches!(kind, FileType::RegularFile | FileType::Directory) {
        return Ok(None);
    }
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let file = rustix::fs::openat(dir, name, flags, Mode::empty())?;
    xattr(file.as_fd(), attribute)
}

/// An extended attribute of an open file; `None` when it has none of that name.
///
/// A capability that the kernel refuses to read is none: aufs takes one away by giving it no content.
pub(crate) fn xattr(file: BorrowedFd<'_>, attribute: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0; 256];
    loop {
        match rustix::fs::fgetxattr(file, attribute, &mut value[..]) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::OPNOTSUPP) => return Ok(None),
            Err(Errno::INVAL) if attribute == CAPABILITY => return Ok(None),
            Err(Errno::RANGE) if value.len() < 1 << 16 => value.resize(1 << 16, 0),
            Err(error) => return Err(error),
        }
    }
}

/// What metadata says about whether two entries differ.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Likeness {
    Same,
    /// They were changed in the same second, and one of them does not say when in it.
    Unclear,
    Different,
}

fn likeness(old: &Stat, new: &Stat) -> Likeness {
    let differ = old.st_mode != new.st_mode
        || old.st_uid != new.st_uid
        || old.st_gid != new.st_gid
        || old.st_rdev != new.st_rdev
        || !is_dir(new) && (old.st_size != new.st_size || old.st_mtime != new.st_mtime);
    if differ {
        Likeness::Different
    } else if is_dir(new) || old.st_mtime_nsec == new.st_mtime_nsec {
        Likeness::Same
    } else if old.st_mtime_nsec == 0 || new.st_mtime_nsec == 0 {
        Likeness::Unclear
    } else {
        Likeness::Different
    }
}

/// One side of a comparison at one name: the directory it is in, and what it is.
struct Side<'a> {
    dir: BorrowedFd<'a>,
    stat: Stat,
}

/// Whether an entry that exists on both sides has changed.
fn differs(old: &Side<'_>, new: &Side<'_>, name: &[u8]) -> Result<bool, Errno> {
    match likeness(&old.stat, &new.stat) {
        Likeness::Same => {}
        Likeness::Unclear if content::is_same([old.dir, new.dir], name, &new.stat)? => {}
        Likeness::Unclear | Likeness::Different => return Ok(true),
    }
    let before = xattr_at(old.dir, name, &old.stat, CAPABILITY)?;
    let after = xattr_at(new.dir, name, &new.stat, CAPABILITY)?;
    Ok(before != after)
}

/// Collects changes while directories are walked.
#[derive(Default)]
struct Collector {
    list: Vec<Change>,
    path: PathBuf,
}

impl Collector {
    fn new() -> Self {
        Self { list: Vec::new(), path: PathBuf::from("/") }
    }

    fn enter(&mut self, name: &[u8]) {
        self.path.push(OsStr::from_bytes(name));
    }

    fn leave(&mut self) {
        self.path.pop();
    }

    fn push(&mut self, kind: ChangeKind) {
        self.list.push(Change { path: self.path.clone(), kind });
    }

    fn deleted(&mut self, name: &[u8]) {
        self.enter(name);
        self.push(ChangeKind::Deleted);
        self.leave();
    }

    /// Lists the present directory as modified before everything noted since `start`.
    fn insert_parent(&mut self, start: usize) {
        if self.list.len() > start {
            let path = self.path.clone();
            self.list.insert(start, Change { path, kind: ChangeKind::Modified });
        }
    }
}

fn open_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
    rustix::fs::openat(dir, name, READ_DIR, Mode::empty())
}

fn stat_at(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<Stat>, Errno> {
    match rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Sum of the apparent sizes of the non-directories in a tree, each inode once: the `DiffSize`
/// of a directory of changes. Overlay whiteouts count nothing.
pub fn tree_size(tree: &Root) -> Result<u64, ChangesError> {
    let mut seen = HashSet::new();
    let mut path = PathBuf::from("/");
    size_below(tree.fd(), &mut path, &mut seen, 0)
}

fn size_below(
    dir: BorrowedFd<'_>,
    path: &mut PathBuf,
    seen: &mut HashSet<(u64, u64)>,
    depth: usize,
) -> Result<u64, ChangesError> {
    if depth > MAX_DEPTH {
        return Err(failed("walk", path)(Errno::NAMETOOLONG));
    }
    let mut total: u64 = 0;
    for name in names(dir).map_err(failed("list", path))? {
        path.push(OsStr::from_bytes(&name));
        // What disappears meanwhile counts nothing: sizes are asked for while containers run.
        if let Some(stat) = stat_at(dir, &name).map_err(failed("look at", path))? {
            if !is_dir(&stat) {
                total = total.saturating_add(own_size(&stat, seen));
            } else if let Some(inner) =
                ignore_missing(open_dir(dir, &name)).map_err(failed("open", path))?
            {
                let below = size_below(inner.as_fd(), path, seen, depth + 1)?;
                total = total.saturating_add(below);
            }
        }
        path.pop();
    }
    Ok(total)
}

fn ignore_missing<T>(result: Result<T, Errno>) -> Result<Option<T>, Errno> {
    match result {
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        other => other.map(Some),
    }
}

fn own_size(stat: &Stat, seen: &mut HashSet<(u64, u64)>) -> u64 {
    let first = stat.st_nlink < 2 || seen.insert((stat.st_dev, stat.st_ino));
    if first { u64::try_from(stat.st_size).unwrap_or(0) } else { 0 }
}

/// Sum of the sizes of the added and modified non-directories in `changes`, each inode once:
/// the `DiffSize` of a full-tree driver.
pub fn changed_size(tree: &Root, changes: &[Change]) -> Result<u64, ChangesError> {
    let mut seen = HashSet::new();
    let mut total: u64 = 0;
    for change in changes.iter().filter(|change| change.kind != ChangeKind::Deleted) {
        match tree.stat(&change.path, crate::root::Follow::No) {
            Ok(stat) if !is_dir(&stat) => {
                total = total.saturating_add(own_size(&stat, &mut seen));
            }
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(source) => {
                return Err(ChangesError { action: "look at", path: change.path.clone(), source });
            }
        }
    }
    Ok(total)
}

#[cfg(test)]
mod tests;
