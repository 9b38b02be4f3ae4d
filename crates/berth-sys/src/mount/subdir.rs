//! Mounting one directory of a block device's file system: the rest of it is seen nowhere.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;

use rustix::fs::{CWD, Mode, OFlags, ResolveFlags, openat2};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, OpenTreeFlags,
    UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen,
    move_mount, open_tree,
};

use super::{MountRequest, SUBDIR, XFS_RETRIES, parse};

/// Flags that belong to one mount, and how `fsmount` calls them.
const OF_THE_MOUNT: [(MountFlags, MountAttrFlags); 7] = [
    (MountFlags::RDONLY, MountAttrFlags::MOUNT_ATTR_RDONLY),
    (MountFlags::NOSUID, MountAttrFlags::MOUNT_ATTR_NOSUID),
    (MountFlags::NODEV, MountAttrFlags::MOUNT_ATTR_NODEV),
    (MountFlags::NOEXEC, MountAttrFlags::MOUNT_ATTR_NOEXEC),
    (MountFlags::NOATIME, MountAttrFlags::MOUNT_ATTR_NOATIME),
    (MountFlags::NODIRATIME, MountAttrFlags::MOUNT_ATTR_NODIRATIME),
    (MountFlags::STRICTATIME, MountAttrFlags::MOUNT_ATTR_STRICTATIME),
];
/// Flags that belong to the file system, and their words.
const OF_THE_FILE_SYSTEM: [(MountFlags, &str); 4] = [
    (MountFlags::RDONLY, "ro"),
    (MountFlags::SYNCHRONOUS, "sync"),
    (MountFlags::DIRSYNC, "dirsync"),
    (MountFlags::LAZYTIME, "lazytime"),
];

