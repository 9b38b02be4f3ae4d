//! Subvolumes' trees, read as they are on the disk.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

use super::{MAGIC, call};

const INODE_ITEM: u32 = 1;
/// `struct btrfs_ioctl_search_header`.
const HEADER: usize = 32;

/// `struct btrfs_ioctl_get_subvol_info_args`.
#[repr(C)]
struct SubvolInfo {
    tree: u64,
    name: [u8; 256],
    parent: u64,
    dir: u64,
    generation: u64,
    flags: u64,
    uuid: [u8; 16],
    parent_uuid: [u8; 16],
    received_uuid: [u8; 16],
    changed: u64,
    created: u64,
    sent: u64,
    received: u64,
    /// Four of 64 bits for seconds and 32 for their billionths, with 32 unused.
    times: [u64; 8],
    reserved: [u64; 8],
}

/// `struct btrfs_ioctl_search_key`.
#[repr(C)]
struct SearchKey {
    tree: u64,
    min_object: u64,
    max_object: u64,
    min_offset: u64,
    max_offset: u64,
    min_transaction: u64,
    max_transaction: u64,
    min_kind: u32,
    max_kind: u32,
    items: u32,
    unused: u32,
    unused_too: [u64; 4],
}

/// `struct btrfs_ioctl_search_args_v2`, without what follows it.
#[repr(C)]
struct SearchHead {
    key: SearchKey,
    /// Of what follows, in bytes.
    space: u64,
}

/// A search, and room for what it finds.
#[repr(C)]
struct Search {
    head: SearchHead,
    found: [u8; SPACE],
}

/// The kernel copies so much at a time; an item takes a part of a block of 64 KiB at most.
const SPACE: usize = 64 << 10;
const TREE_SEARCH: Opcode = opcode::read_write::<SearchHead>(MAGIC, 17);
const SUBVOL_INFO: Opcode = opcode::read::<SubvolInfo>(MAGIC, 60);

/// What the file system says of a subvolume.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Subvolume {
    /// Its own name for it.
    pub uuid: [u8; 16],
    /// That of what it is a snapshot of; zeros when it is none.
    pub parent: [u8; 16],
    /// The transaction that made it.
    pub created: u64,
    /// The last one that changed it.
    pub changed: u64,
}

/// The subvolume that a file is in.
pub fn subvolume(file: impl AsFd) -> io::Result<Subvolume> {
    let mut info = SubvolInfo {
        tree: 0,
        name: [0; 256],
        parent: 0,
        dir: 0,
        generation: 0,
        flags: 0,
        uuid: [0; 16],
        parent_uuid: [0; 16],
        received_uuid: [0; 16],
        changed: 0,
        created: 0,
        sent: 0,
        received: 0,
        times: [0; 8],
        reserved: [0; 8],
    };
    call::<SUBVOL_INFO, _>(file, &mut info)?;
    let SubvolInfo { uuid, parent_uuid: parent, created, changed, .. } = info;
    Ok(Subvolume { uuid, parent, created, changed })
}

/// What a tree has of an inode.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in stat")]
pub struct Inode {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
    pub size: u64,
    /// Seconds, and their billionths.
    pub mtime: (i64, u64),
    /// Seconds, and their billionths.
    pub ctime: (i64, u64),
}

impl Inode {
    /// From `struct btrfs_inode_item`.
    fn read(item: &[u8]) -> io::Result<Self> {
        let time =
            |at| Ok::<_, io::Error>((word(item, at)?.cast_signed(), half(item, at + 8)?.into()));
        Ok(Self {
            mode: half(item, 52)?,
            uid: half(item, 44)?,
            gid: half(item, 48)?,
            size: word(item, 16)?,
            mtime: time(136)?,
            ctime: time(124)?,
        })
    }
}

/// Calls `each` for every inode, by its number, of the subvolume that a file is in. What was not written to
/// the disk since it was changed is given as it was before.
pub fn inodes(
    file: impl AsFd,
    mut each: impl FnMut(u64, Inode) -> io::Result<()>,
) -> io::Result<()> {
    search(file.as_fd(), |key, item| match key.kind {
        INODE_ITEM => each(key.object, Inode::read(item)?),
        _ => Ok(()),
    })
}

/// Where something is in a tree.
#[derive(Debug, Clone, Copy)]
struct Key {
    object: u64,
    kind: u32,
    offset: u64,
}

/// Before all else in a tree.
const FIRST: Key = Key { object: 0, kind: 0, offset: 0 };

impl SearchHead {
    /// All that is in the tree of a file from a place on.
    fn from(from: Key) -> Self {
        let key = SearchKey {
            // That of the file.
            tree: 0,
            min_object: from.object,
            max_object: u64::MAX,
            min_offset: from.offset,
            max_offset: u64::MAX,
            min_transaction: 0,
            max_transaction: u64::MAX,
            min_kind: from.kind,
            max_kind: u32::MAX,
            items: u32::MAX,
            unused: 0,
            unused_too: [0; 4],
        };
        Self { key, space: SPACE as u64 }
    }
}

impl Key {
    /// The next place; `None` after the last.
    fn next(self) -> Option<Self> {
        let Self { object, kind, offset } = self;
        if let Some(offset) = offset.checked_add(1) {
            return Some(Self { object, kind, offset });
        }
        // The kernel has kinds of one byte.
        if kind < 255 {
            return Some(Self { object, kind: kind + 1, offset: 0 });
        }
        Some(Self { object: object.checked_add(1)?, kind: 0, offset: 0 })
    }
}

