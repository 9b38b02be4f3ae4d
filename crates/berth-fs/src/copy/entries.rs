//! What is not a directory.

use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use super::links::Name;
use super::walk::Dir;
use super::{Copier, CopyError, Files, metadata};

/// Whether it was still there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Done {
    Copied,
    Gone,
}

/// An entry of a directory that is copied.
struct Entry<'a> {
    dir: &'a Dir,
    name: &'a [u8],
    stat: &'a Stat,
    kind: FileType,
}

impl Entry<'_> {
    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> CopyError + use<> {
        super::failed(action, &self.dir.path_of(self.name))
    }

    fn set(&self, set: Result<(), metadata::Failure>) -> Result<(), CopyError> {
        set.map_err(|(action, error)| self.failed(action)(error))
    }

    fn from(&self) -> BorrowedFd<'_> {
        self.dir.from.as_fd()
    }

    fn to(&self) -> BorrowedFd<'_> {
        self.dir.to.as_fd()
    }
}

/// Copies or links one entry of `dir` that is no directory.
pub(super) fn copy(
    copier: &Copier<'_>,
    dir: &Dir,
    name: &[u8],
    stat: &Stat,
) -> Result<(), CopyError> {
    let entry = Entry { dir, name, stat, kind: FileType::from_raw_mode(stat.st_mode) };
    if copier.files == Files::Link {
        match rustix::fs::linkat(entry.from(), name, entry.to(), name, AtFlags::empty()) {
            // It has as many names as it may have.
            Err(Errno::MLINK) => {}
            other => return other.map_err(entry.failed("link")),
        }
    }
    if stat.st_nlink < 2 {
        return one(copier, &entry).map(drop);
    }
    match copier.links.claim((stat.st_dev, stat.st_ino)) {
        Name::Other(first) => link(copier, &entry, &first),
        Name::First(claim) => {
            if one(copier, &entry)? == Done::Copied {
                claim.copied(dir.path_of(name));
            }
            Ok(())
        }
    }
}

fn link(copier: &Copier<'_>, entry: &Entry<'_>, first: &Path) -> Result<(), CopyError> {
    let (dir, base) = copier.target.parent_of(first).map_err(|source| CopyError {
        action: "find the first name of",
        path: Path::new("/").join(entry.dir.path_of(entry.name)),
        source,
    })?;
    rustix::fs::linkat(dir.fd(), &base, entry.to(), entry.name, AtFlags::empty())
        .map_err(entry.failed("link"))
}

fn one(copier: &Copier<'_>, entry: &Entry<'_>) -> Result<Done, CopyError> {
    match entry.kind {
        FileType::RegularFile => file(copier, entry),
        FileType::Symlink => symlink(copier, entry),
        // A socket is only a name here; like Docker, a pipe takes its place.
        FileType::Socket if copier.files == Files::Mirror => node(entry, FileType::Socket, 0),
        FileType::Fifo | FileType::Socket => node(entry, FileType::Fifo, 0),
        kind => node(entry, kind, entry.stat.st_rdev),
    }
}

fn file(copier: &Copier<'_>, entry: &Entry<'_>) -> Result<Done, CopyError> {
    let Entry { name, stat, .. } = *entry;
    let common = OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let read = common | OFlags::RDONLY | OFlags::NONBLOCK;
    let write = common | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
    let source = match rustix::fs::openat(entry.from(), name, read, Mode::empty()) {
        Err(Errno::NOENT) if copier.files == Files::Mirror => return Ok(Done::Gone),
        other => other.map_err(entry.failed("open"))?,
    };
    // The mode at once, if nobody gets at it who should not, before it has its owner.
    let mode = if (stat.st_uid, stat.st_gid) == (0, 0) { stat.st_mode & 0o777 } else { 0o600 };
    let target = rustix::fs::openat(entry.to(), name, write, Mode::from_raw_mode(mode))
        .map_err(entry.failed("create"))?;
    if stat.st_size > 0 {
        let (bytes, method) =
            berth_sys::copy::content(&source, &target, copier.method()).map_err(|source| {
                CopyError {
                    action: "copy",
                    path: Path::new("/").join(entry.dir.path_of(name)),
                    source,
                }
            })?;
        copier.copied(bytes, method);
    }
    entry.set(metadata::copy(source.as_fd(), target.as_fd(), stat, copier.xattrs))?;
    Ok(Done::Copied)
}

fn symlink(copier: &Copier<'_>, entry: &Entry<'_>) -> Result<Done, CopyError> {
    let text = match rustix::fs::readlinkat(entry.from(), entry.name, Vec::new()) {
        Err(Errno::NOENT) if copier.files == Files::Mirror => return Ok(Done::Gone),
        other => other.map_err(entry.failed("read"))?,
    };
    rustix::fs::symlinkat(&text, entry.to(), entry.name).map_err(entry.failed("create"))?;
    entry.set(metadata::copy_at(entry.to(), entry.name, entry.stat))?;
    Ok(Done::Copied)
}

fn node(entry: &Entry<'_>, kind: FileType, device: u64) -> Result<Done, CopyError> {
    let mode = Mode::from_raw_mode(entry.stat.st_mode);
    rustix::fs::mknodat(entry.to(), entry.name, kind, mode, device)
        .map_err(entry.failed("create"))?;
    entry.set(metadata::copy_at(entry.to(), entry.name, entry.stat))?;
    Ok(Done::Copied)
}
