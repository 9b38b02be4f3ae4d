//! Paths that stay beneath a directory, whatever links lie on the way.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Component, Path, PathBuf};

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, OFlags, ResolveFlags, Stat, StatxAttributes, StatxFlags,
};
use rustix::io::Errno;

/// Deepest tree that is walked.
pub(crate) const MAX_DEPTH: usize = 1000;

/// A directory that names are resolved in, as if it were `/`.
///
/// Symbolic links are followed inside it (absolute ones start at it, `..` stops at it), links
/// of `/proc` never.
#[derive(Debug)]
pub struct Root {
    fd: OwnedFd,
}

/// Whether a link that is the last part of a path is followed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Follow {
    /// Yes.
    Yes,
    /// No: the link itself is meant.
    No,
}

/// Opens `path` as if `root` were `/`.
pub(crate) fn open_in(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
}

/// As [`open_in`], but a symbolic link anywhere in `path` is refused with `ELOOP`.
pub(crate) fn open_without_links(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
) -> Result<OwnedFd, Errno> {
    resolve(root, path, flags, mode, ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS)
}

fn resolve(
    root: BorrowedFd<'_>,
    path: &[u8],
    flags: OFlags,
    mode: Mode,
    resolve: ResolveFlags,
) -> Result<OwnedFd, Errno> {
    let path = if path.is_empty() { b"." } else { path };
    loop {
        // EAGAIN: somebody renamed something while a `..` was being followed.
        match rustix::fs::openat2(root, path, flags | OFlags::CLOEXEC, mode, resolve) {
            Err(Errno::INTR | Errno::AGAIN) => {}
            other => return other,
        }
    }
}

/// Flags to open a directory only to name things in it.
pub(crate) const PATH_DIR: OFlags = OFlags::PATH.union(OFlags::DIRECTORY);
/// Flags to open a directory to list it, change its metadata, and name things in it.
pub(crate) const READ_DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Splits off the last part of a path; `None` if it ends in `.` or `..` or is the root.
fn split(path: &Path) -> Option<(&[u8], &OsStr)> {
    let bytes = path.as_os_str().as_bytes();
    let end = bytes.iter().rposition(|&byte| byte != b'/')? + 1;
    let start = bytes[..end].iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
    let name = &bytes[start..end];
    if matches!(name, b"." | b"..") {
        return None;
    }
    Some((&bytes[..start], OsStr::from_bytes(name)))
}

