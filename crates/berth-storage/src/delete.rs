//! Deleting whole trees that containers wrote, without leaving the file system they are on.

use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Dir, Mode, OFlags, ResolveFlags, openat2, unlinkat};
use rustix::io::Errno;

/// Directories below this depth are moved to the top first, so that no tree, however deep, uses
/// more descriptors or stack than this.
pub(crate) const DEPTH: usize = 64;

/// Deletes `path` and everything in it. A link is not followed, and where something is mounted
/// it stops with `EXDEV` before touching what is mounted there. Nothing there is fine.
pub(crate) fn delete_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    let parent = match rustix::fs::open(parent, OPEN, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        other => other?,
    };
    let top = match openat2(&parent, name, OPEN | OFlags::NOFOLLOW, Mode::empty(), BENEATH) {
        Ok(top) => top,
        Err(Errno::NOENT) => return Ok(()),
        Err(Errno::NOTDIR | Errno::LOOP) => {
            return Ok(unlinkat(&parent, name, AtFlags::empty())?);
        }
        Err(error) => return Err(error.into()),
    };
    // Each round may move deep directories up, for the next one.
    let mut moved = 0;
    loop {
        let before = moved;
        empty(&top, &top, 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    Ok(unlinkat(&parent, name, AtFlags::REMOVEDIR)?)
}

/// How directories are opened.
pub(crate) const OPEN: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
/// How names below a directory are resolved.
pub(crate) const BENEATH: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_XDEV).union(ResolveFlags::NO_SYMLINKS);

fn empty(top: &OwnedFd, dir: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    for entry in Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name();
        if matches!(name.to_bytes(), b"." | b"..") {
            continue;
        }
        if !entry.file_type().is_dir() {
            match unlinkat(dir, name, AtFlags::empty()) {
                Ok(()) | Err(Errno::NOENT) => continue,
                // The file system did not say that it is a directory.
                Err(Errno::ISDIR) => {}
                Err(error) => return Err(error.into()),
            }
        }
        let flags = OPEN | OFlags::NOFOLLOW;
        let below = match openat2(dir, name, flags, Mode::empty(), BENEATH) {
            Ok(below) => below,
            Err(Errno::NOENT) => continue,
            Err(error) => return Err(error.into()),
        };
        if depth + 1 >= DEPTH {
            *moved += 1;
            let up = format!(".berth-deep-{}", *moved);
            match rustix::fs::renameat(dir, name, top, &*up) {
                // The tree may have this very name; the next round tries another.
                Ok(()) | Err(Errno::NOENT | Errno::EXIST | Errno::NOTEMPTY | Errno::NOTDIR) => {
                    continue;
                }
                Err(error) => return Err(error.into()),
            }
        }
        empty(top, &below, depth + 1, moved)?;
        match unlinkat(dir, name, AtFlags::REMOVEDIR) {
            // Still holds what could not be moved up yet; the next round gets it.
            Ok(()) | Err(Errno::NOENT | Errno::NOTEMPTY) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;
    use std::os::unix::fs::symlink;

    #[test]
    fn everything_goes_and_nothing_behind_links() {
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        File::create(outside.join("kept")).unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir_all(tree.join("a/b/c")).unwrap();
        symlink(&outside, tree.join("a/link")).unwrap();
        delete_tree(&tree).unwrap();
        assert!(!tree.try_exists().unwrap());
        assert!(outside.join("kept").try_exists().unwrap());
        delete_tree(&tree).unwrap();
        symlink(&outside, &tree).unwrap();
        delete_tree(&tree).unwrap();
        assert!(outside.join("kept").try_exists().unwrap());
    }

    #[test]
    fn a_tree_deeper_than_any_path_goes() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        std::fs::create_dir(&tree).unwrap();
        let mut at: OwnedFd = File::open(&tree).unwrap().into();
        for _ in 0..3000 {
            rustix::fs::mkdirat(&at, "deeeeeep", Mode::RWXU).unwrap();
            at = rustix::fs::openat(&at, "deeeeeep", OPEN, Mode::empty()).unwrap();
        }
        delete_tree(&tree).unwrap();
        assert!(!tree.try_exists().unwrap());
    }
}
