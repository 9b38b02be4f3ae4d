//! Putting files where `ADD` and `COPY` want them.
//!
//! Files go as a tar from one tree to the other, as in Docker: so hard links, devices, times and
//! attributes come along, and neither tree is ever left by a link.

use std::io::{self, BufReader, BufWriter};
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use berth_fs::root::{Follow, Root};
use berth_fs::unpack::{Devices, Limits, Owner, TypeClash, UnpackOptions, WhiteoutStyle};
use berth_fs::{decompress, pack};
use berth_types::IdMaps;
use rustix::fs::{FileType, Gid, Mode, Timespec, Timestamps, UTIME_NOW, Uid};
use rustix::io::Errno;

use super::hash;
use super::source::Found;
use crate::build::error::BuildError;

/// Whose the copies are; `None` keeps the owners.
pub(crate) type NewOwner = Option<(u32, u32)>;

/// Where and how files are put.
#[derive(Debug, Clone)]
pub(crate) struct Placing {
    /// Absolute, as seen in the image; a slash at its end means a directory.
    pub(crate) destination: String,
    pub(crate) owner: NewOwner,
    /// The permissions of the copies; `None` keeps them.
    pub(crate) mode: Option<u32>,
    /// Whether archives are unpacked.
    pub(crate) unpacks: bool,
    /// What ids of the container are where files come from.
    pub(crate) from_ids: IdMaps,
    /// What they are in the image that is made.
    pub(crate) ids: IdMaps,
}

/// What is put.
struct Source<'a> {
    root: &'a Root,
    /// What ids of the container are there.
    ids: &'a IdMaps,
    path: &'a Path,
}

/// Whose the copies are, and who may do what with them.
#[derive(Clone, Copy)]
struct Whose<'a> {
    owner: NewOwner,
    /// Instead of the files' own.
    mode: Option<u32>,
    /// What ids of the container are in the image that is made.
    ids: &'a IdMaps,
}

/// Puts one file or directory, or what an archive has in it.
pub(crate) fn put(
    from: &Root,
    found: &Found,
    to: &Root,
    placing: &Placing,
) -> Result<(), BuildError> {
    let is_dir = kind(hash::look(from, &found.path)) == Some(FileType::Directory);
    let target = resolve(to, Path::new(&placing.destination))?;
    let here = IdMaps::default();
    let from_ids = if found.remote.is_some() { &here } else { &placing.from_ids };
    let source = Source { root: from, ids: from_ids, path: &found.path };
    let whose = Whose { owner: placing.owner, mode: placing.mode, ids: &placing.ids };
    let there = kind(to.stat(&target, Follow::No));
    if is_dir {
        return put_directory(&source, to, &target, there, whose);
    }
    if placing.unpacks && found.may_unpack && is_archive(from, &found.path)? {
        let dir = make_dirs(to, &target, Whose { owner: None, ..whose })?;
        let file = from.open_file(&hash::inside(&found.path)).map_err(failed)?;
        let (_, plain) = decompress::open(file).map_err(failed)?;
        let plain = BufReader::with_capacity(256 << 10, plain);
        return unpack(plain, &dir, Whose { owner: None, ..whose });
    }
    let into = placing.destination.ends_with('/') || there == Some(FileType::Directory);
    let target = if into { target.join(&found.name) } else { target };
    put_file(&source, to, &target, whose)
}

/// Copies what a path without links names, for somebody who may change it; gives where it is in
/// `to`. With each root comes what ids of the container are there.
pub(crate) fn copy(
    (from, from_ids): (&Root, &IdMaps),
    path: &Path,
    (to, ids): (&Root, &IdMaps),
) -> Result<PathBuf, BuildError> {
    let source = Source { root: from, ids: from_ids, path };
    let whose = Whose { owner: None, mode: None, ids };
    let stat = hash::look(from, path).map_err(failed)?;
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let name = path.file_name().filter(|_| !is_dir).map(PathBuf::from);
    through_tar(&source, name.as_deref().unwrap_or(Path::new(".")), to, whose)?;
    if is_dir {
        let uid = ids.uids.to_host(from_ids.uids.seen(stat.st_uid).into()).map_err(failed)?;
        let gid = ids.gids.to_host(from_ids.gids.seen(stat.st_gid).into()).map_err(failed)?;
        let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
        rustix::fs::fchown(to.fd(), Some(uid), Some(gid)).map_err(failed)?;
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::fchmod(to.fd(), mode).map_err(failed)?;
    }
    Ok(name.unwrap_or_default())
}

fn kind(stat: io::Result<rustix::fs::Stat>) -> Option<FileType> {
    stat.ok().map(|stat| FileType::from_raw_mode(stat.st_mode))
}

/// A new directory has mode 0755 whatever the source's is; one that is there keeps what it has.
fn put_directory(
    source: &Source<'_>,
    to: &Root,
    target: &Path,
    there: Option<FileType>,
    whose: Whose<'_>,
) -> Result<(), BuildError> {
    if there.is_some_and(|kind| kind != FileType::Directory) {
        let problem = "failed to copy directory: mkdir";
        return Err(BuildError::Place {
            problem,
            path: target.to_owned(),
            reason: "not a directory",
        });
    }
    let dir = make_dirs(to, target, whose)?;
    let before = rustix::fs::fstat(dir.fd()).map_err(failed)?;
    through_tar(source, Path::new("."), &dir, whose)?;
    let (uid, gid) = (Uid::from_raw(before.st_uid), Gid::from_raw(before.st_gid));
    rustix::fs::fchown(dir.fd(), Some(uid), Some(gid)).map_err(failed)?;
    let new = whose.mode.filter(|_| there.is_none());
    let mode = Mode::from_raw_mode(new.unwrap_or(before.st_mode & 0o7777));
    rustix::fs::fchmod(dir.fd(), mode).map_err(failed)?;
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    let times = Timestamps { last_access: now, last_modification: now };
    rustix::fs::futimens(dir.fd(), &times).map_err(failed)
}

