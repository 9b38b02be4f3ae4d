//! The directories.
//!
//! A task is a directory, or a part of a large one. Who does a directory's last part gives it its
//! metadata: from then on nothing is made in it.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use rustix::fs::{AtFlags, FileType, Mode, ResolveFlags, Stat};
use rustix::io::Errno;

use super::{Copier, CopyError, Files, entries, failed, metadata};
use crate::pool::Pool;
use crate::root::{MAX_DEPTH, READ_DIR, Root, names};

/// The most names that one task copies.
const PART: usize = 256;

/// A directory and its copy.
#[derive(Debug)]
pub(super) struct Dir {
    pub(super) from: OwnedFd,
    pub(super) to: OwnedFd,
    /// Below the target.
    path: PathBuf,
    stat: Stat,
    depth: usize,
    /// Parts that are not done, and directories that are not there yet.
    left: AtomicUsize,
}

impl Dir {
    /// Where an entry of it is, below the target.
    pub(super) fn path_of(&self, name: &[u8]) -> PathBuf {
        self.path.join(OsStr::from_bytes(name))
    }

    fn is_more(&self, count: usize) {
        self.left.fetch_add(count, Ordering::Relaxed);
    }

    /// To be called once for each that was announced; the last call finishes the directory.
    fn is_less(&self, copier: &Copier<'_>) -> Result<(), CopyError> {
        // Release and acquire: what others made in it is made before it gets its times.
        if self.left.fetch_sub(1, Ordering::AcqRel) > 1 {
            return Ok(());
        }
        metadata::copy(self.from.as_fd(), self.to.as_fd(), &self.stat, copier.xattrs)
            .map_err(|(action, error)| failed(action, &self.path)(error))
    }
}

/// Something to be done.
#[derive(Debug)]
enum Task {
    /// Copy what is in a directory.
    Fill(Arc<Dir>),
    /// Copy some of it.
    Part { dir: Arc<Dir>, names: Vec<Vec<u8>> },
    /// Make a directory and copy what is in it.
    Enter { above: Arc<Dir>, name: Vec<u8>, stat: Box<Stat> },
}

/// Copies what is in `from`, and its metadata, to the existing directory `to`, which is at `place` below
/// the target.
pub(super) fn run(
    copier: &Copier<'_>,
    from: &Root,
    to: &Root,
    place: &Path,
) -> Result<(), CopyError> {
    let stat = rustix::fs::fstat(from.fd()).map_err(failed("look at", place))?;
    let own = |root: &Root| {
        let failed = |source| CopyError { action: "open", path: place.to_owned(), source };
        root.fd().try_clone_to_owned().map_err(failed)
    };
    let dir = Dir {
        from: own(from)?,
        to: own(to)?,
        path: place.to_owned(),
        stat,
        depth: 0,
        left: AtomicUsize::new(0),
    };
    let act = |pool: &Pool<_, _>, task| match task {
        Task::Fill(dir) => fill(copier, pool, &dir),
        Task::Part { dir, names } => part(copier, pool, &dir, names),
        Task::Enter { above, name, stat } => enter(copier, pool, &above, &name, *stat),
    };
    Pool::run("copy", Task::Fill(Arc::new(dir)), act, |source| CopyError {
        action: "start to copy",
        path: place.to_owned(),
        source,
    })
}

type Tasks = Pool<Task, CopyError>;

/// Hands the names of a directory out; the first of them are left to this thread.
fn fill(copier: &Copier<'_>, pool: &Tasks, dir: &Arc<Dir>) -> Result<(), CopyError> {
    let mut names = names(dir.from.as_fd()).map_err(failed("list", &dir.path))?.into_iter();
    let mut parts = Vec::new();
    loop {
        let names: Vec<_> = names.by_ref().take(PART).collect();
        if names.is_empty() && !parts.is_empty() {
            break;
        }
        parts.push(names);
    }
    dir.is_more(parts.len());
    let mut parts = parts.into_iter();
    let first = parts.next().unwrap_or_default();
    pool.push(parts.map(|names| Task::Part { dir: Arc::clone(dir), names }));
    part(copier, pool, dir, first)
}

fn part(
    copier: &Copier<'_>,
    pool: &Tasks,
    dir: &Arc<Dir>,
    names: Vec<Vec<u8>>,
) -> Result<(), CopyError> {
    let mut inner = Vec::new();
    for name in names {
        let stat = match rustix::fs::statat(&dir.from, &*name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) if copier.files == Files::Mirror => continue,
            other => other.map_err(failed("look at", &dir.path_of(&name)))?,
        };
        if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
            inner.push(Task::Enter { above: Arc::clone(dir), name, stat: Box::new(stat) });
        } else {
            entries::copy(copier, dir, &name, &stat)?;
        }
    }
    dir.is_more(inner.len());
    pool.push(inner);
    dir.is_less(copier)
}

fn enter(
    copier: &Copier<'_>,
    pool: &Tasks,
    above: &Arc<Dir>,
    name: &[u8],
    stat: Stat,
) -> Result<(), CopyError> {
    let made = make(copier, above, name, stat)?;
    above.is_less(copier)?;
    match made {
        Made::Gone => Ok(()),
        Made::MountPoint(dir) => {
            dir.is_more(1);
            dir.is_less(copier)
        }
        Made::Dir(dir) => fill(copier, pool, &Arc::new(dir)),
    }
}

enum Made {
    Dir(Dir),
    /// Something is mounted there, and is left out.
    MountPoint(Dir),
    Gone,
}

fn make(copier: &Copier<'_>, above: &Dir, name: &[u8], stat: Stat) -> Result<Made, CopyError> {
    let path = above.path_of(name);
    let depth = above.depth + 1;
    if depth > MAX_DEPTH {
        return Err(failed("walk", &path)(Errno::NAMETOOLONG));
    }
    let open = |dir: BorrowedFd<'_>| rustix::fs::openat(dir, name, READ_DIR, Mode::empty());
    let mut is_mounted = false;
    if copier.files == Files::Mirror {
        let no_mount = ResolveFlags::NO_XDEV;
        match rustix::fs::openat2(&above.from, name, READ_DIR, Mode::empty(), no_mount) {
            Err(Errno::NOENT) => return Ok(Made::Gone),
            Err(Errno::XDEV) => is_mounted = true,
            other => drop(other.map_err(failed("open", &path))?),
        }
    }
    let from = open(above.from.as_fd()).map_err(failed("open", &path))?;
    rustix::fs::mkdirat(&above.to, name, Mode::from_raw_mode(0o700))
        .map_err(failed("create", &path))?;
    let to = open(above.to.as_fd()).map_err(failed("open the copy of", &path))?;
    let dir = Dir { from, to, path, stat, depth, left: AtomicUsize::new(0) };
    Ok(if is_mounted { Made::MountPoint(dir) } else { Made::Dir(dir) })
}
