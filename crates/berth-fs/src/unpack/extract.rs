//! The pass over the archive.

use std::collections::{HashMap, HashSet};
use std::ffi::OsStr;
use std::io::{self, BufRead, Write};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{AtFlags, FileType, Gid, Uid};
use rustix::io::Errno;

use crate::root::{Left, Root, remove_tree};
use crate::tar::{Entry, Kind, Reader, Time};
use crate::tarsplit::{Crc64, Writer};
use crate::unpack::parents::Parents;
use crate::unpack::{
    TypeClash, UnpackError, UnpackOptions, Unpacked, WhiteoutStyle, clean, split_clean,
};

type Split<'a> = Writer<&'a mut (dyn Write + 'a)>;

/// How the content of an entry is recorded for tar-split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Keep {
    /// By checksum: it can be read back from the layer.
    Checksum,
    /// Whole: it cannot.
    Whole,
}

/// One extraction.
pub(super) struct Job<'a> {
    pub(super) options: &'a UnpackOptions,
    /// Who makes the files.
    pub(super) me: (Uid, Gid),
    pub(super) parents: Parents,
    /// Inodes that this archive made or merged.
    pub(super) own: HashSet<u64>,
    /// Those among them whose content tar-split needs again.
    pub(super) needed: HashSet<u64>,
    /// Those among these that were reached through symbolic links, by their clean names.
    pub(super) through_links: Vec<(Vec<u8>, u64)>,
    /// Directories whose times are set at the end.
    pub(super) dirs: Vec<(Vec<u8>, Time)>,
    /// Files of aufs that later hard links name.
    pub(super) plinks: HashMap<Vec<u8>, (OwnedFd, u64)>,
    /// A whiteout was made that is a file beside what it deletes.
    pub(super) marked: bool,
    pub(super) done: Unpacked,
    pub(super) split: Option<Split<'a>>,
    bytes: u64,
    /// Something of this archive was replaced, so that `tree_size` must be counted anew.
    recount: bool,
}

/// Unpacks everything that `reader` gives, and records it in `split` if given.
pub(crate) fn run<'a, R: BufRead>(
    reader: Reader<R>,
    dest: BorrowedFd<'_>,
    options: &'a UnpackOptions,
    split: Option<&'a mut (dyn Write + 'a)>,
) -> Result<Unpacked, UnpackError> {
    let mut reader = if split.is_some() { reader.keep_raw() } else { reader };
    let io = |source| UnpackError::Io { action: "open", name: "/".to_owned(), source };
    let mut job = Job {
        options,
        me: (rustix::process::geteuid(), rustix::process::getegid()),
        parents: Parents::new(dest, options.ids.root(), options.marks()).map_err(io)?,
        own: HashSet::new(),
        needed: HashSet::new(),
        through_links: Vec::new(),
        dirs: Vec::new(),
        plinks: HashMap::new(),
        marked: false,
        done: Unpacked::default(),
        split: split.map(Writer::new),
        bytes: 0,
        recount: false,
    };
    let mut name = Vec::new();
    while reader.next_entry()?.is_some() {
        let entry = reader.take_entry();
        job.flush(&mut reader)?;
        job.count(&entry)?;
        job.entry(&mut reader, &entry, &mut name)?;
        reader.give_back(entry);
    }
    job.flush(&mut reader)?;
    let split = &mut job.split;
    reader.finish(|bytes| match split {
        Some(split) => split.segment(bytes).map_err(|source| UnpackError::TarSplit { source }),
        None => Ok(()),
    })?;
    job.finish()
}

