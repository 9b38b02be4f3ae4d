//! Volumes with a mount of their own (`type`, `device`, `o`): mounted for the first container that
//! starts with them, unmounted after the last.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::PoisonError;

use berth_sys::mount::{self, MountRequest, Unmount};

use super::VolumeStore;
use crate::names::VolumePaths;
use crate::{LocalOptions, VolumeError};

impl VolumeStore {
    /// Makes a volume usable by `container` (mounts it when it has options) and answers the
    /// directory to bind. Fails with Docker's `error while mounting volume` when the directory is
    /// gone. `container` may be any name for the user, for example of a copy-up.
    pub fn attach(&self, name: &str, container: &str) -> Result<PathBuf, VolumeError> {
        let _held = self.busy.hold(&[name]);
        let volume = self.get(name)?;
        let data = self.paths(name).data;
        let failed = |cause: String| VolumeError::Mount { path: data.clone(), cause };
        let is_dir = std::fs::symlink_metadata(&data).map(|meta| meta.is_dir());
        match is_dir {
            Ok(true) => {}
            Ok(false) => return Err(failed(format!("{} is not a directory", data.display()))),
            Err(error) => return Err(failed(format!("stat {}: {error}", data.display()))),
        }
        if !LocalOptions::mounts(&volume.options) {
            return Ok(data);
        }
        // Nobody else mounts or unmounts this volume: its name is held.
        let first = !self.mounted_for(name, |users| !users.is_empty());
        if first && !is_mounted(&data) {
            LocalOptions::read(&volume.options).mount(&data).map_err(failed)?;
        }
        self.mounted_for(name, |users| {
            if !users.iter().any(|user| user == container) {
                users.push(container.to_owned());
            }
            true
        });
        Ok(data)
    }

    /// Undoes [`attach`](Self::attach); idempotent.
    pub fn detach(&self, name: &str, container: &str) -> Result<(), VolumeError> {
        let _held = self.busy.hold(&[name]);
        let was_last = self.mounted_for(name, |users| {
            let before = users.len();
            users.retain(|user| user != container);
            before > 0 && users.is_empty()
        });
        if was_last { unmount_leftover(&self.paths(name)) } else { Ok(()) }
    }

    /// Works on the list of a volume's users.
    fn mounted_for(&self, name: &str, work: impl FnOnce(&mut Vec<String>) -> bool) -> bool {
        let mut mounted = self.mounted.lock().unwrap_or_else(PoisonError::into_inner);
        let users = mounted.entry(name.to_owned()).or_default();
        let answer = work(users);
        if users.is_empty() {
            mounted.remove(name);
        }
        answer
    }
}

/// Unmounts what is mounted on a volume's content directory, if anything.
pub(super) fn unmount_leftover(paths: &VolumePaths) -> Result<(), VolumeError> {
    if is_mounted(&paths.data) { unmount(&paths.data) } else { Ok(()) }
}

impl LocalOptions {
    /// Mounts on `target`; the error is Docker's text.
    fn mount(&self, target: &Path) -> Result<(), String> {
        let options = self.resolved_options()?;
        let request = MountRequest {
            fs_type: &self.kind,
            source: Path::new(&self.device),
            target,
            options: &options,
            work_dir: None,
        };
        mount::mount(&request).map_err(|error| {
            format!(
                "failed to mount local volume: mount {}:{}, data: {}: {}",
                self.device,
                target.display(),
                crate::options::mask_password(&options.join(",")),
                errno_text(&error)
            )
        })
    }
}

/// The kernel's words without Rust's `(os error N)`, as Go prints them.
fn errno_text(error: &io::Error) -> String {
    let text = error.to_string();
    let words = text.split(" (os error").next().unwrap_or_default();
    words.to_lowercase()
}

/// Whether something is mounted exactly there.
pub(super) fn is_mounted(path: &Path) -> bool {
    use rustix::fs::{AtFlags, CWD, StatxAttributes, StatxFlags};
    let flags = AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT;
    rustix::fs::statx(CWD, path, flags, StatxFlags::TYPE)
        .is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

pub(super) fn unmount(path: &Path) -> Result<(), VolumeError> {
    match mount::unmount(path, Unmount::Now) {
        // A container in another mount namespace may still see it; it goes with the last one.
        Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {
            mount::unmount(path, Unmount::Lazy)
        }
        other => other,
    }
    .map_err(VolumeError::io("unmount", path))
}
