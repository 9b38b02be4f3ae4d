//! How many bytes trees take on the disk.

use std::collections::HashSet;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use rustix::fs::{AtFlags, FileType, Mode, ResolveFlags, Stat};
use rustix::io::Errno;

use crate::root::{MAX_DEPTH, READ_DIR, Root, names};

/// When two files are the same, which counts once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sameness {
    /// They are one inode.
    Inode,
    /// They are, or one is in a snapshot and was changed on neither side since. What is shared of files that
    /// were changed counts twice.
    Snapshot,
}

/// Adds up the blocks of several trees, hard links between them once.
#[derive(Debug)]
pub struct Meter {
    sameness: Sameness,
    seen: HashSet<(u64, u64, i64, u64)>,
}

impl Meter {
    /// One that has seen nothing.
    pub fn new(sameness: Sameness) -> Self {
        Self { sameness, seen: HashSet::new() }
    }

    /// The bytes that the tree takes beside those that were counted before. What is mounted in it does not
    /// count, nor what disappears meanwhile; a tree that is not there takes none.
    pub fn tree(&mut self, path: &Path) -> io::Result<u64> {
        let root = match Root::open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            other => other?,
        };
        let own = rustix::fs::fstat(root.fd())?;
        let below = self.below(root.fd(), 0)?;
        Ok(below + self.count(&own))
    }

    fn below(&mut self, dir: BorrowedFd<'_>, depth: usize) -> Result<u64, Errno> {
        if depth > MAX_DEPTH {
            return Err(Errno::NAMETOOLONG);
        }
        let mut total = 0;
        for name in names(dir)? {
            let stat = match rustix::fs::statat(dir, &*name, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => continue,
                other => other?,
            };
            if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
                let no_mount = ResolveFlags::NO_XDEV;
                match rustix::fs::openat2(dir, &*name, READ_DIR, Mode::empty(), no_mount) {
                    Ok(inner) => total += self.below(inner.as_fd(), depth + 1)?,
                    Err(Errno::XDEV | Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => continue,
                    Err(error) => return Err(error),
                }
            }
            total += self.count(&stat);
        }
        Ok(total)
    }

    fn count(&mut self, stat: &Stat) -> u64 {
        let size = u64::try_from(stat.st_size).unwrap_or(0);
        let is_dir = FileType::from_raw_mode(stat.st_mode) == FileType::Directory;
        let key = match self.sameness {
            // Directories and most files have one name.
            Sameness::Inode if is_dir || stat.st_nlink < 2 => None,
            Sameness::Inode => Some((stat.st_dev, stat.st_ino, 0, 0)),
            // A snapshot keeps the inode's number and its time of change.
            Sameness::Snapshot => Some((stat.st_ino, size, stat.st_ctime, stat.st_ctime_nsec)),
        };
        let is_new = key.is_none_or(|key| self.seen.insert(key));
        if is_new { u64::try_from(stat.st_blocks).unwrap_or(0) * 512 } else { 0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};
    use std::io::Write as _;

    #[test]
    fn blocks_count_once_and_holes_do_not() {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        for name in ["one", "two"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let mut file = File::create(dir.path().join("one/f")).unwrap();
        file.write_all(&vec![1; 1 << 20]).unwrap();
        file.sync_all().unwrap();
        let sparse = File::create(dir.path().join("two/sparse")).unwrap();
        sparse.set_len(1 << 30).unwrap();
        fs::hard_link(dir.path().join("one/f"), dir.path().join("two/g")).unwrap();
        let mut meter = Meter::new(Sameness::Inode);
        let one = meter.tree(&dir.path().join("one")).unwrap();
        let two = meter.tree(&dir.path().join("two")).unwrap();
        assert!((1 << 20..2 << 20).contains(&one), "{one}");
        assert!(two < 1 << 20, "{two}");
        assert_eq!(meter.tree(&dir.path().join("none")).unwrap(), 0);
        let alone = Meter::new(Sameness::Inode).tree(&dir.path().join("two")).unwrap();
        assert!(alone >= 1 << 20, "{alone}");
    }

    #[test]
    fn root_a_snapshot_counts_what_was_changed_in_it() {
        let test = "root_a_snapshot_counts_what_was_changed_in_it";
        let Some(btrfs) = testkit::LoopFs::or_skip(test, "btrfs") else { return };
        let at = |name: &str| btrfs.path().join(name);
        let top = File::open(btrfs.path()).unwrap();
        berth_sys::btrfs::create_subvolume(&top, "base".as_ref()).unwrap();
        for name in ["base/a", "base/b"] {
            let mut file = File::create(at(name)).unwrap();
            file.write_all(&vec![1; 1 << 20]).unwrap();
            file.sync_all().unwrap();
        }
        let base = File::open(at("base")).unwrap();
        berth_sys::btrfs::snapshot(&base, &top, "snap".as_ref()).unwrap();
        let mut changed = File::options().append(true).open(at("snap/a")).unwrap();
        changed.write_all(b"more").unwrap();
        changed.sync_all().unwrap();
        let mut meter = Meter::new(Sameness::Snapshot);
        let base = meter.tree(&at("base")).unwrap();
        let snap = meter.tree(&at("snap")).unwrap();
        assert!(base >= 2 << 20, "{base}");
        assert!((1 << 20..2 << 20).contains(&snap), "{snap}");
    }
}
