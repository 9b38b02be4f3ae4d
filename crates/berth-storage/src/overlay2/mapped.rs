//! Image layers that hold ids of containers, shown with the host's.
//!
//! With remapped ids every file of an image would have to be given to another owner when it is
//! unpacked. Where the kernel can (overlayfs since 5.19, file systems since 5.12 to 5.15), the home is
//! mounted a second time instead, read-only, with a user namespace that translates owners, and
//! overlayfs takes image layers from there. What containers write is in the home as it is, with ids of
//! the host: overlayfs cannot write through such a mount.
//!
//! A home says by a file that its image layers are so. A home that has layers without it holds ids of
//! the host for ever.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_sys::mount::{MountRequest, bind_mapped, mount};
use berth_sys::userns::{Holder, Maps, UserNs};

use crate::error::io_at;
use crate::home::{MAPPED, ProbeDir, clear_mount_point, make_dir, new_dir, set_mode};
use crate::select::Mapping;
use crate::{StorageError, stack};

/// The second mount of a home, while this value lives.
#[derive(Debug)]
pub(super) struct Mapped {
    dir: PathBuf,
}

impl Mapped {
    /// Mounts the home, if its image layers hold ids of containers, or may from now on.
    pub(super) fn open(
        home: &Path,
        mapping: Option<Mapping<'_>>,
    ) -> Result<Option<Self>, StorageError> {
        let marker = home.join(MAPPED);
        let is_marked = marker.try_exists().map_err(io_at("look at", &marker))?;
        let Some(mapping) = mapping.filter(|mapping| !mapping.ids.is_identity()) else {
            return if is_marked { Err(needed(home)) } else { Ok(None) };
        };
        if !is_marked && (stack::has_layers(home)? || !is_plain(home) || !is_plain(mapping.dir)) {
            return Ok(None);
        }
        // Its group is the host's: whoever passes through the second mount is none of it.
        set_mode(home, 0o711)?;
        let mapped = match Self::mount(home, mapping) {
            Ok(mapped) if mapped.works(home)? => mapped,
            Ok(_) if is_marked => return Err(needed(home)),
            Err(error) if is_marked => return Err(error),
            Ok(_) => return Ok(None),
            Err(error) => {
                tracing::debug!(%error, "image layers hold ids of the host");
                return Ok(None);
            }
        };
        if !is_marked {
            berth_fs::atomic::write(&marker, b"").map_err(io_at("create", marker))?;
        }
        Ok(Some(mapped))
    }

    /// Where the home is shown.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Unmounts it. Containers keep what they have mounted.
    pub(super) fn close(&self) -> Result<(), StorageError> {
        clear_mount_point(&self.dir)
    }

    fn mount(home: &Path, mapping: Mapping<'_>) -> Result<Self, StorageError> {
        let dir = mapping.dir.join("mapped-layers");
        // Left by a daemon that was killed. Containers keep what they have mounted.
        clear_mount_point(&dir)?;
        make_dir(&dir, 0o700)?;
        let (uids, gids) = (mapping.ids.uids.ranges(), mapping.ids.gids.ranges());
        let users = Holder::new(UserNs::New(Maps { uids: &uids, gids: &gids }))
            .map_err(io_at("make a user namespace for", home))?;
        let users = users.namespace("user");
        let users = fs::File::open(&users).map_err(io_at("open", users))?;
        let mounted = bind_mapped(home, &dir, std::os::fd::AsFd::as_fd(&users));
        let mapped = Self { dir };
        mounted.map_err(io_at("mount with other ids", home))?;
        Ok(mapped)
    }

    /// Whether overlayfs takes layers from there.
    fn works(&self, home: &Path) -> Result<bool, StorageError> {
        let probe = ProbeDir::new(home)?;
        for name in ["lower", "upper", "work", "merged"] {
            new_dir(&probe.path().join(name), 0o755)?;
        }
        let name = probe.path().file_name().unwrap_or_default();
        let lower = self.dir.join(name).join("lower");
        let options = [&*format!("lowerdir={}", lower.display()), "upperdir=upper", "workdir=work"];
        let tried = mount(&MountRequest {
            fs_type: "overlay",
            source: Path::new("overlay"),
            target: Path::new("merged"),
            work_dir: Some(probe.path()),
            options: &options.map(str::to_owned),
        });
        if let Err(error) = &tried {
            tracing::debug!(%error, "overlayfs takes no layers with other ids");
        }
        Ok(tried.is_ok())
    }
}

impl Drop for Mapped {
    fn drop(&mut self) {
        if let Err(error) = self.close() {
            tracing::warn!(%error, "a mount of image layers stays");
        }
    }
}

fn needed(home: &Path) -> StorageError {
    StorageError::Io {
        action: "use",
        path: home.to_owned(),
        source: io::Error::other(
            "its image layers hold ids of containers, for which this kernel and file system must have \
             id-mapped mounts (Linux 5.19), and --userns-remap must be given",
        ),
    }
}

/// Whether the path can stand in options of overlayfs.
fn is_plain(path: &Path) -> bool {
    path.to_str().is_some_and(|text| !text.contains([':', ',', '\\']))
}