fn put_file(
    source: &Source<'_>,
    to: &Root,
    target: &Path,
    whose: Whose<'_>,
) -> Result<(), BuildError> {
    let (Some(parent), Some(name)) = (target.parent(), target.file_name()) else {
        return Err(BuildError::Place {
            problem: "open",
            path: target.to_owned(),
            reason: "is a directory",
        });
    };
    let dir = make_dirs(to, parent, whose)?;
    through_tar(source, Path::new(name), &dir, whose)
}

/// Copies the source to `name` in `dir`.
fn through_tar(
    source: &Source<'_>,
    name: &Path,
    dir: &Root,
    whose: Whose<'_>,
) -> Result<(), BuildError> {
    let (reader, writer) = io::pipe().map_err(failed)?;
    std::thread::scope(|scope| {
        let packing = scope.spawn(move || {
            pack::rebased(
                source.root,
                &hash::inside(source.path),
                name,
                pack::Attributes { ids: source.ids, mode: whose.mode },
                BufWriter::with_capacity(1 << 16, writer),
            )
        });
        let unpacked = unpack(BufReader::with_capacity(256 << 10, reader), dir, whose);
        let packed = packing.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        // A failed unpacking breaks the pipe, so its error is the cause; a failed packing leaves
        // an archive that may look complete.
        unpacked?;
        packed.map(drop).map_err(failed)
    })
}

fn unpack(tar: impl io::BufRead, dir: &Root, whose: Whose<'_>) -> Result<(), BuildError> {
    let options = UnpackOptions {
        whiteouts: WhiteoutStyle::Plain,
        devices: Devices::Create,
        owner: whose.owner.map_or(Owner::Archive, |(uid, gid)| Owner::Fixed { uid, gid }),
        ids: whose.ids.clone(),
        known: IdMaps::default(),
        type_clash: TypeClash::Replace,
        limits: Limits::LAYER,
        dest_name: PathBuf::from("/"),
    };
    berth_fs::unpack::unpack(tar, dir.fd().as_fd(), &options).map(drop).map_err(failed)
}

/// Whether a file is an archive, compressed or not.
fn is_archive(from: &Root, path: &Path) -> Result<bool, BuildError> {
    let file = from.open_file(&hash::inside(path)).map_err(failed)?;
    match decompress::open(file) {
        Ok((_, plain)) => {
            let mut reader = berth_fs::tar::Reader::new(BufReader::new(plain));
            Ok(matches!(reader.next_entry(), Ok(Some(_))))
        }
        Err(_) => Ok(false),
    }
}

/// Where a path leads, links followed; what is missing of it is taken as it is.
pub(crate) fn resolve(root: &Root, path: &Path) -> Result<PathBuf, BuildError> {
    let clean = berth_build::apply::clean(&path.to_string_lossy());
    let clean = Path::new(&clean);
    match root.resolve(clean, Follow::Yes) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            match (clean.parent(), clean.file_name()) {
                (Some(parent), Some(name)) => Ok(resolve(root, parent)?.join(name)),
                _ => Err(failed(error)),
            }
        }
        Err(error) if error.raw_os_error() == Some(Errno::NOTDIR.raw_os_error()) => {
            Err(BuildError::Place {
                problem: "lstat",
                path: clean.to_owned(),
                reason: "not a directory",
            })
        }
        Err(error) => Err(failed(error)),
    }
}

/// Makes the directory that a path leads to.
pub(crate) fn make_path(root: &Root, path: &str, ids: &IdMaps) -> Result<(), BuildError> {
    let path = resolve(root, Path::new(path))?;
    make_dirs(root, &path, Whose { owner: None, mode: None, ids }).map(drop)
}

/// Makes the directory of a path without links, and what is missing above it; the new ones get
/// the owner, or are root's.
fn make_dirs(root: &Root, path: &Path, whose: Whose<'_>) -> Result<Root, BuildError> {
    match root.open_dir(path) {
        Ok(dir) => return Ok(dir),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) if error.kind() == io::ErrorKind::NotADirectory => {
            return Err(BuildError::Place {
                problem: "mkdir",
                path: path.to_owned(),
                reason: "not a directory",
            });
        }
        Err(error) => return Err(failed(error)),
    }
    if let Some(parent) = path.parent() {
        make_dirs(root, parent, whose)?;
    }
    let dir = root.mkdir_all(path, 0o755).map_err(failed)?;
    // The daemon's umask does not count.
    rustix::fs::fchmod(dir.fd(), Mode::from_raw_mode(0o755)).map_err(failed)?;
    if whose.owner.is_some() || !whose.ids.is_identity() {
        let (uid, gid) = whose.owner.unwrap_or((0, 0));
        let uid = Uid::from_raw(whose.ids.uids.to_host(uid.into()).map_err(failed)?);
        let gid = Gid::from_raw(whose.ids.gids.to_host(gid.into()).map_err(failed)?);
        rustix::fs::fchown(dir.fd(), Some(uid), Some(gid)).map_err(failed)?;
    }
    Ok(dir)
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> BuildError {
    BuildError::Copy(Box::new(error))
}