/// Calls `each` for all that is in a tree.
fn search(
    file: BorrowedFd<'_>,
    mut each: impl FnMut(Key, &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut next = Some(FIRST);
    // SAFETY: all of it is integers and bytes, for which zeros are valid.
    let mut args = unsafe { Box::<Search>::new_zeroed().assume_init() };
    while let Some(from) = next {
        args.head = SearchHead::from(from);
        call_search(file, &mut args)?;
        let mut rest = &args.found[..];
        next = None;
        for _ in 0..args.head.key.items {
            let (object, offset) = (word(rest, 8)?, word(rest, 16)?);
            let (kind, length) = (half(rest, 24)?, half(rest, 28)?);
            let end = HEADER + usize::try_from(length).map_err(|_| cut_short())?;
            let key = Key { object, kind, offset };
            each(key, rest.get(HEADER..end).ok_or_else(cut_short)?)?;
            rest = &rest[end..];
            next = key.next();
        }
    }
    Ok(())
}

fn call_search(file: BorrowedFd<'_>, args: &mut Search) -> io::Result<()> {
    // SAFETY: the opcode is that of the head, which has the layout of the kernel's structure; behind it the
    // kernel writes `space` bytes at most, which is the length of what follows there. All of it is
    // integers and bytes without padding, for which any bytes are valid.
    unsafe { ioctl(file, Updater::<TREE_SEARCH, Search>::new(args))? };
    Ok(())
}

fn word(bytes: &[u8], at: usize) -> io::Result<u64> {
    let bytes = bytes.get(at..at + 8).ok_or_else(cut_short)?;
    Ok(u64::from_le_bytes(bytes.try_into().map_err(|_| cut_short())?))
}

fn half(bytes: &[u8], at: usize) -> io::Result<u32> {
    let bytes = bytes.get(at..at + 4).ok_or_else(cut_short)?;
    Ok(u32::from_le_bytes(bytes.try_into().map_err(|_| cut_short())?))
}

fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "an item of the file system's tree is cut short")
}

#[cfg(test)]
mod tests {
    use super::super::{create_subvolume, set_read_only, snapshot};
    use super::*;
    use std::collections::BTreeMap;
    use std::fs::{self, File, Permissions};
    use std::io::Write as _;
    use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
    use std::path::Path;
    use std::time::{Duration, UNIX_EPOCH};

    #[test]
    fn keys_follow_one_another() {
        let key = |object, kind, offset| Key { object, kind, offset };
        let max = u64::MAX;
        #[rustfmt::skip]
        let table = [
            (key(1, 2, 3),       Some((1, 2, 4))),
            (key(1, 2, max),     Some((1, 3, 0))),
            (key(1, 255, max),   Some((2, 0, 0))),
            (key(max, 255, max), None),
        ];
        for (key, next) in table {
            assert_eq!(key.next().map(|key| (key.object, key.kind, key.offset)), next);
        }
    }

    #[test]
    fn root_a_tree_says_of_inodes_what_stat_says() {
        let test = "root_a_tree_says_of_inodes_what_stat_says";
        let Some(btrfs) = testkit::LoopFs::or_skip(test, "btrfs") else { return };
        let at = |name: &str| btrfs.path().join(name);
        let top = File::open(btrfs.path()).unwrap();
        create_subvolume(&top, "old".as_ref()).unwrap();
        let mut expected = BTreeMap::new();
        for dir in 0..30_u32 {
            fs::create_dir(at(&format!("old/{dir}"))).unwrap();
            for file in 0..50 {
                let mut file = File::create(at(&format!("old/{dir}/{file}"))).unwrap();
                file.write_all(&[1; 3000][..100 * dir as usize]).unwrap();
                std::os::unix::fs::fchown(&file, Some(dir), Some(7)).unwrap();
                file.set_permissions(Permissions::from_mode(0o4600 + dir)).unwrap();
                file.set_modified(UNIX_EPOCH + Duration::new(dir.into(), 5)).unwrap();
            }
        }
        let old = File::open(at("old")).unwrap();
        set_read_only(&old, true).unwrap();
        snapshot(&old, &top, "new".as_ref()).unwrap();
        let (was, is) = (subvolume(&old).unwrap(), subvolume(at_file(&at("new"))).unwrap());
        assert_eq!(was.uuid, is.parent);
        assert!(was.changed <= is.created, "{was:?} {is:?}");
        let mut look = |path: &Path| {
            let meta = fs::symlink_metadata(path).unwrap();
            let nanos = |nanos: i64| u64::try_from(nanos).unwrap();
            let inode = Inode {
                mode: meta.mode(),
                uid: meta.uid(),
                gid: meta.gid(),
                size: meta.size(),
                mtime: (meta.mtime(), nanos(meta.mtime_nsec())),
                ctime: (meta.ctime(), nanos(meta.ctime_nsec())),
            };
            expected.insert(meta.ino(), inode);
        };
        look(&at("old"));
        for dir in fs::read_dir(at("old")).unwrap() {
            let dir = dir.unwrap().path();
            look(&dir);
            for file in fs::read_dir(dir).unwrap() {
                look(&file.unwrap().path());
            }
        }
        let mut found = BTreeMap::new();
        inodes(&old, |number, inode| {
            found.insert(number, inode);
            Ok(())
        })
        .unwrap();
        assert_eq!(found, expected);
    }

    fn at_file(path: &Path) -> File {
        File::open(path).unwrap()
    }
}
