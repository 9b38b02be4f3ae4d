//! Making files, directories, links and devices, and giving them their metadata.

use std::io::BufRead;
use std::os::fd::{AsFd as _, AsRawFd as _, BorrowedFd, OwnedFd};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::Errno;

use crate::capability;
use crate::changes::CAPABILITY;
use crate::marks::Marks;
use crate::root::READ_DIR;
use crate::tar::{Entry, Kind, Reader, Time};
use crate::unpack::extract::{Job, Keep, io_error};
use crate::unpack::{
    Devices, Owner, UnpackError, UnpackOptions, WhiteoutStyle, clean, split_clean,
};

const CREATE: OFlags = OFlags::WRONLY
    .union(OFlags::CREATE)
    .union(OFlags::EXCL)
    .union(OFlags::NOFOLLOW)
    .union(OFlags::CLOEXEC);

/// The times of an entry as the kernel takes them; like Docker, never accessed before modified.
pub(super) fn timestamps(mtime: Time, atime: Option<Time>) -> Timestamps {
    let spec = |time: Time| Timespec { tv_sec: time.seconds, tv_nsec: i64::from(time.nanos) };
    let atime = atime.map_or(mtime, |atime| atime.max(mtime));
    Timestamps { last_access: spec(atime), last_modification: spec(mtime) }
}

/// Whether an archive may set this attribute. What steers overlay mounts, and labels that belong
/// to the host's policy, may not come from outside.
fn is_allowed(name: &[u8]) -> bool {
    let steers = [&b"user.overlay."[..], b"user.fuseoverlayfs."];
    name == CAPABILITY.as_bytes()
        || name.starts_with(b"user.") && !steers.iter().any(|prefix| name.starts_with(prefix))
}

/// Whether something has an entry's mode, and has it still after a change of owner, which takes set-id
/// bits away.
fn has_mode(there: &Stat, entry: &Entry) -> bool {
    entry.mode & 0o6000 == 0 && there.st_mode & 0o7777 == entry.mode & 0o7777
}