impl Root {
    /// Opens a host directory as a root.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(Self { fd: rustix::fs::openat(CWD, path, flags, Mode::empty())? })
    }

    /// Takes a directory descriptor as a root.
    pub fn from_fd(fd: OwnedFd) -> Self {
        Self { fd }
    }

    /// The root's own descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    /// Another descriptor of the same directory.
    pub fn try_clone(&self) -> io::Result<Self> {
        Ok(Self { fd: self.fd.try_clone()? })
    }

    /// Whether this is the top of something mounted, as kernels from 5.8 on tell; older ones are
    /// taken to say yes.
    pub fn is_mount(&self) -> io::Result<bool> {
        let stat = rustix::fs::statx(&self.fd, "", AtFlags::EMPTY_PATH, StatxFlags::TYPE)?;
        let is_told = stat.stx_attributes_mask.contains(StatxAttributes::MOUNT_ROOT);
        Ok(!is_told || stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
    }

    /// Opens what `path` names; a last link is not followed when `flags` has `NOFOLLOW`.
    pub fn open_at(&self, path: &Path, flags: OFlags, mode: Mode) -> io::Result<OwnedFd> {
        Ok(open_in(self.fd(), path.as_os_str().as_bytes(), flags, mode)?)
    }

    /// Opens a file for reading. A named pipe does not block; devices are refused.
    pub fn open_file(&self, path: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        // Looked at first without opening: opening a device can have effects.
        let stat = self.stat(path, Follow::Yes)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile | FileType::Directory => {}
            _ => return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        }
        Ok(self.open_at(path, flags, Mode::empty())?.into())
    }

    /// Creates (or truncates) a file for writing with `mode`.
    pub fn create_file(&self, path: &Path, mode: u32) -> io::Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::TRUNC | OFlags::NONBLOCK;
        Ok(self.open_at(path, flags, Mode::from_raw_mode(mode & 0o7777))?.into())
    }

    /// Opens a directory.
    pub fn open_dir(&self, path: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        Ok(Self { fd: self.open_at(path, flags, Mode::empty())? })
    }

    /// Creates the directory `path` and its missing parents; gives the last one.
    ///
    /// What is there already (directories, and links to directories inside the root) is used.
    pub fn mkdir_all(&self, path: &Path, mode: u32) -> io::Result<Self> {
        match self.open_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            other => return other,
        }
        let Some((parent, name)) = split(path) else {
            return Err(io::ErrorKind::NotFound.into());
        };
        let parent = self.mkdir_all(Path::new(OsStr::from_bytes(parent)), mode)?;
        match rustix::fs::mkdirat(&parent.fd, name, Mode::from_raw_mode(mode)) {
            // Somebody was faster, or a link that leads nowhere is in the way (next line fails).
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error.into()),
        }
        self.open_dir(path)
    }

    /// Metadata of what `path` names.
    pub fn stat(&self, path: &Path, follow: Follow) -> io::Result<Stat> {
        let nofollow = if follow == Follow::No { OFlags::NOFOLLOW } else { OFlags::empty() };
        let fd = self.open_at(path, OFlags::PATH | nofollow, Mode::empty())?;
        Ok(rustix::fs::fstat(fd)?)
    }

    /// The text of a symbolic link.
    pub fn read_link(&self, path: &Path) -> io::Result<OsString> {
        let fd = self.open_at(path, OFlags::PATH | OFlags::NOFOLLOW, Mode::empty())?;
        let text = rustix::fs::readlinkat(fd, "", Vec::new())?;
        Ok(OsString::from_vec(text.into_bytes()))
    }

    /// The directory that holds the last part of `path`, and that part. The last part itself
    /// need not exist; `.` or `..` as last part is refused.
    pub fn parent_of(&self, path: &Path) -> io::Result<(Self, OsString)> {
        let (parent, name) = split(path).ok_or_else(|| {
            io::Error::new(io::ErrorKind::InvalidInput, "the path does not end in a name")
        })?;
        let parent = self.open_dir(Path::new(OsStr::from_bytes(parent)))?;
        Ok((parent, name.to_owned()))
    }

    /// Where `path` really is below the root, all links resolved: a clean absolute path as seen
    /// from inside. With [`Follow::No`] the last part is kept as it is.
    pub fn resolve(&self, path: &Path, follow: Follow) -> io::Result<PathBuf> {
        const MAX_LINKS: usize = 40;
        let mut done = PathBuf::from("/");
        let mut todo: Vec<OsString> = parts(path);
        let mut links = 0;
        while let Some(part) = todo.pop() {
            if part == ".." {
                done.pop();
                continue;
            }
            done.push(&part);
            if todo.is_empty() && follow == Follow::No {
                break;
            }
            let is_link = match self.stat(&done, Follow::No) {
                Ok(stat) => FileType::from_raw_mode(stat.st_mode) == FileType::Symlink,
                Err(error) if error.kind() == io::ErrorKind::NotFound && todo.is_empty() => false,
                Err(error) => return Err(error),
            };
            if is_link {
                links += 1;
                if links > MAX_LINKS {
                    return Err(Errno::LOOP.into());
                }
                let target = PathBuf::from(self.read_link(&done)?);
                if target.is_absolute() {
                    done = PathBuf::from("/");
                } else {
                    done.pop();
                }
                todo.extend(parts(&target));
            }
        }
        Ok(done)
    }

    /// Removes what `path` names, whole trees included; a last link is not followed. Nothing
    /// there is fine.
    pub fn remove_all(&self, path: &Path) -> io::Result<()> {
        let (parent, name) = match self.parent_of(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            other => other?,
        };
        Ok(remove_tree(parent.fd(), name.as_bytes(), &mut |_| true).map(drop)?)
    }
}

/// The parts of a path, last first, without `.` and `/`.
fn parts(path: &Path) -> Vec<OsString> {
    let mut parts: Vec<OsString> = path
        .components()
        .filter_map(|part| match part {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some(OsString::from("..")),
            _ => None,
        })
        .collect();
    parts.reverse();
    parts
}

/// What was left of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Left {
    Nothing,
    Something,
}

/// Removes `name` in `parent` and everything below it for which `remove` says yes, never
/// following a link; a directory with something left in it stays. Nothing there is fine.
pub(crate) fn remove_tree(
    parent: BorrowedFd<'_>,
    name: &[u8],
    remove: &mut dyn FnMut(&Stat) -> bool,
) -> Result<Left, Errno> {
    remove_tree_at(parent, name, remove, 0)
}

fn remove_tree_at(
    parent: BorrowedFd<'_>,
    name: &[u8],
    remove: &mut dyn FnMut(&Stat) -> bool,
    depth: usize,
) -> Result<Left, Errno> {
    let stat = match rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(Left::Nothing),
        other => other?,
    };
    let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
    let wanted = remove(&stat);
    if !is_dir {
        if !wanted {
            return Ok(Left::Something);
        }
        return match rustix::fs::unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(Left::Nothing),
            Err(error) => Err(error),
        };
    }
    if depth > MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let left = clear_dir(parent, name, remove, depth)?;
    if !wanted || left == Left::Something {
        return Ok(Left::Something);
    }
    match rustix::fs::unlinkat(parent, name, AtFlags::REMOVEDIR) {
        Ok(()) | Err(Errno::NOENT) => Ok(Left::Nothing),
        Err(error) => Err(error),
    }
}

