//! Directories that entries go into, kept open between entries.

use std::collections::{HashMap, HashSet};
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use berth_types::Owner;
use rustix::fs::{AtFlags, Gid, Mode, Uid};
use rustix::io::Errno;

use crate::marks::{Marks, is_whiteout, whiteout_of};
use crate::root::{PATH_DIR, READ_DIR, open_in, open_without_links};
use crate::unpack::split_clean;

/// Most directories kept open.
const MAX_OPEN: usize = 256;
/// Mode of directories that the archive needs but does not have.
const IMPLIED_MODE: u32 = 0o755;

/// Opens directories beneath the destination by their clean names.
#[derive(Debug)]
pub(super) struct Parents {
    root: Rc<OwnedFd>,
    /// Whose the directories are that an archive implies.
    owner: Owner,
    /// What whiteouts of the archive become.
    marks: Option<Marks>,
    open: HashMap<Vec<u8>, Parent>,
}

#[derive(Debug, Clone)]
struct Parent {
    dir: Rc<OwnedFd>,
    /// A symbolic link is on the way to it.
    linked: bool,
}

impl Parents {
    pub(super) fn new(
        dest: BorrowedFd<'_>,
        owner: Owner,
        marks: Option<Marks>,
    ) -> io::Result<Self> {
        let root = Rc::new(dest.try_clone_to_owned()?);
        Ok(Self { root, owner, marks, open: HashMap::new() })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// Forgets everything: a directory or link was removed, names may mean something else.
    pub(super) fn forget(&mut self) {
        self.open.clear();
    }

    pub(super) fn remember(&mut self, name: &[u8], dir: OwnedFd) {
        let linked = self.is_linked(split_clean(name).0);
        self.keep(name, Parent { dir: Rc::new(dir), linked });
    }

    fn keep(&mut self, name: &[u8], parent: Parent) {
        if self.open.len() >= MAX_OPEN {
            self.open.clear();
        }
        self.open.insert(name.to_vec(), parent);
    }

    /// Whether a symbolic link is on the way to the directory `name`, which was just asked for.
    pub(super) fn is_linked(&self, name: &[u8]) -> bool {
        self.open.get(name).is_some_and(|parent| parent.linked)
    }

    /// The directory `name`, which must exist.
    pub(super) fn existing(&mut self, name: &[u8]) -> Result<Rc<OwnedFd>, Errno> {
        if name.is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some(parent) = self.open.get(name) {
            return Ok(Rc::clone(&parent.dir));
        }
        let root = self.root.as_fd();
        let (dir, linked) = match open_without_links(root, name, PATH_DIR, Mode::empty()) {
            Err(Errno::LOOP) => (open_in(root, name, PATH_DIR, Mode::empty())?, true),
            other => (other?, false),
        };
        let dir = Rc::new(dir);
        self.keep(name, Parent { dir: Rc::clone(&dir), linked });
        Ok(dir)
    }

    /// The directory `name`, made with its parents if it is missing. The inodes of those made
    /// are added to `made`.
    pub(super) fn ensure(
        &mut self,
        name: &[u8],
        made: &mut HashSet<u64>,
    ) -> Result<Rc<OwnedFd>, Errno> {
        // The missing ones, deepest first; names are at most PATH_MAX long, so this ends.
        let mut missing: Vec<&[u8]> = Vec::new();
        let mut known = name;
        let mut dir = loop {
            match self.existing(known) {
                Ok(dir) => break dir,
                Err(error @ (Errno::NOENT | Errno::NOTDIR)) if !known.is_empty() => {
                    let (parent, base) = split_clean(known);
                    if error == Errno::NOTDIR && !self.whiteout_at(parent, base) {
                        return Err(error);
                    }
                    missing.push(base);
                    known = parent;
                }
                Err(error) => return Err(error),
            }
        };
        let mut length = known.len();
        let linked = self.is_linked(known);
        while let Some(base) = missing.pop() {
            length += base.len() + usize::from(length > 0);
            let made_here = make_implied(dir.as_fd(), base, self.owner, self.marks)?;
            made.insert(rustix::fs::fstat(&made_here)?.st_ino);
            dir = Rc::new(made_here);
            self.keep(&name[..length], Parent { dir: Rc::clone(&dir), linked });
        }
        Ok(dir)
    }

    fn whiteout_at(&mut self, parent: &[u8], base: &[u8]) -> bool {
        self.existing(parent)
            .and_then(|dir| rustix::fs::statat(&dir, base, AtFlags::SYMLINK_NOFOLLOW))
            .is_ok_and(|stat| is_whiteout(&stat))
    }
}

/// Makes a directory that the archive implies; one that takes the place of a whiteout hides what is
/// below, as the whiteout did.
fn make_implied(
    parent: BorrowedFd<'_>,
    base: &[u8],
    owner: Owner,
    marks: Option<Marks>,
) -> Result<OwnedFd, Errno> {
    let mode = Mode::from_raw_mode(IMPLIED_MODE);
    let mut opaque = None;
    match rustix::fs::mkdirat(parent, base, mode) {
        Err(Errno::EXIST) => {
            let stat = rustix::fs::statat(parent, base, AtFlags::SYMLINK_NOFOLLOW)?;
            if !is_whiteout(&stat) {
                // A link that leads nowhere.
                return Err(Errno::NOENT);
            }
            rustix::fs::unlinkat(parent, base, AtFlags::empty())?;
            rustix::fs::mkdirat(parent, base, mode)?;
            opaque = Some(Marks::Overlay);
        }
        other => other?,
    }
    if marks == Some(Marks::Aufs) {
        match rustix::fs::unlinkat(parent, &whiteout_of(base)[..], AtFlags::empty()) {
            Ok(()) => opaque = marks,
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error),
        }
    }
    let dir = rustix::fs::openat(parent, base, READ_DIR, Mode::empty())?;
    if owner != Owner::ROOT {
        let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
        rustix::fs::fchown(&dir, Some(uid), Some(gid))?;
    }
    rustix::fs::fchmod(&dir, mode)?;
    if let Some(marks) = opaque {
        marks.set_opaque(&dir)?;
    }
    Ok(dir)
}
