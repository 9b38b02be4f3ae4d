//! Subvolumes and quota groups of btrfs.
//!
//! A subvolume is a tree of its own within a file system; a snapshot is one that begins as
//! another's content. To everything else it looks like a directory whose inode number is 256.

mod search;

use std::ffi::OsStr;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use rustix::io::Errno;
use rustix::ioctl::{Opcode, Updater, ioctl, opcode};

pub use search::{Inode, Subvolume, inodes, subvolume};

/// The number of the inode at the top of every subvolume.
const TOP_INODE: u64 = 256;
/// `BTRFS_SUPER_MAGIC`.
const FS_MAGIC: rustix::fs::FsWord = 0x9123_683E;
const READ_ONLY: u64 = 1 << 1;
const QUOTA_ENABLE: u64 = 1;
const LIMIT_REFERENCED: u64 = 1;
const NAME_MAX: usize = 255;

/// `struct btrfs_ioctl_vol_args`.
#[repr(C)]
struct VolArgs {
    fd: i64,
    name: [u8; 4088],
}

/// `struct btrfs_ioctl_vol_args_v2`.
#[repr(C)]
struct VolArgs2 {
    fd: i64,
    transid: u64,
    flags: u64,
    unused: [u64; 4],
    name: [u8; 4040],
}

/// `struct btrfs_ioctl_ino_lookup_args`.
#[repr(C)]
struct InoLookup {
    tree: u64,
    inode: u64,
    name: [u8; 4080],
}

/// `struct btrfs_ioctl_get_subvol_rootref_args`.
#[repr(C)]
struct RootRefs {
    min_tree: u64,
    refs: [RootRef; 255],
    count: u8,
    align: [u8; 7],
}

#[repr(C)]
#[derive(Clone, Copy)]
struct RootRef {
    tree: u64,
    dir: u64,
}

/// `struct btrfs_ioctl_ino_lookup_user_args`.
#[repr(C)]
struct InoLookupUser {
    dir: u64,
    tree: u64,
    name: [u8; NAME_MAX + 1],
    path: [u8; 4080 - NAME_MAX - 1],
}

/// `struct btrfs_ioctl_quota_ctl_args`.
#[repr(C)]
struct QuotaCtl {
    command: u64,
    status: u64,
}

/// `struct btrfs_ioctl_qgroup_create_args`.
#[repr(C)]
struct QgroupCreate {
    create: u64,
    group: u64,
}

/// `struct btrfs_ioctl_qgroup_limit_args`.
#[repr(C)]
struct QgroupLimit {
    group: u64,
    flags: u64,
    max_referenced: u64,
    max_exclusive: u64,
    reserved_referenced: u64,
    reserved_exclusive: u64,
}

/// `struct btrfs_ioctl_quota_rescan_args`.
#[repr(C)]
struct QuotaRescan {
    flags: u64,
    progress: u64,
    reserved: [u64; 6],
}

const MAGIC: u8 = 0x94;
const SNAP_DESTROY: Opcode = opcode::write::<VolArgs>(MAGIC, 15);
const INO_LOOKUP: Opcode = opcode::read_write::<InoLookup>(MAGIC, 18);
const SNAP_CREATE: Opcode = opcode::write::<VolArgs2>(MAGIC, 23);
const SUBVOL_CREATE: Opcode = opcode::write::<VolArgs2>(MAGIC, 24);
const GET_FLAGS: Opcode = opcode::read::<u64>(MAGIC, 25);
const SET_FLAGS: Opcode = opcode::write::<u64>(MAGIC, 26);
const QUOTA_CTL: Opcode = opcode::read_write::<QuotaCtl>(MAGIC, 40);
const QGROUP_CREATE: Opcode = opcode::write::<QgroupCreate>(MAGIC, 42);
const QGROUP_LIMIT: Opcode = opcode::read::<QgroupLimit>(MAGIC, 43);
const QUOTA_RESCAN: Opcode = opcode::write::<QuotaRescan>(MAGIC, 44);
const ROOT_REFS: Opcode = opcode::read_write::<RootRefs>(MAGIC, 61);
const INO_LOOKUP_USER: Opcode = opcode::read_write::<InoLookupUser>(MAGIC, 62);

/// A subvolume directly below another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nested {
    /// The directory that it is in, relative to the top of the other; empty for the top itself.
    pub dir: PathBuf,
    /// Its name there.
    pub name: PathBuf,
}

/// Makes an empty subvolume `name` in the directory `parent`.
pub fn create_subvolume(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    call::<SUBVOL_CREATE, _>(parent, &mut vol_args2(-1, name)?)
}

/// Makes `name` in the directory `parent` a writable snapshot of the subvolume that `source` is
/// the top of. It is on the disk when this returns, and with it all that was done before.
pub fn snapshot(source: impl AsFd, parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    use std::os::fd::AsRawFd as _;
    let source = source.as_fd();
    call::<SNAP_CREATE, _>(parent, &mut vol_args2(i64::from(source.as_raw_fd()), name)?)
}