pub(super) fn mount(request: &MountRequest<'_>) -> io::Result<()> {
    let dir = value(request.options, SUBDIR).unwrap_or_default();
    let top = detached(request.fs_type, request.source, request.options)?;
    move_mount(&top, "", CWD, request.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    // Kernels before 6.15 copy no mount that is nowhere, so the whole is seen for a moment.
    let tree = clone_below(&top, dir);
    rustix::mount::unmount(request.target, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW)?;
    move_mount(tree?, "", CWD, request.target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    Ok(())
}

/// Mounts the whole of a block device's file system where nobody sees it: in no mount namespace, for as
/// long as the descriptor lives. Whoever mounts it elsewhere meanwhile has it at once, and keeps it.
/// `options` are those of [`mount`](super::mount) without bind mounts; that of a directory means nothing.
pub fn detached(fs_type: &str, source: &Path, options: &[String]) -> io::Result<OwnedFd> {
    let mut words = options.to_vec();
    words.retain(|option| !option.starts_with(SUBDIR) && !option.starts_with(XFS_RETRIES));
    let parsed = parse(fs_type, &words);
    let data = String::from_utf8(parsed.data).map_err(|_| io::ErrorKind::InvalidInput)?;
    let context = match file_system(fs_type, source, parsed.flags, &data) {
        // It is mounted for writing elsewhere, perhaps for a moment yet: this mount only reads it.
        Err(Errno::BUSY) if parsed.flags.contains(MountFlags::RDONLY) => {
            file_system(fs_type, source, parsed.flags - MountFlags::RDONLY, &data)
        }
        other => other,
    }?;
    let mut attributes = MountAttrFlags::empty();
    for (flag, attribute) in OF_THE_MOUNT {
        if parsed.flags.contains(flag) {
            attributes |= attribute;
        }
    }
    let top = fsmount(context.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    if let Some(retries) = value(options, XFS_RETRIES) {
        set_xfs_retries(source, retries)?;
    }
    Ok(top)
}

fn value<'a>(options: &'a [String], prefix: &str) -> Option<&'a str> {
    options.iter().find_map(|option| option.strip_prefix(prefix))
}

/// A copy of the mount whose top is `dir`, which must be a directory of this very file system.
fn clone_below(top: &OwnedFd, dir: &str) -> rustix::io::Result<OwnedFd> {
    let how = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let below = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_XDEV;
    let dir = openat2(top, dir, how, Mode::empty(), below)?;
    let clone = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    open_tree(&dir, "", clone)
}

fn file_system(
    fs_type: &str,
    source: &Path,
    flags: MountFlags,
    data: &str,
) -> rustix::io::Result<OwnedFd> {
    let context = fsopen(fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(context.as_fd(), "source", source)?;
    for (flag, word) in OF_THE_FILE_SYSTEM {
        if flags.contains(flag) {
            fsconfig_set_flag(context.as_fd(), word)?;
        }
    }
    for option in data.split(',').filter(|option| !option.is_empty()) {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(context.as_fd(), key, value)?,
            None => fsconfig_set_flag(context.as_fd(), option)?,
        }
    }
    fsconfig_create(context.as_fd())?;
    Ok(context)
}

/// The knob is there while the file system is mounted.
fn set_xfs_retries(device: &Path, retries: &str) -> io::Result<()> {
    use std::os::unix::fs::MetadataExt as _;
    let number = device.metadata()?.rdev();
    let (major, minor) = (rustix::fs::major(number), rustix::fs::minor(number));
    let node = std::fs::canonicalize(format!("/sys/dev/block/{major}:{minor}"))?;
    let name = node.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let knob = format!("/sys/fs/xfs/{name}/error/metadata/ENOSPC/max_retries");
    let file = std::fs::File::options().write(true).open(&knob);
    let written = file.and_then(|mut file| io::Write::write_all(&mut file, retries.as_bytes()));
    written.map_err(|error| {
        io::Error::new(
            error.kind(),
            format!(
                "devmapper: user specified daemon option dm.xfs_nospace_max_retries but it does \
                 not seem to be supported on this system :{error}"
            ),
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_one_directory_of_a_file_system_is_mounted() {
        let test = "root_one_directory_of_a_file_system_is_mounted";
        let Some(fs) = testkit::LoopFs::or_skip(test, "ext4") else { return };
        let inside = fs.path().join("rootfs");
        std::fs::create_dir(&inside).unwrap();
        std::fs::File::create(inside.join("file")).unwrap();
        std::os::unix::fs::symlink("rootfs", fs.path().join("link")).unwrap();
        let table = std::fs::read_to_string("/proc/self/mounts").unwrap();
        let line = table.lines().find(|line| line.split(' ').nth(1) == fs.path().to_str());
        let source = line.and_then(|line| line.split(' ').next()).unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mount = |options: &[&str]| {
            let options: Vec<String> = options.iter().map(|&word| word.to_owned()).collect();
            super::super::mount(&MountRequest {
                fs_type: "ext4",
                source: Path::new(source),
                target: dir.path(),
                work_dir: None,
                options: &options,
            })
        };
        let unmount = || super::super::unmount(dir.path(), super::super::Unmount::Now);
        mount(&["noatime", "X-mount.subdir=rootfs"]).unwrap();
        std::fs::File::create(dir.path().join("new")).unwrap();
        unmount().unwrap();
        // It is mounted for writing by now; who only reads joins in.
        mount(&["X-mount.subdir=rootfs", "ro"]).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let refused = std::fs::File::create(dir.path().join("x")).unwrap_err();
        assert_eq!(refused.kind(), io::ErrorKind::ReadOnlyFilesystem);
        unmount().unwrap();
        for wrong in ["X-mount.subdir=link", "X-mount.subdir=none", "X-mount.subdir=.."] {
            mount(&[wrong]).unwrap_err();
            assert!(unmount().is_err(), "{wrong}: nothing stays");
        }
        mount(&["X-mount.subdir=rootfs", "no-such-option"]).unwrap_err();
        assert!(unmount().is_err());
    }
}