impl Job<'_> {
    /// Records the headers and padding read so far.
    fn flush<R: BufRead>(&mut self, reader: &mut Reader<R>) -> Result<(), UnpackError> {
        if let Some(split) = &mut self.split {
            split.segment(reader.raw()).map_err(|source| UnpackError::TarSplit { source })?;
            reader.raw().clear();
        }
        Ok(())
    }

    fn count(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        let limits = self.options.limits;
        self.done.entries += 1;
        if self.done.entries > limits.max_entries {
            return Err(UnpackError::TooManyEntries { limit: limits.max_entries });
        }
        self.done.header_size = self.done.header_size.saturating_add(entry.size);
        self.bytes = self.bytes.saturating_add(entry.size);
        if self.bytes > limits.max_bytes {
            return Err(UnpackError::TooManyBytes { limit: limits.max_bytes });
        }
        Ok(())
    }

    fn entry<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        name: &mut Vec<u8>,
    ) -> Result<(), UnpackError> {
        if entry.kind == Kind::Global {
            return Ok(());
        }
        if !clean(&entry.path, name) {
            let dest = self.options.dest_name.clone();
            return Err(UnpackError::Outside { name: entry.name(), dest });
        }
        let has_data = reader.stored() > 0;
        let checksum = if self.options.whiteouts == WhiteoutStyle::Plain
            || !self.special(reader, entry, name)?
        {
            self.make(reader, entry, name)?
        } else {
            None
        };
        // What an entry of its kind does not use is still part of the archive.
        self.content(reader, entry, None, Keep::Whole)?;
        match (&mut self.split, checksum) {
            (Some(split), Some(checksum)) => split.file(&entry.path, entry.size, Some(checksum)),
            (Some(split), None) if !has_data => split.file(&entry.path, 0, None),
            _ => Ok(()),
        }
        .map_err(|source| UnpackError::TarSplit { source })
    }

    /// Reads the entry's stored data, writes it to `file` if given, and records it. Gives the
    /// checksum if there was content to sum.
    pub(super) fn content<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        file: Option<&OwnedFd>,
        keep: Keep,
    ) -> Result<Option<[u8; 8]>, UnpackError> {
        let mut crc = Crc64::new();
        let sums = self.split.is_some() && keep == Keep::Checksum && reader.stored() > 0;
        let extents = entry.sparse.as_deref().unwrap_or_default();
        let mut extents = extents.iter().filter(|extent| extent.length > 0).copied();
        let mut place = extents.next();
        let mut early = EarlyWriteOut::default();
        loop {
            let mut chunk = reader.fill().map_err(|error| error.of(entry.name()))?;
            if chunk.is_empty() {
                break;
            }
            if let Some(extent) = &mut place {
                let most = usize::try_from(extent.length).unwrap_or(usize::MAX);
                chunk = &chunk[..chunk.len().min(most)];
            }
            match (&mut self.split, keep) {
                (Some(_), Keep::Checksum) => crc.update(chunk),
                (Some(split), Keep::Whole) => {
                    split.segment(chunk).map_err(|source| UnpackError::TarSplit { source })?;
                }
                (None, _) => {}
            }
            if let Some(file) = file {
                let offset = place.map(|extent| extent.offset);
                write_all(file, chunk, offset).map_err(io_error("write", entry))?;
                if place.is_none() {
                    early.wrote(file, chunk.len() as u64);
                }
            }
            let count = chunk.len();
            reader.consume(count);
            if let Some(extent) = &mut place {
                extent.offset += count as u64;
                extent.length -= count as u64;
                if extent.length == 0 {
                    place = extents.next();
                }
            }
        }
        Ok(sums.then(|| crc.finish()))
    }

    /// The directory that an entry goes into.
    pub(super) fn parent_of(
        &mut self,
        entry: &Entry,
        name: &[u8],
    ) -> Result<Rc<OwnedFd>, UnpackError> {
        let (dir, _) = split_clean(name);
        self.parents.ensure(dir, &mut self.own).map_err(io_error("create the parent of", entry))
    }

    /// Removes what stands where an entry goes. Says whether it was an overlay whiteout.
    pub(super) fn make_room(
        &mut self,
        parent: BorrowedFd<'_>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<bool, UnpackError> {
        let (_, base) = split_clean(name);
        let stat = match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => return Ok(false),
            other => other.map_err(io_error("replace", entry))?,
        };
        let kind = FileType::from_raw_mode(stat.st_mode);
        if self.options.type_clash == TypeClash::Refuse {
            let (path, dest) = (self.shown(name), self.options.dest_name.clone());
            if kind == FileType::Directory {
                return Err(UnpackError::DirByFile { path, dest });
            }
            if entry.kind == Kind::Directory {
                return Err(UnpackError::FileByDir { path, dest });
            }
        }
        let (own, needed) = (&mut self.own, &self.needed);
        let mut lost = false;
        let mut replaced = false;
        let left = remove_tree(parent, base, &mut |stat| {
            lost |= needed.contains(&stat.st_ino);
            replaced |= !lost && own.remove(&stat.st_ino);
            !lost
        })
        .map_err(io_error("replace", entry))?;
        self.recount |= replaced;
        if lost || left == Left::Something {
            return Err(UnpackError::Duplicate { name: entry.name() });
        }
        if matches!(kind, FileType::Directory | FileType::Symlink) {
            self.parents.forget();
            self.dirs.retain(|(dir, _)| {
                !dir.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest[0] == b'/')
            });
        }
        Ok(crate::marks::is_whiteout(&stat))
    }

    /// An entry's place for messages.
    pub(super) fn shown(&self, name: &[u8]) -> PathBuf {
        self.options.dest_name.join(Path::new(OsStr::from_bytes(name)))
    }

    /// Notes what was made; `needed` when tar-split will want its content.
    pub(super) fn note(&mut self, inode: u64, needed: bool) {
        self.own.insert(inode);
        if needed && self.split.is_some() {
            self.needed.insert(inode);
        }
    }

    /// A file that was reached through a link must still be reached by its name: a later entry may
    /// have replaced the link, and the archive could not be given back.
    fn check_links(&mut self) -> Result<(), UnpackError> {
        if self.split.is_none() {
            return Ok(());
        }
        // Names were resolved while the links were others.
        self.parents.forget();
        for (name, inode) in std::mem::take(&mut self.through_links) {
            let (dir, base) = split_clean(&name);
            let found = self.parents.existing(dir);
            let stat =
                found.and_then(|dir| rustix::fs::statat(&*dir, base, AtFlags::SYMLINK_NOFOLLOW));
            if !stat.is_ok_and(|stat| stat.st_ino == inode) {
                let name = String::from_utf8_lossy(&name).into_owned();
                return Err(UnpackError::Duplicate { name });
            }
        }
        Ok(())
    }

    fn finish(mut self) -> Result<Unpacked, UnpackError> {
        for (name, time) in std::mem::take(&mut self.dirs).iter().rev() {
            let (dir, base) = split_clean(name);
            let base = if base.is_empty() { b"." } else { base };
            let result = self.parents.existing(dir).and_then(|dir| {
                let times = super::kinds::timestamps(*time, None);
                rustix::fs::utimensat(&*dir, base, &times, AtFlags::SYMLINK_NOFOLLOW)
            });
            match result {
                // Replaced through another name.
                Ok(()) | Err(Errno::NOENT | Errno::NOTDIR) => {}
                Err(error) => {
                    let name = String::from_utf8_lossy(name).into_owned();
                    let source = io::Error::from(error);
                    return Err(UnpackError::Io { action: "set the times of", name, source });
                }
            }
        }
        self.check_links()?;
        if let Some(split) = self.split.take() {
            split.finish().map_err(|source| UnpackError::TarSplit { source })?;
        }
        if self.recount {
            let io = |source| UnpackError::Io { action: "measure", name: "/".to_owned(), source };
            let root = self.parents.root().as_fd().try_clone_to_owned().map_err(io)?;
            let measured = crate::changes::tree_size(&Root::from_fd(root));
            self.done.tree_size = measured.map_err(|error| io(error.source))?;
        }
        Ok(self.done)
    }
}

