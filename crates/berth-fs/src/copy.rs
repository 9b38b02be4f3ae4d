//! Copying trees with everything that belongs to them.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_sys::copy::Method;
use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::changes::{CAPABILITY, xattr};
use crate::root::{MAX_DEPTH, READ_DIR, Root, names};
use crate::unpack::OPAQUE;

/// Why a tree was not copied.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", .path.display())]
pub struct CopyError {
    pub action: &'static str,
    pub path: PathBuf,
    pub source: io::Error,
}

/// Which extended attributes go along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Xattrs {
    /// All but `trusted.overlay.*`.
    All,
    /// Like `All`, but directories that hide what is below them stay so: a directory of an
    /// overlay's changes is copied as one.
    Upper,
    /// Only `security.capability`.
    Capability,
}

/// Copies the content of `from` into the existing directory `to`, with owner, mode, times,
/// extended attributes, hard links, links and devices. The two directories' own metadata
/// is copied too. Data is shared where the file system can (reflink). Gives the bytes copied.
///
/// What is already in `to` under a name that is copied is an error.
pub fn tree(from: &Root, to: &Root, xattrs: Xattrs) -> Result<u64, CopyError> {
    let mut copier = Copier::new(to, xattrs, Files::Copy);
    copier.run(from)?;
    Ok(copier.bytes)
}

/// Like [`tree`], but only directories are copied: everything else is linked, as far as the file
/// system has links left, and must not be changed in place in either tree from then on.
pub fn links(from: &Root, to: &Root) -> Result<(), CopyError> {
    Copier::new(to, Xattrs::All, Files::Link).run(from)
}

/// Copies several trees of one file system so that they are as they were: hard links between them,
/// sockets and directories that hide what is below them too. What is mounted in them is left out, and
/// what disappears meanwhile is no error.
pub struct Mirror<'a>(Copier<'a>);

impl<'a> Mirror<'a> {
    /// Everything is copied below `to`.
    pub fn new(to: &'a Root) -> Self {
        Self(Copier::new(to, Xattrs::Upper, Files::Mirror))
    }

    /// Copies what is in the directory `from` into the existing one at `place`, a path below the
    /// target, and its own metadata. Gives the bytes copied.
    pub fn tree(&mut self, from: &Root, place: &Path) -> Result<u64, CopyError> {
        let copier = &mut self.0;
        place.clone_into(&mut copier.path);
        let open = |path: &Path| {
            copier.target.open_dir(path).map_err(|source| CopyError {
                action: "open",
                path: path.to_owned(),
                source,
            })
        };
        let to = open(place)?;
        let stat = rustix::fs::fstat(from.fd()).map_err(copier.failed("look at"))?;
        let before = copier.bytes;
        copier.below(from.fd(), to.fd(), 0)?;
        copier.metadata(from.fd(), to.fd(), &stat)?;
        Ok(copier.bytes - before)
    }
}

impl std::fmt::Debug for Mirror<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Mirror").finish_non_exhaustive()
    }
}

/// How what is not a directory gets into the new tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Files {
    Copy,
    Link,
    Mirror,
}

struct Copier<'a> {
    xattrs: Xattrs,
    files: Files,
    /// The cheapest method that has not been refused yet.
    method: Method,
    /// Where files with several names were copied to.
    links: HashMap<(u64, u64), PathBuf>,
    target: &'a Root,
    path: PathBuf,
    bytes: u64,
}

