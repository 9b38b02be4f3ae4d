//! What `.wh.` entries do.

use std::io::BufRead;
use std::os::fd::{BorrowedFd, OwnedFd};

use rustix::fs::{AtFlags, FileType, Mode, OFlags};
use rustix::io::Errno;

use crate::marks::{META_PREFIX, Marks, OPAQUE_FILE, PREFIX, is_whiteout, make_file, whiteout_of};
use crate::root::{READ_DIR, clear, remove_tree};
use crate::tar::{Entry, Kind, Reader};
use crate::unpack::extract::{Job, Keep, io_error};
use crate::unpack::{UnpackError, split_clean};

/// Where aufs keeps files that have several names.
pub(super) const PLINK_DIR: &[u8] = b".wh..wh.plnk/";
/// Most such files of one layer.
const MAX_PLINKS: usize = 1024;
/// The kernel's `AUFS_MAX_NAMELEN`: there is room for two prefixes and for temporary names.
const AUFS_NAME_MAX: usize = 242;

/// What the name of an entry says that it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mark<'a> {
    /// It is what it says.
    None,
    /// Metadata of aufs.
    Aufs,
    /// Nothing of the layers below is shown in the directory.
    Opaque { dir: &'a [u8] },
    /// This is deleted from the layers below.
    Deleted { dir: &'a [u8], base: &'a [u8] },
    /// It deletes what is no name.
    Bad,
}

/// Tells by a clean name.
pub(crate) fn mark_of(name: &[u8]) -> Mark<'_> {
    let (dir, base) = split_clean(name);
    if name.starts_with(META_PREFIX) && name != OPAQUE_FILE {
        return Mark::Aufs;
    }
    if base == OPAQUE_FILE {
        return Mark::Opaque { dir };
    }
    match base.strip_prefix(PREFIX) {
        None => Mark::None,
        // In a directory other than the root.
        Some(rest) if rest.starts_with(PREFIX) => Mark::Aufs,
        Some(b"" | b"." | b"..") => Mark::Bad,
        Some(base) => Mark::Deleted { dir, base },
    }
}

