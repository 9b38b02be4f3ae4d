//! Writing tars of directories, as Docker writes them.
//!
//! Entries are sorted by name within each directory, so the same tree gives the same bytes. Times
//! are in whole seconds, owners are numbers only, and `security.capability` is the one extended
//! attribute that goes along. Sockets are left out. Owners are ids of the container: where the tree holds
//! ids of the host, they are translated, and those that no container has become the kernel's 65534.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read as _, Write};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_types::IdMaps;
use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

use crate::capability;
use crate::changes::{CAPABILITY, Change, ChangeKind, xattr};
use crate::marks::{Marks, PREFIX, Seen};
use crate::root::{Follow, MAX_DEPTH, READ_DIR, Root, names};
use crate::tar::{Entry, Kind, TarWriter, Time};

/// Why a tar was not written.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum PackError {
    #[error("cannot {action} {}", .path.display())]
    Tree { action: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot write the archive")]
    Write { source: io::Error },
}

/// What was packed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Packed {
    /// Entries written.
    pub entries: u64,
    /// Bytes of file content.
    pub content: u64,
    /// Files that an archive of this kind cannot hold, left out: sockets, and in layers names
    /// that begin with `.wh.`.
    pub skipped: u64,
}

const BUFFER: usize = 256 * 1024;

/// What names and devices mean in the tree being packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    /// Everything is what it is.
    Plain,
    /// A full tree that becomes a layer.
    Layer,
    /// A directory of changes, with these marks, that becomes a layer.
    Upper(Marks),
}

/// Packs a directory of changes as a layer: whiteouts become `.wh.` files.
///
/// Names have no leading `./` and there is no entry for the root, as in Docker's own layers.
pub fn upper_dir<W: Write>(
    upper: &Root,
    marks: Marks,
    ids: &IdMaps,
    out: W,
) -> Result<Packed, PackError> {
    let mut packer = Packer::new(out, ids, Style::Upper(marks));
    packer.below(upper.fd(), &mut Vec::new(), 0)?;
    packer.finish()
}

/// Packs a whole tree (`docker export`, the base layer of a full-tree driver), without the
/// root itself.
pub fn tree<W: Write>(tree: &Root, ids: &IdMaps, out: W) -> Result<Packed, PackError> {
    let mut packer = Packer::new(out, ids, Style::Plain);
    packer.below(tree.fd(), &mut Vec::new(), 0)?;
    packer.finish()
}

/// Packs `changes` of a full tree as a layer, sorted by path.
///
/// A path that has disappeared since the changes were found is left out.
pub fn changes<W: Write>(
    tree: &Root,
    changes: &[Change],
    ids: &IdMaps,
    out: W,
) -> Result<Packed, PackError> {
    let mut sorted: Vec<&Change> = changes.iter().collect();
    sorted.sort_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
    let mut packer = Packer::new(out, ids, Style::Layer);
    for change in sorted {
        let failed =
            |action| move |source| PackError::Tree { action, path: change.path.clone(), source };
        let (parent, base) = match tree.parent_of(&change.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            other => other.map_err(failed("open the parent of"))?,
        };
        let bytes = change.path.as_os_str().as_bytes();
        let name = bytes.strip_prefix(b"/").unwrap_or(bytes).to_vec();
        if change.kind == ChangeKind::Deleted {
            let stat = parent.stat(Path::new("."), Follow::No).map_err(failed("look at"))?;
            packer.whiteout(&name, &stat, 0)?;
        } else {
            packer.one(parent.fd(), base.as_bytes(), &name)?;
        }
    }
    packer.finish()
}

/// What [`rebased`] says of files.
#[derive(Debug, Clone, Copy)]
pub struct Attributes<'a> {
    /// What ids of the container are in the tree.
    pub ids: &'a IdMaps,
    /// The permissions of everything but links, whatever the files have.
    pub mode: Option<u32>,
}

/// Packs what `path` names below `root` for `docker cp`, entries named `name` and `name/…`.
/// `name` of `.` or empty gives `./` and what is in it. A last link is packed as a link.
pub fn rebased<W: Write>(
    root: &Root,
    path: &Path,
    name: &Path,
    attributes: Attributes<'_>,
    out: W,
) -> Result<Packed, PackError> {
    let mut packer = Packer::new(out, attributes.ids, Style::Plain);
    packer.mode = attributes.mode;
    let failed = |action| move |source| PackError::Tree { action, path: path.to_owned(), source };
    let mut name = name.as_os_str().as_bytes().to_vec();
    while name.last() == Some(&b'/') {
        name.pop();
    }
    if name.is_empty() {
        name.push(b'.');
    }
    let stat = root.stat(path, Follow::No).map_err(failed("look at"))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        let dir = root.open_dir(path).map_err(failed("open"))?;
        let entry = packer.entry_of(&stat, &name, Some(dir.fd()))?;
        packer.header(&entry)?;
        packer.below(dir.fd(), &mut name, 0)?;
    } else {
        let (parent, base) = root.parent_of(path).map_err(failed("open the parent of"))?;
        packer.one(parent.fd(), base.as_bytes(), &name)?;
    }
    packer.finish()
}