fn times(stat: &Stat) -> Timestamps {
    let spec = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    Timestamps {
        last_access: spec(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: spec(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}

impl<'a> Copier<'a> {
    fn new(target: &'a Root, xattrs: Xattrs, files: Files) -> Self {
        Self {
            xattrs,
            files,
            method: Method::Reflink,
            links: HashMap::new(),
            target,
            path: PathBuf::new(),
            bytes: 0,
        }
    }

    fn run(&mut self, from: &Root) -> Result<(), CopyError> {
        let stat = rustix::fs::fstat(from.fd()).map_err(self.failed("look at"))?;
        let to = self.target.fd();
        self.below(from.fd(), to, 0)?;
        self.metadata(from.fd(), to, &stat)
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(Errno) -> CopyError + use<> {
        let path = Path::new("/").join(&self.path);
        move |error| CopyError { action, path, source: error.into() }
    }

    fn below(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        depth: usize,
    ) -> Result<(), CopyError> {
        if depth > MAX_DEPTH {
            return Err(self.failed("walk")(Errno::NAMETOOLONG));
        }
        for name in names(from).map_err(self.failed("list"))? {
            self.path.push(OsStr::from_bytes(&name));
            self.one(from, to, &name, depth)?;
            self.path.pop();
        }
        Ok(())
    }

    fn one(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        depth: usize,
    ) -> Result<(), CopyError> {
        let stat = match rustix::fs::statat(from, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if self.files == Files::Mirror => return Ok(()),
            other => other.map_err(self.failed("look at"))?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if kind != FileType::Directory && self.files == Files::Link {
            match rustix::fs::linkat(from, name, to, name, AtFlags::empty()) {
                // It has as many names as it may have.
                Err(Errno::MLINK) => {}
                other => return other.map_err(self.failed("link")),
            }
        }
        if kind != FileType::Directory && stat.st_nlink > 1 {
            let key = (stat.st_dev, stat.st_ino);
            if let Some(first) = self.links.get(&key) {
                match self.link(first, to, name) {
                    // It had disappeared before it was copied.
                    Err(error)
                        if self.files == Files::Mirror
                            && error.source.kind() == io::ErrorKind::NotFound => {}
                    linked => return linked,
                }
            }
            self.links.insert(key, self.path.clone());
        }
        match kind {
            FileType::Directory => self.directory(from, to, name, &stat, depth),
            FileType::RegularFile => self.file(from, to, name, &stat),
            FileType::Symlink => {
                let text =
                    rustix::fs::readlinkat(from, name, Vec::new()).map_err(self.failed("read"))?;
                rustix::fs::symlinkat(&text, to, name).map_err(self.failed("create"))?;
                self.metadata_at(to, name, &stat)
            }
            // A socket is only a name here; like Docker, a pipe takes its place.
            FileType::Socket if self.files == Files::Mirror => self.node(to, name, kind, 0, &stat),
            FileType::Fifo | FileType::Socket => self.node(to, name, FileType::Fifo, 0, &stat),
            kind => self.node(to, name, kind, stat.st_rdev, &stat),
        }
    }

    fn link(&self, first: &Path, to: BorrowedFd<'_>, name: &[u8]) -> Result<(), CopyError> {
        let (dir, base) = self.target.parent_of(first).map_err(|source| CopyError {
            action: "find the first name of",
            path: Path::new("/").join(&self.path),
            source,
        })?;
        rustix::fs::linkat(dir.fd(), &base, to, name, AtFlags::empty()).map_err(self.failed("link"))
    }

    fn directory(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
        depth: usize,
    ) -> Result<(), CopyError> {
        let open = |dir| rustix::fs::openat(dir, name, READ_DIR, Mode::empty());
        let mut is_mounted = false;
        if self.files == Files::Mirror {
            let no_mount = ResolveFlags::NO_XDEV;
            match rustix::fs::openat2(from, name, READ_DIR, Mode::empty(), no_mount) {
                Err(Errno::NOENT) => return Ok(()),
                Err(Errno::XDEV) => is_mounted = true,
                other => drop(other.map_err(self.failed("open"))?),
            }
        }
        let source = open(from).map_err(self.failed("open"))?;
        rustix::fs::mkdirat(to, name, Mode::from_raw_mode(0o700)).map_err(self.failed("create"))?;
        let target = open(to).map_err(self.failed("open the copy of"))?;
        if !is_mounted {
            self.below(source.as_fd(), target.as_fd(), depth + 1)?;
        }
        self.metadata(source.as_fd(), target.as_fd(), stat)
    }

    fn file(
        &mut self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        name: &[u8],
        stat: &Stat,
    ) -> Result<(), CopyError> {
        let common = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let read = common | OFlags::RDONLY | OFlags::NONBLOCK;
        let write = common | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        let source = match rustix::fs::openat(from, name, read, Mode::empty()) {
            Err(Errno::NOENT) if self.files == Files::Mirror => return Ok(()),
            other => other.map_err(self.failed("open"))?,
        };
        let target = rustix::fs::openat(to, name, write, Mode::from_raw_mode(0o600))
            .map_err(self.failed("create"))?;
        if stat.st_size > 0 {
            let path = Path::new("/").join(&self.path);
            let (bytes, method) = berth_sys::copy::content(&source, &target, self.method)
                .map_err(|source| CopyError { action: "copy", path, source })?;
            self.bytes += bytes;
            self.method = method;
        }
        self.metadata(source.as_fd(), target.as_fd(), stat)
    }

    fn node(
        &self,
        to: BorrowedFd<'_>,
        name: &[u8],
        kind: FileType,
        device: u64,
        stat: &Stat,
    ) -> Result<(), CopyError> {
        let mode = Mode::from_raw_mode(stat.st_mode);
        rustix::fs::mknodat(to, name, kind, mode, device).map_err(self.failed("create"))?;
        self.metadata_at(to, name, stat)
    }

    /// Owner, attributes, mode, times, in this order: each may undo one that comes later.
    fn metadata(
        &self,
        from: BorrowedFd<'_>,
        to: BorrowedFd<'_>,
        stat: &Stat,
    ) -> Result<(), CopyError> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(to, Some(uid), Some(gid)).map_err(self.failed("chown"))?;
        self.attributes(from, to).map_err(self.failed("copy the extended attributes of"))?;
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(self.failed("chmod"))?;
        rustix::fs::futimens(to, &times(stat)).map_err(self.failed("set the times of"))
    }

    fn metadata_at(&self, to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<(), CopyError> {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), rustix::fs::Gid::from_raw(stat.st_gid));
        rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("chown"))?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
            let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
            rustix::fs::chmodat(to, name, mode, AtFlags::empty()).map_err(self.failed("chmod"))?;
        }
        rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(self.failed("set the times of"))
    }

    fn attributes(&self, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<(), Errno> {
        let listed = match self.xattrs {
            Xattrs::Capability => vec![CAPABILITY.to_owned()],
            Xattrs::All | Xattrs::Upper => list(from)?,
        };
        for name in listed {
            let hides = self.xattrs == Xattrs::Upper && name == OPAQUE;
            if name.starts_with("trusted.overlay.") && !hides {
                continue;
            }
            let Some(value) = xattr(from, &name)? else { continue };
            match rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty()) {
                // The target's file system has no such attributes.
                Ok(()) | Err(Errno::OPNOTSUPP) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

fn list(file: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    // The kernel's limit for the whole list is 64 KiB.
    let mut buffer = vec![0_u8; 1 << 16];
    let length = match rustix::fs::flistxattr(file, &mut buffer[..]) {
        Err(Errno::OPNOTSUPP) => 0,
        other => other?,
    };
    let names = buffer[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect())
}

#[cfg(test)]
mod tests;