/// Names the entry in an error of the kernel.
pub(super) fn io_error<'e>(
    action: &'static str,
    entry: &'e Entry,
) -> impl FnOnce(Errno) -> UnpackError + use<'e> {
    move |error| UnpackError::Io { action, name: entry.name(), source: error.into() }
}

/// Large files are written out while what follows is read and hashed: the sync that makes a layer last then
/// waits for little.
#[derive(Default)]
struct EarlyWriteOut {
    begun: u64,
    written: u64,
}

impl EarlyWriteOut {
    /// Written out at a time; files that are smaller are left to the sync.
    const STEP: u64 = 4 << 20;

    fn wrote(&mut self, file: &OwnedFd, count: u64) {
        self.written += count;
        let waiting = self.written - self.begun;
        if waiting < Self::STEP {
            return;
        }
        if let Err(error) = berth_sys::fsinfo::begin_write_out(file, self.begun, waiting) {
            tracing::trace!(%error, "not written out early");
        }
        self.begun = self.written;
    }
}

fn write_all(file: &OwnedFd, mut bytes: &[u8], mut offset: Option<u64>) -> Result<(), Errno> {
    while !bytes.is_empty() {
        let written = match offset {
            Some(offset) => rustix::io::pwrite(file, bytes, offset),
            None => rustix::io::write(file, bytes),
        };
        match written {
            Ok(0) => return Err(Errno::NOSPC),
            Ok(count) => {
                bytes = &bytes[count..];
                offset = offset.map(|offset| offset + count as u64);
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
