//! Copy-up: an empty volume gets what the image has at the mount's destination.
//!
//! The copy is made beside the content, synced, and renamed to say that it is complete; then its
//! entries are moved in one by one. A crash before the rename leaves debris that `recover` removes,
//! one after it a copy that `recover` finishes. The content directory itself keeps its inode, for
//! another container may have it mounted.

use std::ffi::OsStr;
use std::fs::{File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use berth_fs::copy::{self, Xattrs};
use berth_fs::root::{Follow, Root};
use berth_fs::steps;
use rustix::fs::{AtFlags, CWD, FileType, RenameFlags, Timespec, Timestamps};

use super::VolumeStore;
use crate::mounts::{ContainerMount, MountKind};
use crate::names::{POPULATE, POPULATED};
use crate::{LocalOptions, VolumeError};

impl VolumeStore {
    /// Fills an empty volume with what the image has at the mount's destination. `rootfs` is the
    /// container's mounted root. Answers whether something was copied.
    ///
    /// Does nothing for other mounts, and when the image has nothing there. A volume with options
    /// must be [attached](Self::attach) meanwhile.
    pub fn populate(&self, mount: &ContainerMount, rootfs: &Path) -> Result<bool, VolumeError> {
        if mount.kind != MountKind::Volume || !mount.copy {
            return Ok(false);
        }
        let Some(source) = copy_source(mount, rootfs)? else { return Ok(false) };
        let _held = self.busy.hold(&[&format!("populate/{}", mount.volume)]);
        let volume = self.get(&mount.volume)?;
        let paths = self.paths(&volume.name);
        // A mounted file system can only be renamed within.
        let mounted = LocalOptions::mounts(&volume.options);
        let base = if mounted { &paths.data } else { &paths.home };
        if !is_empty(&paths.data)? {
            return Ok(false);
        }
        let half = base.join(POPULATE);
        clear(&half)?;
        let failed = |source| VolumeError::Populate { name: volume.name.clone(), source };
        std::fs::DirBuilder::new()
            .mode(0o700)
            .create(&half)
            .map_err(VolumeError::io("create the directory", &half))?;
        let copied = Root::open(&half)
            .map_err(VolumeError::io("open", &half))
            .and_then(|to| copy::tree(&source, &to, Xattrs::All).map_err(failed))
            .and_then(|_| sync_file_system(&half));
        if let Err(error) = copied {
            clear(&half)?;
            return Err(error);
        }
        steps::reached("populate.staged");
        let whole = base.join(POPULATED);
        berth_fs::atomic::rename_durable(&half, &whole)
            .map_err(VolumeError::io("rename", &half))?;
        steps::reached("populate.renamed");
        move_in(&whole, &paths.data)?;
        Ok(true)
    }
}

/// The directory to copy, if the image has one there.
fn copy_source(mount: &ContainerMount, rootfs: &Path) -> Result<Option<Root>, VolumeError> {
    let destination = Path::new(&mount.destination);
    let shown = rootfs.join(destination.strip_prefix("/").unwrap_or(destination));
    let root = Root::open(rootfs).map_err(VolumeError::io("open", rootfs))?;
    let stat = match root.stat(destination, Follow::Yes) {
        Err(error) if is_absent(&error) => return Ok(None),
        stat => stat.map_err(VolumeError::io("examine", &shown))?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(if mount.anonymous {
            VolumeError::OverFile { path: shown }
        } else {
            VolumeError::NotDirectory { path: shown }
        });
    }
    root.open_dir(destination).map(Some).map_err(VolumeError::io("open", &shown))
}

fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Our own staging directories do not count.
fn is_empty(data: &Path) -> Result<bool, VolumeError> {
    let failed = || VolumeError::io("read the directory", data);
    for entry in std::fs::read_dir(data).map_err(failed())? {
        let name = entry.map_err(failed())?.file_name();
        if name != OsStr::new(POPULATE) && name != OsStr::new(POPULATED) {
            return Ok(false);
        }
    }
    Ok(true)
}

fn clear(path: &Path) -> Result<(), VolumeError> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(VolumeError::io("remove", path)(error))
        }
        _ => Ok(()),
    }
}

fn sync_file_system(dir: &Path) -> Result<(), VolumeError> {
    let file = File::open(dir).map_err(VolumeError::io("open", dir))?;
    rustix::fs::syncfs(&file).map_err(|error| VolumeError::io("sync", dir)(error.into()))
}

/// Moves a complete copy into the content directory and gives that the copy's own metadata.
/// What somebody else put there meanwhile stays.
pub(super) fn move_in(whole: &Path, data: &Path) -> Result<(), VolumeError> {
    let failed = || VolumeError::io("read the directory", whole);
    // Moving the entries out changes its times.
    let meta = std::fs::metadata(whole).map_err(failed())?;
    for entry in std::fs::read_dir(whole).map_err(failed())? {
        let from: PathBuf = entry.map_err(failed())?.path();
        let to = data.join(from.file_name().expect("an entry has a name"));
        let moved = rustix::fs::renameat_with(CWD, &from, CWD, &to, RenameFlags::NOREPLACE);
        match moved {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(VolumeError::io("move", &from)(error.into())),
        }
    }
    copy_metadata(whole, &meta, data).map_err(VolumeError::io("set the metadata of", data))?;
    berth_fs::atomic::sync_dir(data).map_err(VolumeError::io("sync", data))?;
    std::fs::remove_dir_all(whole).map_err(VolumeError::io("remove", whole))
}

fn copy_metadata(from: &Path, meta: &Metadata, to: &Path) -> io::Result<()> {
    std::os::unix::fs::chown(to, Some(meta.uid()), Some(meta.gid()))?;
    std::fs::set_permissions(to, Permissions::from_mode(meta.mode() & 0o7777))?;
    copy_xattrs(from, to)?;
    let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
    let times = Timestamps {
        last_access: time(meta.atime(), meta.atime_nsec()),
        last_modification: time(meta.mtime(), meta.mtime_nsec()),
    };
    rustix::fs::utimensat(CWD, to, &times, AtFlags::empty())?;
    Ok(())
}

/// Those that the file system does not take are left out.
fn copy_xattrs(from: &Path, to: &Path) -> io::Result<()> {
    let mut list = vec![0_u8; 64 << 10];
    let length = match rustix::fs::listxattr(from, &mut list[..]) {
        Err(rustix::io::Errno::NOTSUP) => return Ok(()),
        length => length?,
    };
    let mut value = vec![0_u8; 64 << 10];
    for name in list[..length].split(|&byte| byte == 0).filter(|name| !name.is_empty()) {
        let size = rustix::fs::getxattr(from, name, &mut value[..])?;
        let flags = rustix::fs::XattrFlags::empty();
        match rustix::fs::setxattr(to, name, &value[..size], flags) {
            Ok(()) | Err(rustix::io::Errno::NOTSUP | rustix::io::Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