struct Packer<'a, W> {
    out: TarWriter<W>,
    ids: &'a IdMaps,
    /// Instead of the files' own.
    mode: Option<u32>,
    style: Style,
    /// First names of files that have several.
    links: HashMap<(u64, u64), Vec<u8>>,
    buffer: Vec<u8>,
    packed: Packed,
}

fn failed(action: &'static str, name: &[u8]) -> impl FnOnce(Errno) -> PackError {
    let path = PathBuf::from(OsStr::from_bytes(name));
    move |error| PackError::Tree { action, path, source: error.into() }
}

fn written(result: io::Result<()>) -> Result<(), PackError> {
    result.map_err(|source| PackError::Write { source })
}

impl<'a, W: Write> Packer<'a, W> {
    fn new(out: W, ids: &'a IdMaps, style: Style) -> Self {
        Self {
            out: TarWriter::new(out),
            ids,
            mode: None,
            style,
            links: HashMap::new(),
            buffer: vec![0; BUFFER],
            packed: Packed::default(),
        }
    }

    fn finish(self) -> Result<Packed, PackError> {
        let result = self.out.finish().map(drop);
        written(result)?;
        Ok(self.packed)
    }

    fn header(&mut self, entry: &Entry) -> Result<(), PackError> {
        self.packed.entries += 1;
        written(self.out.header(entry))
    }

    /// Packs everything in a directory; `name` is the directory's, empty for the root.
    fn below(
        &mut self,
        dir: BorrowedFd<'_>,
        name: &mut Vec<u8>,
        depth: usize,
    ) -> Result<(), PackError> {
        if depth > MAX_DEPTH {
            return Err(failed("walk", name)(Errno::NAMETOOLONG));
        }
        let length = name.len();
        let all = match self.style {
            // What is deleted has no entry there.
            Style::Upper(Marks::Aufs) => Marks::Aufs.names(dir),
            _ => names(dir),
        };
        for base in all.map_err(failed("list", name))? {
            if length > 0 {
                name.push(b'/');
            }
            name.extend_from_slice(&base);
            if self.one(dir, &base, name)? {
                let inner = rustix::fs::openat(dir, &base[..], READ_DIR, Mode::empty())
                    .map_err(failed("open", name))?;
                self.below(inner.as_fd(), name, depth + 1)?;
            }
            name.truncate(length);
        }
        Ok(())
    }

    /// Packs one thing, not what is in it. Says whether it is a directory.
    fn one(&mut self, dir: BorrowedFd<'_>, base: &[u8], name: &[u8]) -> Result<bool, PackError> {
        // First: fuse-overlayfs leaves such files beside the attribute of an opaque directory, one
        // of them a whiteout.
        if self.style != Style::Plain && base.starts_with(PREFIX) {
            self.packed.skipped += 1;
            return Ok(false);
        }
        let seen = match self.style {
            Style::Upper(marks) => marks.look(dir, base),
            _ => look(dir, base),
        };
        let stat = match seen.map_err(failed("look at", name))? {
            // It went away after its directory was listed.
            Seen::Nothing => return Ok(false),
            Seen::Deleted(mark) => {
                self.whiteout(name, &mark, 0o600)?;
                return Ok(false);
            }
            Seen::Entry(stat) => stat,
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::Directory => {
                let inner = rustix::fs::openat(dir, base, READ_DIR, Mode::empty())
                    .map_err(failed("open", name))?;
                self.directory(inner.as_fd(), &stat, name)?;
                return Ok(true);
            }
            FileType::RegularFile => self.file(dir, base, &stat, name)?,
            FileType::Symlink => {
                let mut entry = self.entry_of(&stat, name, None)?;
                let text =
                    rustix::fs::readlinkat(dir, base, Vec::new()).map_err(failed("read", name))?;
                entry.link = text.into_bytes();
                self.linked(entry, &stat)?;
            }
            FileType::CharacterDevice | FileType::BlockDevice | FileType::Fifo => {
                let entry = self.entry_of(&stat, name, None)?;
                self.linked(entry, &stat)?;
            }
            _ => self.packed.skipped += 1,
        }
        Ok(false)
    }

    fn directory(
        &mut self,
        dir: BorrowedFd<'_>,
        stat: &Stat,
        name: &[u8],
    ) -> Result<(), PackError> {
        let entry = self.entry_of(stat, name, Some(dir))?;
        self.header(&entry)?;
        let Style::Upper(marks) = self.style else { return Ok(()) };
        if !marks.is_opaque(dir).map_err(failed("read an attribute of", name))? {
            return Ok(());
        }
        let mark = Entry {
            path: [name, b"/.wh..wh..opq"].concat(),
            mode: entry.mode & 0o777,
            uid: entry.uid,
            gid: entry.gid,
            ..Entry::default()
        };
        self.header(&mark)
    }