/// Removes the subvolume `name` from the directory `parent`, whatever is in it; the kernel frees
/// its space later. Fails with `ENOTEMPTY` when other subvolumes are below it, and with `ENOTDIR`
/// or `EINVAL` when it is no subvolume.
pub fn destroy_subvolume(parent: impl AsFd, name: &OsStr) -> io::Result<()> {
    let mut args = VolArgs { fd: 0, name: [0; 4088] };
    put_name(&mut args.name, name)?;
    call::<SNAP_DESTROY, _>(parent, &mut args)
}

/// Whether `path` is the top of a subvolume, which it is not if it is missing.
pub fn is_subvolume(path: &Path) -> io::Result<bool> {
    match std::fs::symlink_metadata(path) {
        Ok(meta) => Ok(meta.is_dir() && meta.ino() == TOP_INODE),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Whether an open directory is the top of a subvolume of btrfs.
pub fn is_top(dir: impl AsFd) -> io::Result<bool> {
    let dir = dir.as_fd();
    let is_btrfs = rustix::fs::fstatfs(dir)?.f_type == FS_MAGIC;
    Ok(is_btrfs && rustix::fs::fstat(dir)?.st_ino == TOP_INODE)
}

/// The number of the subvolume that a file is in; the name of its quota group as well.
pub fn subvolume_id(file: impl AsFd) -> io::Result<u64> {
    let mut args = InoLookup { tree: 0, inode: TOP_INODE, name: [0; 4080] };
    call::<INO_LOOKUP, _>(file, &mut args)?;
    Ok(args.tree)
}

/// Whether the subvolume that `top` is the top of is read-only.
pub fn is_read_only(top: impl AsFd) -> io::Result<bool> {
    let mut flags = 0_u64;
    call::<GET_FLAGS, _>(top, &mut flags)?;
    Ok(flags & READ_ONLY != 0)
}

/// Makes the subvolume that `top` is the top of read-only, or writable again.
pub fn set_read_only(top: impl AsFd, read_only: bool) -> io::Result<()> {
    let mut flags = if read_only { READ_ONLY } else { 0 };
    call::<SET_FLAGS, _>(top, &mut flags)
}

/// The subvolumes directly below the one that `top` is the top of.
pub fn nested(top: impl AsFd) -> io::Result<Vec<Nested>> {
    let top = top.as_fd();
    let mut found = Vec::new();
    let mut min_tree = 0;
    loop {
        let refs = [RootRef { tree: 0, dir: 0 }; 255];
        let mut args = RootRefs { min_tree, refs, count: 0, align: [0; 7] };
        let more = match call::<ROOT_REFS, _>(top, &mut args) {
            Ok(()) => false,
            Err(error) if error.raw_os_error() == Some(Errno::OVERFLOW.raw_os_error()) => true,
            Err(error) => return Err(error),
        };
        let refs = &args.refs[..usize::from(args.count)];
        for &RootRef { tree, dir } in refs {
            match place(top, tree, dir) {
                // It went away meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => found.push(other?),
            }
        }
        match refs.last() {
            Some(last) if more => min_tree = last.tree + 1,
            _ => return Ok(found),
        }
    }
}

fn place(top: impl AsFd, tree: u64, dir: u64) -> io::Result<Nested> {
    let mut args = InoLookupUser { dir, tree, name: [0; 256], path: [0; 3824] };
    call::<INO_LOOKUP_USER, _>(top, &mut args)?;
    let path = until_nul(&args.path);
    let path = path.strip_suffix(b"/").unwrap_or(path);
    let owned = |bytes: &[u8]| PathBuf::from(std::ffi::OsString::from_vec(bytes.to_vec()));
    Ok(Nested { dir: owned(path), name: owned(until_nul(&args.name)) })
}

/// Switches quota groups on for the whole file system; nothing happens when they are on. The
/// kernel then counts what is there in the background.
pub fn enable_quota(file: impl AsFd) -> io::Result<()> {
    call::<QUOTA_CTL, _>(file, &mut QuotaCtl { command: QUOTA_ENABLE, status: 0 })
}

/// Limits how many bytes the subvolume that a file is in may refer to, those that it shares with
/// others included. Fails with `ENOTCONN` when quota groups are off.
pub fn limit_subvolume(file: impl AsFd, bytes: u64) -> io::Result<()> {
    let mut args = QgroupLimit {
        // The group of the subvolume itself.
        group: 0,
        flags: LIMIT_REFERENCED,
        max_referenced: bytes,
        max_exclusive: 0,
        reserved_referenced: 0,
        reserved_exclusive: 0,
    };
    call::<QGROUP_LIMIT, _>(file, &mut args)
}

/// Removes the quota group of a subvolume that is gone.
pub fn remove_quota_group(file: impl AsFd, subvolume: u64) -> io::Result<()> {
    call::<QGROUP_CREATE, _>(file, &mut QgroupCreate { create: 0, group: subvolume })
}

/// Has the kernel count all quota groups anew, in the background.
pub fn rescan_quota(file: impl AsFd) -> io::Result<()> {
    call::<QUOTA_RESCAN, _>(file, &mut QuotaRescan { flags: 0, progress: 0, reserved: [0; 6] })
}

fn vol_args2(fd: i64, name: &OsStr) -> io::Result<VolArgs2> {
    let mut args = VolArgs2 { fd, transid: 0, flags: 0, unused: [0; 4], name: [0; 4040] };
    put_name(&mut args.name, name)?;
    Ok(args)
}

/// Names that are paths, or longer than any name, are refused: the kernel would take them.
fn put_name(field: &mut [u8], name: &OsStr) -> io::Result<()> {
    let bytes = name.as_bytes();
    let bad =
        bytes.is_empty() || bytes.len() > NAME_MAX || bytes.iter().any(|b| b"/\0".contains(b));
    if bad || matches!(bytes, b"." | b"..") {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    field[..bytes.len()].copy_from_slice(bytes);
    Ok(())
}

fn until_nul(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

fn call<const OPCODE: Opcode, T>(file: impl AsFd, args: &mut T) -> io::Result<()> {
    // SAFETY: this function is private to this module and those below, and each of its calls pairs an opcode with the structure
    // that the opcode's own size was computed from, which has the layout of the kernel's: plain
    // integers and bytes without padding. The kernel reads and writes no more than that size, and
    // any bytes are valid for it.
    unsafe { ioctl(file, Updater::<OPCODE, T>::new(args))? };
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::{self, File};

    #[test]
    fn names_that_the_kernel_would_misread_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let dir = File::open(dir.path()).unwrap();
        let long = "x".repeat(256);
        for name in ["", ".", "..", "a/b", "/", "a\0b", long.as_str()] {
            let error = create_subvolume(&dir, OsStr::new(name)).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidInput, "{name:?}");
        }
    }

    #[test]
    fn root_subvolumes_come_and_go() {
        let Some(btrfs) = testkit::LoopFs::or_skip("root_subvolumes_come_and_go", "btrfs") else {
            return;
        };
        let at = |name: &str| btrfs.path().join(name);
        let name = OsStr::new;
        let top = File::open(btrfs.path()).unwrap();
        create_subvolume(&top, name("a")).unwrap();
        assert!(is_subvolume(&at("a")).unwrap());
        fs::create_dir_all(at("a/d/e")).unwrap();
        assert!(!is_subvolume(&at("a/d")).unwrap());
        assert!(!is_subvolume(&at("none")).unwrap());
        create_subvolume(File::open(at("a/d/e")).unwrap(), name("in")).unwrap();
        create_subvolume(File::open(at("a")).unwrap(), name("in")).unwrap();
        let a = File::open(at("a")).unwrap();
        let nested_in = |dir: &str| Nested { dir: dir.into(), name: "in".into() };
        assert_eq!(nested(&a).unwrap(), [nested_in("d/e"), nested_in("")]);

        snapshot(&a, &top, name("b")).unwrap();
        let b = File::open(at("b")).unwrap();
        assert_ne!(subvolume_id(&a).unwrap(), subvolume_id(&b).unwrap());
        assert_eq!(nested(&b).unwrap(), [], "nested subvolumes are not part of a snapshot");
        assert!(!is_read_only(&b).unwrap());
        set_read_only(&b, true).unwrap();
        assert!(is_read_only(&b).unwrap());
        File::create(at("b/x")).unwrap_err();

        let error = destroy_subvolume(&top, name("a")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::DirectoryNotEmpty);
        destroy_subvolume(File::open(at("a/d/e")).unwrap(), name("in")).unwrap();
        destroy_subvolume(&a, name("in")).unwrap();
        destroy_subvolume(&top, name("a")).unwrap();
        destroy_subvolume(&top, name("b")).unwrap();
        assert_eq!(fs::read_dir(btrfs.path()).unwrap().count(), 0);
    }

    #[test]
    fn root_a_quota_holds_what_a_subvolume_refers_to() {
        use std::io::Write as _;
        let test = "root_a_quota_holds_what_a_subvolume_refers_to";
        let Some(btrfs) = testkit::LoopFs::or_skip(test, "btrfs") else { return };
        let top = File::open(btrfs.path()).unwrap();
        create_subvolume(&top, OsStr::new("a")).unwrap();
        let a = File::open(btrfs.path().join("a")).unwrap();
        let error = limit_subvolume(&a, 1 << 20).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(Errno::NOTCONN.raw_os_error()));
        for _ in 0..2 {
            enable_quota(&top).unwrap();
        }
        limit_subvolume(&a, 1 << 20).unwrap();
        let mut file = File::create(btrfs.path().join("a/f")).unwrap();
        let full = file.write_all(&vec![1; 4 << 20]).and_then(|()| file.sync_all()).unwrap_err();
        assert_eq!(full.raw_os_error(), Some(Errno::DQUOT.raw_os_error()));
    }
}