fn clear_dir(
    parent: BorrowedFd<'_>,
    name: &[u8],
    remove: &mut dyn FnMut(&Stat) -> bool,
    depth: usize,
) -> Result<Left, Errno> {
    let dir = rustix::fs::openat(parent, name, READ_DIR, Mode::empty())?;
    let mut left = Left::Nothing;
    for child in names(dir.as_fd())? {
        if remove_tree_at(dir.as_fd(), &child, remove, depth + 1)? == Left::Something {
            left = Left::Something;
        }
    }
    Ok(left)
}

/// Removes everything inside the directory `dir` for which `remove` says yes.
pub(crate) fn clear(
    dir: BorrowedFd<'_>,
    remove: &mut dyn FnMut(&Stat) -> bool,
) -> Result<Left, Errno> {
    let mut left = Left::Nothing;
    for child in names(dir)? {
        if remove_tree_at(dir, &child, remove, 1)? == Left::Something {
            left = Left::Something;
        }
    }
    Ok(left)
}

/// The names in a directory, sorted by bytes, without `.` and `..`.
pub fn names(dir: BorrowedFd<'_>) -> Result<Vec<Vec<u8>>, Errno> {
    let mut names = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    names.sort_unstable();
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    fn tree() -> (tempfile::TempDir, Root) {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("root");
        std::fs::create_dir_all(base.join("a/b")).unwrap();
        std::fs::create_dir(dir.path().join("outside")).unwrap();
        std::fs::File::create(base.join("a/b/file")).unwrap();
        std::fs::File::create(dir.path().join("outside/file")).unwrap();
        symlink("/a/b", base.join("abs")).unwrap();
        symlink("../../../a", base.join("up")).unwrap();
        symlink("../outside", base.join("out")).unwrap();
        symlink("loop", base.join("loop")).unwrap();
        symlink("/nowhere", base.join("dangling")).unwrap();
        let root = Root::open(&base).unwrap();
        (dir, root)
    }

    #[test]
    fn links_lead_nowhere_outside() {
        let (_dir, root) = tree();
        #[rustfmt::skip]
        let table: &[(&str, Result<&str, Errno>)] = &[
            ("a/b/file",             Ok("/a/b/file")),
            ("/a/./b//file",         Ok("/a/b/file")),
            ("abs/file",             Ok("/a/b/file")),
            ("up/b/file",            Ok("/a/b/file")),
            ("../../../a/b/file",    Ok("/a/b/file")),
            ("out/file",             Err(Errno::NOENT)),
            ("loop/x",               Err(Errno::LOOP)),
            ("a/b/file/x",           Err(Errno::NOTDIR)),
        ];
        for (path, expected) in table {
            let path = Path::new(path);
            let opened = root.open_file(path).map(drop);
            let resolved = root.resolve(path, Follow::Yes);
            match expected {
                Ok(real) => {
                    opened.unwrap();
                    assert_eq!(resolved.unwrap(), Path::new(real), "{path:?}");
                }
                Err(errno) => {
                    let got = opened.unwrap_err().raw_os_error();
                    assert_eq!(got, Some(errno.raw_os_error()), "{path:?}");
                    // What does not exist as the last part still has a place.
                    assert!(resolved.is_err() || *errno == Errno::NOENT, "{path:?}");
                }
            }
        }
    }

    #[test]
    fn directories_are_made_inside_only() {
        let (dir, root) = tree();
        root.mkdir_all(Path::new("abs/new/dir"), 0o755).unwrap();
        root.mkdir_all(Path::new("../x/y"), 0o755).unwrap();
        assert!(root.mkdir_all(Path::new("out/x"), 0o755).is_err());
        assert!(root.mkdir_all(Path::new("dangling/x"), 0o755).is_err());
        assert!(dir.path().join("root/a/b/new/dir").is_dir());
        assert!(dir.path().join("root/x/y").is_dir());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        assert_eq!(std::fs::read_dir(dir.path().join("outside")).unwrap().count(), 1);
    }

    #[test]
    fn removal_does_not_follow_links() {
        let (dir, root) = tree();
        for path in ["abs", "out", "a", "missing", "missing/x"] {
            root.remove_all(Path::new(path)).unwrap();
        }
        assert!(root.remove_all(Path::new("..")).is_err());
        let mut left: Vec<_> = names(root.fd()).unwrap();
        left.sort();
        assert_eq!(left, [&b"dangling"[..], b"loop", b"up"]);
        assert!(dir.path().join("outside/file").is_file());
    }
}
