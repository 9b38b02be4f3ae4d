//! Mount points that are made in a container for one run, and are no part of what it changed.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use berth_fs::root::{Follow, Root, names};
use rustix::fs::{AtFlags, FileType, Timespec, Timestamps, UTIME_OMIT};
use rustix::io::Errno;

use super::error::BuildError;
use super::transfer::place;

/// What was not there before the run.
#[derive(Debug, Default)]
pub(super) struct Stubs {
    /// Deepest first for each mount.
    missing: Vec<PathBuf>,
    /// The directories that they appear in, and when those were last changed.
    parents: Vec<(PathBuf, Timespec)>,
}

impl Stubs {
    /// Looks at where mounts will be.
    pub(super) fn before(root: &Root, targets: &[String]) -> Result<Self, BuildError> {
        let mut stubs = Self::default();
        for target in targets {
            let target = place::resolve(root, Path::new(target))?;
            for path in target.ancestors() {
                match root.stat(path, Follow::No) {
                    Ok(stat) => {
                        let (tv_sec, tv_nsec) = (stat.st_mtime, stat.st_mtime_nsec);
                        let tv_nsec = tv_nsec.try_into().unwrap_or(0);
                        stubs.parents.push((path.to_owned(), Timespec { tv_sec, tv_nsec }));
                        break;
                    }
                    Err(_missing) => stubs.missing.push(path.to_owned()),
                }
            }
        }
        Ok(stubs)
    }

    /// Takes away what is still as it was made, and lets it look as if it had never been.
    pub(super) fn after(&self, root: &Root) -> io::Result<()> {
        let mut removed = false;
        for path in &self.missing {
            removed |= remove(root, path)?;
        }
        for (path, time) in self.parents.iter().filter(|_| removed) {
            let times = Timestamps {
                last_access: Timespec { tv_sec: 0, tv_nsec: UTIME_OMIT },
                last_modification: *time,
            };
            match root.open_dir(path) {
                Ok(dir) => rustix::fs::futimens(dir.fd(), &times)?,
                Err(error) => tracing::debug!(%error, "the run took a mount's parent away"),
            }
        }
        Ok(())
    }
}

const MARK: &[u8] = b".wh.";

fn remove(root: &Root, path: &Path) -> io::Result<bool> {
    let stat = match root.stat(path, Follow::No) {
        Ok(stat) => stat,
        Err(_gone) => return Ok(false),
    };
    let flags = match FileType::from_raw_mode(stat.st_mode) {
        FileType::Directory => AtFlags::REMOVEDIR,
        FileType::RegularFile if stat.st_size == 0 => AtFlags::empty(),
        _ => return Ok(false),
    };
    let (dir, name) = root.parent_of(path)?;
    let unlink = |dir: &Root, name: &OsStr, flags| rustix::fs::unlinkat(dir.fd(), name, flags);
    match unlink(&dir, &name, flags) {
        Ok(()) => Ok(true),
        // Where fuse-overlayfs keeps changes, a new directory has files that mark it as such.
        Err(Errno::NOTEMPTY) => {
            let new = root.open_dir(path)?;
            let names = names(new.fd())?;
            if !names.iter().all(|name| name.starts_with(MARK)) {
                return Ok(false);
            }
            for name in &names {
                unlink(&new, OsStr::from_bytes(name), AtFlags::empty())?;
            }
            unlink(&dir, &name, flags)?;
            Ok(true)
        }
        Err(Errno::EXIST | Errno::NOENT) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_made_for_the_run_is_taken_away() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        std::fs::create_dir(path("there")).unwrap();
        let root = Root::open(dir.path()).unwrap();
        let time = |name: &str| std::fs::metadata(path(name)).unwrap().modified().unwrap();
        let before = time("there");
        let targets = ["/there", "/there/a/b", "/file", "/kept/x"].map(str::to_owned);
        let stubs = Stubs::before(&root, &targets).unwrap();
        std::fs::create_dir_all(path("there/a/b")).unwrap();
        std::fs::create_dir_all(path("kept/x")).unwrap();
        std::fs::File::create(path("kept/own")).unwrap();
        std::fs::File::create(path("file")).unwrap();
        stubs.after(&root).unwrap();
        let mut left: Vec<_> = std::fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        left.sort();
        assert_eq!(left, ["kept", "there"]);
        assert_eq!(std::fs::read_dir(path("there")).unwrap().count(), 0);
        assert_eq!(std::fs::read_dir(path("kept")).unwrap().count(), 1);
        assert_eq!(time("there"), before);
    }
}
