//! What the init layer holds, so that it never shows in `docker diff`: the mount points and
//! files that a container's set-up needs.

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};

use berth_fs::marks::{Marks, Seen};
use berth_types::Owner;
use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, Stat, Uid, XattrFlags, chownat, fchmod, fchown,
    fgetxattr, flistxattr, fsetxattr, fstat, mkdirat, openat, statat, symlinkat, unlinkat,
};
use rustix::io::Errno;

use crate::LayerError;
use crate::files::io_at;

/// What stands at a path.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Dir,
    File,
    Link(&'static str),
}

type Entries = [(&'static str, Kind)];

/// By directory.
const CONTENT: &[(&str, &Entries)] = &[
    ("", &[(".dockerenv", Kind::File), ("proc", Kind::Dir), ("sys", Kind::Dir)]),
    ("dev", &[("console", Kind::File), ("pts", Kind::Dir), ("shm", Kind::Dir)]),
    (
        "etc",
        &[
            ("hostname", Kind::File),
            ("hosts", Kind::File),
            ("mtab", Kind::Link("/proc/mounts")),
            ("resolv.conf", Kind::File),
        ],
    ),
];

const MODE: u32 = 0o755;
const DIR: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// Fills the directory of changes of an init layer, as mounting it on `lowers` (nearest first)
/// and filling it there would.
pub(crate) fn fill_upper(
    upper: &Path,
    lowers: &[PathBuf],
    marks: Marks,
    owner: Owner,
) -> Result<(), LayerError> {
    let parts = lowers.iter().map(|path| open(path)).collect::<Result<_, _>>()?;
    let view = View { parts, marks };
    fill(&open(upper)?, &view, owner).map_err(io_at("fill the init layer", upper))
}

/// Fills the whole tree of an init layer.
pub(crate) fn fill_tree(root: &Path, owner: Owner) -> Result<(), LayerError> {
    // The marks of no layers at all.
    let view = View { parts: Vec::new(), marks: Marks::Overlay };
    fill(&open(root)?, &view, owner).map_err(io_at("fill the init layer", root))
}

fn open(path: &Path) -> Result<OwnedFd, LayerError> {
    rustix::fs::open(path, DIR, Mode::empty()).map_err(io_at("open", path))
}

fn fill(root: &OwnedFd, lowers: &View, owner: Owner) -> Result<(), Errno> {
    for (dir, entries) in CONTENT {
        if dir.is_empty() {
            place_all(root, entries, lowers, owner)?;
        } else {
            let below = lowers.look_up(dir)?;
            let dir = enter(root, dir, &below, lowers.marks, owner)?;
            place_all(&dir, entries, &below.into_view(lowers.marks), owner)?;
        }
    }
    Ok(())
}

fn place_all(dir: &OwnedFd, entries: &Entries, lowers: &View, owner: Owner) -> Result<(), Errno> {
    for (name, kind) in entries {
        place(dir, name, *kind, lowers, owner)?;
    }
    Ok(())
}

/// Opens the directory `name`; creates it like the one below. Anything else there is replaced.
fn enter(
    dir: &OwnedFd,
    name: &str,
    below: &Below,
    marks: Marks,
    owner: Owner,
) -> Result<OwnedFd, Errno> {
    match openat(dir, name, DIR, Mode::empty()) {
        Err(Errno::NOENT) => {}
        Err(Errno::NOTDIR | Errno::LOOP) => unlinkat(dir, name, AtFlags::empty())?,
        other => return other,
    }
    mkdirat(dir, name, Mode::from_raw_mode(MODE))?;
    let new = openat(dir, name, DIR, Mode::empty())?;
    match below {
        Below::Dir(view) => copy_attributes(&view.parts[0], &new)?,
        Below::Nothing | Below::Other => {
            own(dir, name, owner)?;
            fchmod(&new, Mode::from_raw_mode(MODE))?;
        }
    }
    if matches!(below, Below::Other) && !marks.files_hide() {
        // A directory further down must not come back.
        marks.set_opaque(&new)?;
    }
    Ok(new)
}

/// Gives what was made here to the container's root.
fn own(dir: &OwnedFd, name: &str, owner: Owner) -> Result<(), Errno> {
    if owner == Owner::ROOT {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    chownat(dir, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
}

fn place(dir: &OwnedFd, name: &str, kind: Kind, lowers: &View, owner: Owner) -> Result<(), Errno> {
    let below = lowers.look_up(name)?;
    // Directories stay as the image has them, files and links are replaced.
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) if is(&stat, FileType::Directory) => return Ok(()),
        Ok(_) => unlinkat(dir, name, AtFlags::empty())?,
        Err(Errno::NOENT) if matches!(below, Below::Dir(_)) => return Ok(()),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(error),
    }
    match kind {
        Kind::Dir => enter(dir, name, &below, lowers.marks, owner).map(drop),
        Kind::File => {
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
            let file = openat(dir, name, flags, Mode::from_raw_mode(MODE))?;
            own(dir, name, owner)?;
            fchmod(file, Mode::from_raw_mode(MODE))
        }
        Kind::Link(target) => {
            symlinkat(target, dir, name)?;
            own(dir, name, owner)
        }
    }
}

/// One directory as the layers below show it: its parts, nearest first.
#[derive(Debug)]
struct View {
    parts: Vec<OwnedFd>,
    marks: Marks,
}

/// What the layers below show at a name.
#[derive(Debug)]
enum Below {
    Nothing,
    Other,
    /// At least one part.
    Dir(View),
}

impl Below {
    fn into_view(self, marks: Marks) -> View {
        match self {
            Self::Dir(view) => view,
            Self::Nothing | Self::Other => View { parts: Vec::new(), marks },
        }
    }
}

impl View {
    fn look_up(&self, name: &str) -> Result<Below, Errno> {
        let mut parts = Vec::new();
        for part in &self.parts {
            let stat = match self.marks.look(part.as_fd(), name.as_bytes())? {
                Seen::Nothing => continue,
                Seen::Deleted(_) => break,
                Seen::Entry(stat) => stat,
            };
            if !is(&stat, FileType::Directory) {
                if parts.is_empty() {
                    return Ok(Below::Other);
                }
                if self.marks.files_hide() {
                    break;
                }
                continue;
            }
            let dir = openat(part, name, DIR, Mode::empty())?;
            let opaque = self.marks.is_opaque(dir.as_fd())?;
            parts.push(dir);
            if opaque {
                break;
            }
        }
        Ok(if parts.is_empty() {
            Below::Nothing
        } else {
            Below::Dir(Self { parts, marks: self.marks })
        })
    }
}

fn is(stat: &Stat, kind: FileType) -> bool {
    FileType::from_raw_mode(stat.st_mode) == kind
}

/// What the kernel would copy up with a directory.
fn copy_attributes(from: &OwnedFd, to: &OwnedFd) -> Result<(), Errno> {
    let stat = fstat(from)?;
    fchown(to, Some(Uid::from_raw(stat.st_uid)), Some(Gid::from_raw(stat.st_gid)))?;
    fchmod(to, Mode::from_raw_mode(stat.st_mode))?;
    let mut names = vec![0_u8; 64 * 1024];
    let length = match flistxattr(from, &mut names) {
        Err(Errno::OPNOTSUPP) => return Ok(()),
        other => other?,
    };
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(b"trusted.overlay.") {
            continue;
        }
        let name: &OsStr = std::os::unix::ffi::OsStrExt::from_bytes(name);
        let mut value = vec![0_u8; 64 * 1024];
        let length = match fgetxattr(from, name, &mut value) {
            Err(Errno::NODATA) => continue,
            other => other?,
        };
        fsetxattr(to, name, &value[..length], XattrFlags::empty())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, Permissions};
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};

    fn names(dir: &Path) -> Vec<String> {
        let mut found = Vec::new();
        let mut todo = vec![dir.to_owned()];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let entry = entry.unwrap();
                let name = entry.path().strip_prefix(dir).unwrap().display().to_string();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                }
                found.push(name);
            }
        }
        found.sort();
        found
    }

    const ALL: [&str; 12] = [
        ".dockerenv",
        "dev",
        "dev/console",
        "dev/pts",
        "dev/shm",
        "etc",
        "etc/hostname",
        "etc/hosts",
        "etc/mtab",
        "etc/resolv.conf",
        "proc",
        "sys",
    ];

    #[test]
    fn an_empty_tree_gets_everything() {
        let dir = tempfile::tempdir().unwrap();
        fill_tree(dir.path(), Owner::ROOT).unwrap();
        assert_eq!(names(dir.path()), ALL);
        for path in ["dev/pts", "etc/hosts", ".dockerenv"] {
            let meta = fs::symlink_metadata(dir.path().join(path)).unwrap();
            assert_eq!(meta.permissions().mode() & 0o7777, 0o755, "{path}");
        }
        let link = fs::read_link(dir.path().join("etc/mtab")).unwrap();
        assert_eq!(link, Path::new("/proc/mounts"));
        fill_tree(dir.path(), Owner::ROOT).unwrap();
        assert_eq!(names(dir.path()), ALL);
    }

    #[test]
    fn links_of_the_image_lead_nowhere_and_directories_stay() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("proc/kept")).unwrap();
        fs::create_dir(&outside).unwrap();
        symlink(&outside, root.join("etc")).unwrap();
        fs::create_dir_all(root.join("dev/console")).unwrap();
        fill_tree(&root, Owner::ROOT).unwrap();
        assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        let mut expected: Vec<_> = ALL.iter().map(|&name| name.to_owned()).collect();
        expected.push("proc/kept".to_owned());
        expected.sort();
        assert_eq!(names(&root), expected);
        assert!(fs::metadata(root.join("dev/console")).unwrap().is_dir());
    }

    #[test]
    fn an_upper_directory_gets_only_what_the_image_lacks() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for path in ["near/etc", "far/etc", "far/proc", "far/sys", "far/dev/shm", "upper"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::set_permissions(at("near/etc"), Permissions::from_mode(0o2750)).unwrap();
        fs::File::create(at("far/etc/hosts")).unwrap();
        // Hides the directory of the layer below it.
        fs::File::create(at("near/sys")).unwrap();
        fill_upper(&at("upper"), &[at("near"), at("far")], Marks::Overlay, Owner::ROOT).unwrap();
        let expected: Vec<_> =
            ALL.into_iter().filter(|name| !["proc", "dev/shm"].contains(name)).collect();
        assert_eq!(names(&at("upper")), expected);
        let mode = fs::metadata(at("upper/etc")).unwrap().mode();
        assert_eq!(mode & 0o7777, 0o2750);
    }
    #[test]
    fn marks_of_aufs_are_read_and_left() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        for path in ["near/dev", "far/dev/pts", "far/dev/shm", "far/etc", "far/sys", "far/proc"] {
            fs::create_dir_all(at(path)).unwrap();
        }
        fs::create_dir(at("upper")).unwrap();
        for file in ["near/etc", "near/.wh.proc", "near/dev/.wh.shm", "far/etc/hidden"] {
            fs::File::create(at(file)).unwrap();
        }
        let lowers = [at("near"), at("far")];
        fill_upper(&at("upper"), &lowers, Marks::Aufs, Owner::ROOT).unwrap();
        let mut expected: Vec<_> =
            ALL.into_iter().filter(|name| !["sys", "dev/pts"].contains(name)).collect();
        expected.push("etc/.wh..wh..opq");
        expected.sort_unstable();
        assert_eq!(names(&at("upper")), expected);
    }
}