impl Job<'_> {
    /// Makes what an ordinary entry describes; gives the checksum of its content.
    pub(super) fn make<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<Option<[u8; 8]>, UnpackError> {
        let unusable = |reason| UnpackError::Entry { name: entry.name(), reason };
        if name.is_empty() && entry.kind != Kind::Directory {
            return Err(unusable("only a directory can stand for the root"));
        }
        self.check_name(entry, name)?;
        let all_known = self.options.ids.is_identity() && self.options.known.is_identity();
        if !all_known && entry.kind != Kind::Global {
            // Before anything is made that then has the wrong owner.
            self.owner(entry)?;
        }
        match entry.kind {
            Kind::File => self.file(reader, entry, name),
            Kind::Directory => self.directory(entry, name).map(|()| None),
            Kind::Symlink => self.symlink(entry, name).map(|()| None),
            Kind::HardLink => self.hard_link(entry, name).map(|()| None),
            Kind::CharDevice | Kind::BlockDevice if self.options.devices == Devices::Refuse => {
                Err(unusable("device nodes are not allowed here"))
            }
            Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.node(entry, name).map(|()| None)
            }
            Kind::Other(_) => Err(unusable("unhandled tar header type")),
            Kind::Global => Ok(None),
        }
    }

    /// Runs `create`, after making room if something is in the way.
    fn create<T>(
        &mut self,
        parent: BorrowedFd<'_>,
        entry: &Entry,
        name: &[u8],
        create: impl Fn(&[u8]) -> Result<T, Errno>,
    ) -> Result<T, UnpackError> {
        let (_, base) = split_clean(name);
        match create(base) {
            Ok(made) => {
                self.unmark(parent, entry, base)?;
                Ok(made)
            }
            Err(Errno::EXIST) => {
                self.make_room(parent, entry, name)?;
                create(base).map_err(io_error("create", entry))
            }
            Err(error) => Err(io_error("create", entry)(error)),
        }
    }

    fn file<R: BufRead>(
        &mut self,
        reader: &mut Reader<R>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<Option<[u8; 8]>, UnpackError> {
        let parent = self.parent_of(entry, name)?;
        let mode = self.first_mode(parent.as_fd(), entry, 0o600)?;
        let file = self.create(parent.as_fd(), entry, name, |base| {
            rustix::fs::openat(&*parent, base, CREATE, mode)
        })?;
        let keep = if entry.sparse.is_some() { Keep::Whole } else { Keep::Checksum };
        let checksum = self.content(reader, entry, Some(&file), keep)?;
        let inode = self.finish_file(&file, entry)?;
        self.note(inode, checksum.is_some());
        if checksum.is_some() && self.parents.is_linked(split_clean(name).0) {
            self.through_links.push((name.to_vec(), inode));
        }
        self.done.tree_size = self.done.tree_size.saturating_add(entry.size);
        Ok(checksum)
    }

    /// The mode to make something with: its permissions where it is this user's and group's at once, or
    /// else a mode that lets nobody else in before it has its owner. A set-gid directory gives its own
    /// group to what is made in it.
    fn first_mode(
        &self,
        parent: BorrowedFd<'_>,
        entry: &Entry,
        closed: u32,
    ) -> Result<Mode, UnpackError> {
        if self.owner(entry)? != self.me {
            return Ok(Mode::from_raw_mode(closed));
        }
        let parent = rustix::fs::fstat(parent).map_err(io_error("look at the parent of", entry))?;
        let gives_group = parent.st_mode & 0o2000 != 0;
        Ok(Mode::from_raw_mode(if gives_group { closed } else { entry.mode & 0o777 }))
    }

    /// Gives a file that was just filled its size, owner, attributes, mode and times; its inode.
    pub(super) fn finish_file(
        &mut self,
        file: &OwnedFd,
        entry: &Entry,
    ) -> Result<u64, UnpackError> {
        if entry.sparse.is_some() {
            rustix::fs::ftruncate(file, entry.size).map_err(io_error("extend", entry))?;
        }
        let inode = self.own_and_mode(file.as_fd(), entry)?;
        rustix::fs::futimens(file, &timestamps(entry.mtime, entry.atime))
            .map_err(io_error("set the times of", entry))?;
        Ok(inode)
    }

    /// Owner first: a change of owner takes set-id bits and capabilities away. What is as it should be is
    /// not set: to a file system each is a change to be logged, and these were most of a small file's.
    /// Gives the inode.
    fn own_and_mode(&mut self, fd: BorrowedFd<'_>, entry: &Entry) -> Result<u64, UnpackError> {
        let there = rustix::fs::fstat(fd).map_err(io_error("look at", entry))?;
        let (uid, gid) = self.owner(entry)?;
        if (there.st_uid, there.st_gid) != (uid.as_raw(), gid.as_raw()) {
            rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(io_error("chown", entry))?;
        }
        for (name, value) in &entry.xattrs {
            if !is_allowed(name) {
                self.done.skipped_xattrs += 1;
                continue;
            }
            self.done.capabilities += u64::from(name == CAPABILITY.as_bytes());
            let value = capability::to_host(name, value, &self.options.ids);
            match rustix::fs::fsetxattr(fd, &name[..], &value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(Errno::OPNOTSUPP | Errno::PERM) => self.done.skipped_xattrs += 1,
                Err(error) => {
                    return Err(io_error("set an extended attribute of", entry)(error));
                }
            }
        }
        if !has_mode(&there, entry) {
            let mode = Mode::from_raw_mode(entry.mode);
            rustix::fs::fchmod(fd, mode).map_err(io_error("chmod", entry))?;
        }
        Ok(there.st_ino)
    }

    pub(super) fn owner(&self, entry: &Entry) -> Result<(Uid, Gid), UnpackError> {
        let (uid, gid) = match self.options.owner {
            Owner::Archive => (entry.uid, entry.gid),
            Owner::Fixed { uid, gid } => (u64::from(uid), u64::from(gid)),
        };
        let UnpackOptions { ids, known, .. } = self.options;
        if !known.is_identity() {
            known.uids.to_host(uid)?;
            known.gids.to_host(gid)?;
        }
        match (ids.uids.to_host(uid), ids.gids.to_host(gid)) {
            (Ok(uid), Ok(gid)) => Ok((Uid::from_raw(uid), Gid::from_raw(gid))),
            (Err(error), _) | (_, Err(error)) if !ids.is_identity() => Err(error.into()),
            _ => Err(UnpackError::Entry {
                name: entry.name(),
                reason: "the owner or group is out of range",
            }),
        }
    }

    fn directory(&mut self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        if name.is_empty() {
            return self.root_directory(entry);
        }
        let parent = self.parent_of(entry, name)?;
        let (_, base) = split_clean(name);
        let mode = self.first_mode(parent.as_fd(), entry, 0o700)?;
        let make = |base: &[u8]| rustix::fs::mkdirat(&*parent, base, mode);
        let open = |base: &[u8]| rustix::fs::openat(&*parent, base, READ_DIR, Mode::empty());
        let marks = self.options.marks();
        let mut hides = false;
        match make(base) {
            Ok(()) => {}
            Err(Errno::EXIST) => {
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                let there = rustix::fs::statat(&*parent, base, flags)
                    .map_err(io_error("look at", entry))?;
                if FileType::from_raw_mode(there.st_mode) != FileType::Directory {
                    let whiteout = self.make_room(parent.as_fd(), entry, name)?;
                    hides = whiteout && marks == Some(Marks::Overlay);
                    make(base).map_err(io_error("create", entry))?;
                }
            }
            Err(error) => return Err(io_error("create", entry)(error)),
        }
        let dir = open(base).map_err(io_error("open", entry))?;
        hides |= self.unmark(parent.as_fd(), entry, base)?;
        if let Some(marks) = marks.filter(|_| hides) {
            marks.set_opaque(&dir).map_err(io_error("mark", entry))?;
        }
        let inode = self.own_and_mode(dir.as_fd(), entry)?;
        self.note(inode, false);
        self.dirs.push((name.to_vec(), entry.mtime));
        self.parents.remember(name, dir);
        Ok(())
    }

    /// Docker gives the destination the archive's metadata only when it applies a layer to a
    /// full tree.
    fn root_directory(&mut self, entry: &Entry) -> Result<(), UnpackError> {
        if self.options.whiteouts != WhiteoutStyle::Apply {
            return Ok(());
        }
        let dir = rustix::fs::openat(self.parents.root(), ".", READ_DIR, Mode::empty())
            .map_err(io_error("open", entry))?;
        self.own_and_mode(dir.as_fd(), entry)?;
        self.dirs.push((Vec::new(), entry.mtime));
        Ok(())
    }

    fn symlink(&mut self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        let parent = self.parent_of(entry, name)?;
        self.create(parent.as_fd(), entry, name, |base| {
            rustix::fs::symlinkat(&entry.link[..], &*parent, base)
        })?;
        self.done.tree_size = self.done.tree_size.saturating_add(entry.link.len() as u64);
        self.finish_node(parent.as_fd(), entry, name)
    }

    fn node(&mut self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        let (kind, device) = match entry.kind {
            Kind::CharDevice => (FileType::CharacterDevice, entry.device),
            Kind::BlockDevice => (FileType::BlockDevice, entry.device),
            _ => (FileType::Fifo, (0, 0)),
        };
        let device = rustix::fs::makedev(device.0, device.1);
        let mode = Mode::from_raw_mode(entry.mode);
        let parent = self.parent_of(entry, name)?;
        self.create(parent.as_fd(), entry, name, |base| {
            rustix::fs::mknodat(&*parent, base, kind, mode, device)
        })?;
        self.finish_node(parent.as_fd(), entry, name)
    }

    /// Metadata of what cannot be opened: by name, not following links.
    fn finish_node(
        &mut self,
        parent: BorrowedFd<'_>,
        entry: &Entry,
        name: &[u8],
    ) -> Result<(), UnpackError> {
        let (_, base) = split_clean(name);
        let stat = rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io_error("look at", entry))?;
        let (uid, gid) = self.owner(entry)?;
        if (stat.st_uid, stat.st_gid) != (uid.as_raw(), gid.as_raw()) {
            rustix::fs::chownat(parent, base, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(io_error("chown", entry))?;
        }
        if entry.kind != Kind::Symlink && !has_mode(&stat, entry) {
            rustix::fs::chmodat(parent, base, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(io_error("chmod", entry))?;
        }
        let times = timestamps(entry.mtime, entry.atime);
        rustix::fs::utimensat(parent, base, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(io_error("set the times of", entry))?;
        self.done.skipped_xattrs += entry.xattrs.len() as u64;
        self.note(stat.st_ino, false);
        Ok(())
    }

    fn hard_link(&mut self, entry: &Entry, name: &[u8]) -> Result<(), UnpackError> {
        let mut target = Vec::new();
        if !clean(&entry.link, &mut target) || target.is_empty() {
            let target = String::from_utf8_lossy(&entry.link).into_owned();
            let path = self.options.dest_name.join(&target);
            return Err(UnpackError::HardLink { path, target });
        }
        if self.options.whiteouts != WhiteoutStyle::Plain
            && let Some(base) = target.strip_prefix(super::whiteout::PLINK_DIR)
        {
            return self.link_plink(entry, name, base);
        }
        let parent = self.parent_of(entry, name)?;
        let (dir, from) = split_clean(&target);
        let (_, base) = split_clean(name);
        let dir = self.parents.existing(dir).map_err(io_error("find the target of", entry))?;
        let look =
            |dir: &OwnedFd, name: &[u8]| rustix::fs::statat(dir, name, AtFlags::SYMLINK_NOFOLLOW);
        let found = look(&dir, from).map_err(io_error("find the target of", entry))?;
        if look(&parent, base).is_ok_and(|there| there.st_ino == found.st_ino) {
            return Ok(());
        }
        self.create(parent.as_fd(), entry, name, |base| {
            rustix::fs::linkat(&*dir, from, &*parent, base, AtFlags::empty())
        })?;
        self.own.insert(found.st_ino);
        Ok(())
    }

    fn link_plink(&mut self, entry: &Entry, name: &[u8], base: &[u8]) -> Result<(), UnpackError> {
        let Some((file, size)) = self.plinks.remove(base) else {
            let reason = "Invalid aufs hardlink";
            return Err(UnpackError::Entry { name: entry.name(), reason });
        };
        // The file has no name yet; its descriptor is the only way to it.
        let from = format!("/proc/self/fd/{}", file.as_raw_fd());
        let parent = self.parent_of(entry, name)?;
        self.create(parent.as_fd(), entry, name, |base| {
            rustix::fs::linkat(CWD, from.as_str(), &*parent, base, AtFlags::SYMLINK_FOLLOW)
        })?;
        let inode = rustix::fs::fstat(&file).map_err(io_error("look at", entry))?.st_ino;
        self.note(inode, false);
        // Counted with its first name.
        self.done.tree_size = self.done.tree_size.saturating_add(size);
        self.plinks.insert(base.to_vec(), (file, 0));
        Ok(())
    }
}