impl Job<'_> {
    /// Does what a whiteout or a metadata entry of aufs asks for; false for ordinary entries.
    pub(super) fn special<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<bool, UnpackError> {
        match mark_of(name) {
            Mark::None => return Ok(false),
            Mark::Aufs => {
                let (_, base) = split_clean(name);
                let is_plink = name.starts_with(PLINK_DIR) && entry.kind == Kind::File;
                if is_plink && !base.is_empty() {
                    self.plink(reader, entry, base)?;
                }
            }
            Mark::Opaque { dir } => self.opaque(entry, dir)?,
            Mark::Bad => {
                let dest = self.options.dest_name.clone();
                return Err(UnpackError::Outside { name: entry.name(), dest });
            }
            Mark::Deleted { dir, base } => match self.options.marks() {
                Some(Marks::Overlay) => self.mark_deleted(entry, name, base)?,
                Some(Marks::Aufs) => self.add_mark(entry, name, base)?,
                None => self.delete(entry, dir, base)?,
            },
        }
        Ok(true)
    }

    fn delete(&mut self, entry: &Entry, dir: &[u8], base: &[u8]) -> Result<(), UnpackError> {
        let dir = match self.parents.existing(dir) {
            Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
            other => other.map_err(io_error("delete", entry))?,
        };
        let own = &self.own;
        // A whiteout speaks of the layers below, never of what this layer brings itself.
        remove_tree(std::os::fd::AsFd::as_fd(&*dir), base, &mut |stat| !own.contains(&stat.st_ino))
            .map_err(io_error("delete", entry))?;
        self.parents.forget();
        Ok(())
    }

    fn mark_deleted(&mut self, entry: &Entry, name: &[u8], base: &[u8]) -> Result<(), UnpackError> {
        let parent = self.parent_of(entry, name)?;
        let make =
            || rustix::fs::mknodat(&*parent, base, FileType::CharacterDevice, Mode::empty(), 0);
        if let Err(error) = make() {
            if error != Errno::EXIST {
                return Err(io_error("create", entry)(error));
            }
            let there = rustix::fs::statat(&*parent, base, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io_error("look at", entry))?;
            if is_whiteout(&there) {
                return Ok(());
            }
            if self.own.contains(&there.st_ino) {
                // Brought by this layer itself: only what is below goes.
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    let dir = rustix::fs::openat(&*parent, base, READ_DIR, Mode::empty());
                    dir.and_then(|dir| Marks::Overlay.set_opaque(dir))
                        .map_err(io_error("mark", entry))?;
                }
                return Ok(());
            }
            remove_tree(std::os::fd::AsFd::as_fd(&*parent), base, &mut |_| true)
                .and_then(|_| make())
                .map_err(io_error("create", entry))?;
            self.parents.forget();
        }
        let (uid, gid) = self.owner(entry)?;
        rustix::fs::chownat(&*parent, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io_error("chown", entry))
    }

    /// A file beside the name, unless this layer brings something of that name itself.
    fn add_mark(&mut self, entry: &Entry, name: &[u8], base: &[u8]) -> Result<(), UnpackError> {
        self.check_name(entry, split_clean(name).0)?;
        if base.len() > AUFS_NAME_MAX {
            // No layer has it.
            return Ok(());
        }
        let parent = self.parent_of(entry, name)?;
        let parent = std::os::fd::AsFd::as_fd(&*parent);
        match rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(there) if self.own.contains(&there.st_ino) => {
                if FileType::from_raw_mode(there.st_mode) == FileType::Directory {
                    let dir = rustix::fs::openat(parent, base, READ_DIR, Mode::empty());
                    dir.and_then(|dir| Marks::Aufs.set_opaque(dir))
                        .map_err(io_error("mark", entry))?;
                }
                return Ok(());
            }
            Ok(_) => {
                remove_tree(parent, base, &mut |_| true).map_err(io_error("replace", entry))?;
                self.parents.forget();
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(io_error("look at", entry)(error)),
        }
        let mark = whiteout_of(base);
        make_file(parent, &mark).map_err(io_error("create", entry))?;
        self.marked = true;
        let (uid, gid) = self.owner(entry)?;
        rustix::fs::chownat(parent, &mark[..], Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io_error("chown", entry))
    }

    /// Takes away aufs's mark for what was just made. Says whether there was one: a directory must
    /// hide what is below, as the mark did.
    pub(super) fn unmark(
        &self,
        parent: BorrowedFd<'_>,
        entry: &Entry,
        base: &[u8],
    ) -> Result<bool, UnpackError> {
        if !self.marked {
            return Ok(false);
        }
        match rustix::fs::unlinkat(parent, &whiteout_of(base)[..], AtFlags::empty()) {
            Ok(()) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(io_error("unmark", entry)(error)),
        }
    }

    /// Refuses what a mount of aufs would not show, or fail over.
    pub(super) fn check_name(&self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        if self.options.marks() != Some(Marks::Aufs) {
            return Ok(());
        }
        let refused = |reason| Err(UnpackError::Entry { name: entry.name(), reason });
        for part in name.split(|&byte| byte == b'/') {
            if part.starts_with(PREFIX) {
                return refused("aufs has names that begin with .wh. for itself");
            }
            if part.len() > AUFS_NAME_MAX {
                return refused("aufs has no names that are longer than 242 bytes");
            }
        }
        Ok(())
    }

    fn opaque(&mut self, entry: &Entry, dir: &[u8]) -> Result<(), UnpackError> {
        let marks = self.options.marks();
        self.check_name(entry, dir)?;
        let found = if marks.is_some() {
            self.parents.ensure(dir, &mut self.own)
        } else {
            match self.parents.existing(dir) {
                Err(Errno::NOENT | Errno::NOTDIR) => return Ok(()),
                other => other,
            }
        };
        let found = found.map_err(io_error("find the directory of", entry))?;
        let dir: OwnedFd = rustix::fs::openat(&*found, ".", READ_DIR, Mode::empty())
            .map_err(io_error("open the directory of", entry))?;
        if let Some(marks) = marks {
            return marks.set_opaque(dir).map_err(io_error("mark the directory of", entry));
        }
        let own = &self.own;
        clear(std::os::fd::AsFd::as_fd(&dir), &mut |stat| !own.contains(&stat.st_ino))
            .map_err(io_error("clear the directory of", entry))?;
        self.parents.forget();
        Ok(())
    }

    /// Keeps a file without a name, until a hard link gives it one.
    fn plink<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        base: &[u8],
    ) -> Result<(), UnpackError> {
        if self.plinks.len() >= MAX_PLINKS {
            let reason = "too many hard links of aufs";
            return Err(UnpackError::Entry { name: entry.name(), reason });
        }
        let flags = OFlags::WRONLY | OFlags::TMPFILE | OFlags::CLOEXEC;
        let mode = Mode::from_raw_mode(0o600);
        let file = rustix::fs::openat(self.parents.root(), ".", flags, mode)
            .map_err(io_error("create", entry))?;
        self.content(reader, entry, Some(&file), Keep::Whole)?;
        self.finish_file(&file, entry)?;
        self.plinks.insert(base.to_vec(), (file, entry.size));
        Ok(())
    }
}