    fn file(
        &mut self,
        dir: BorrowedFd<'_>,
        base: &[u8],
        stat: &Stat,
        name: &[u8],
    ) -> Result<(), PackError> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let file =
            rustix::fs::openat(dir, base, flags, Mode::empty()).map_err(failed("open", name))?;
        let mut entry = self.entry_of(stat, name, Some(file.as_fd()))?;
        if let Some(first) = self.first_name(stat, name) {
            entry.kind = Kind::HardLink;
            entry.link = first;
            entry.size = 0;
            return self.header(&entry);
        }
        self.header(&entry)?;
        self.content(file.into(), entry.size, name)
    }

    /// Exactly `size` bytes: a file that grows is cut, one that shrinks is an error.
    fn content(&mut self, file: File, size: u64, name: &[u8]) -> Result<(), PackError> {
        let mut file = file.take(size);
        let mut left = size;
        while left > 0 {
            let count = match file.read(&mut self.buffer) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
                other => other,
            }
            .map_err(|source| PackError::Tree {
                action: "read",
                path: OsStr::from_bytes(name).into(),
                source,
            })?;
            written(self.out.content().write_all(&self.buffer[..count]))?;
            left -= count as u64;
        }
        self.packed.content += size;
        written(self.out.end_content())
    }

    /// Writes an entry without content, as a hard link if its inode was packed before.
    fn linked(&mut self, mut entry: Entry, stat: &Stat) -> Result<(), PackError> {
        if let Some(first) = self.first_name(stat, &entry.path) {
            entry.kind = Kind::HardLink;
            entry.link = first;
        }
        self.header(&entry)
    }

    /// The name under which an inode was packed before; remembers this one otherwise.
    fn first_name(&mut self, stat: &Stat, name: &[u8]) -> Option<Vec<u8>> {
        if stat.st_nlink < 2 {
            return None;
        }
        let key = (stat.st_dev, stat.st_ino);
        if let Some(first) = self.links.get(&key) {
            return Some(first.clone());
        }
        self.links.insert(key, name.to_vec());
        None
    }

    fn whiteout(&mut self, name: &[u8], stat: &Stat, mode: u32) -> Result<(), PackError> {
        let (dir, base) = match name.iter().rposition(|&byte| byte == b'/') {
            Some(at) => name.split_at(at + 1),
            None => (&[][..], name),
        };
        let entry = Entry {
            path: [dir, PREFIX, base].concat(),
            mode,
            // The kernel makes whiteouts for whoever mounted, who may be nobody in the container.
            uid: self.ids.uids.to_container(stat.st_uid).unwrap_or(0).into(),
            gid: self.ids.gids.to_container(stat.st_gid).unwrap_or(0).into(),
            mtime: mtime(stat),
            ..Entry::default()
        };
        self.header(&entry)
    }

    /// What a tar says about a file.
    fn entry_of(
        &self,
        stat: &Stat,
        name: &[u8],
        open: Option<BorrowedFd<'_>>,
    ) -> Result<Entry, PackError> {
        let mut entry = Entry {
            path: name.to_vec(),
            mode: stat.st_mode & 0o7777,
            uid: self.ids.uids.seen(stat.st_uid).into(),
            gid: self.ids.gids.seen(stat.st_gid).into(),
            mtime: mtime(stat),
            ..Entry::default()
        };
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => entry.size = u64::try_from(stat.st_size).unwrap_or(0),
            FileType::Directory => {
                entry.kind = Kind::Directory;
                entry.path.push(b'/');
            }
            FileType::Symlink => entry.kind = Kind::Symlink,
            FileType::CharacterDevice => entry.kind = Kind::CharDevice,
            FileType::BlockDevice => entry.kind = Kind::BlockDevice,
            _ => entry.kind = Kind::Fifo,
        }
        if let Some(mode) = self.mode.filter(|_| entry.kind != Kind::Symlink) {
            entry.mode = mode;
        }
        if matches!(entry.kind, Kind::CharDevice | Kind::BlockDevice) {
            let device = stat.st_rdev;
            entry.device = (rustix::fs::major(device), rustix::fs::minor(device));
        }
        if let Some(open) = open {
            let value = xattr(open, CAPABILITY).map_err(failed("read an attribute of", name))?;
            let value = value.map(|value| capability::to_container(value, self.ids));
            entry.xattrs.extend(value.map(|value| (CAPABILITY.as_bytes().to_vec(), value)));
        }
        Ok(entry)
    }
}

/// What is at a name where names and devices mean nothing else.
fn look(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Seen, Errno> {
    match rustix::fs::statat(dir, name, rustix::fs::AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Seen::Entry(stat)),
        Err(Errno::NOENT) => Ok(Seen::Nothing),
        Err(error) => Err(error),
    }
}

fn mtime(stat: &Stat) -> Time {
    Time { seconds: stat.st_mtime, nanos: 0 }
}

#[cfg(test)]
mod tests;
