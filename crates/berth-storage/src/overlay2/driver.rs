//! The driver's calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_types::{LayerId, Owner};

use super::mapped::Mapped;
use crate::options::{key_value, parse_bool, parse_size};
use crate::overlayfs::{Overlayfs, Parts};
use crate::quota::Quotas;
use crate::stack::{Stack, View};
use crate::{
    Access, CreateOptions, LayerState, Mapping, NativeDiff, Prepared, StorageDriver, StorageError,
    Teardown, Upkeep,
};

pub(crate) const NAME: &str = "overlay2";
/// File systems that overlayfs does not work over.
const REFUSED: [&str; 5] = ["aufs", "ecryptfs", "nfs", "overlayfs", "zfs"];

/// The driver over one home directory.
#[derive(Debug)]
pub struct Overlay2 {
    stack: Stack,
    overlayfs: Overlayfs,
    quotas: Option<Quotas>,
    settings: Settings,
    mapped: Option<Mapped>,
}

/// What the options say.
#[derive(Debug, Clone, Copy, Default)]
struct Settings {
    /// `overlay2.size`: of containers that ask for none; 0 is no limit.
    size: i64,
    /// `overlay2.index`: new containers' layers keep hard links to files of the image.
    index: bool,
}

impl Overlay2 {
    /// Opens the driver whose home is `dir`, creating it when it is missing, after finding out
    /// that it can work there.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT, None)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host; with `mapping`, image
    /// layers of a new home hold ids of containers where the kernel can mount them so.
    pub fn open_for(
        dir: &Path,
        options: &[String],
        root: Owner,
        mapping: Option<Mapping<'_>>,
    ) -> Result<Self, StorageError> {
        let settings = parse_options(options)?;
        let overlayfs = Overlayfs::open(NAME, dir, &REFUSED)?;
        if settings.size > 0 {
            check_quota(dir, overlayfs.backing())?;
        }
        let stack = Stack::open(NAME, dir, overlayfs.max_lowers(), root)?;
        if settings.index && !overlayfs.keeps_links()? {
            let text = "Storage option overlay2.index not supported: this kernel has no index, or the \
                        file system below no file handles";
            return Err(StorageError::Option(text.to_owned()));
        }
        let mapped = Mapped::open(dir, mapping)?;
        let shown = mapped.as_ref().map(|mapped| mapped.dir().to_owned());
        let stack = stack.with_index(settings.index)?.with_mapped(shown);
        let quotas = Quotas::below(dir);
        Ok(Self { stack, overlayfs, quotas, settings, mapped })
    }
}

impl StorageDriver for Overlay2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        let mut lines = self.overlayfs.status();
        // Mounts switch off what would make them differ from the kernel's plain behaviour.
        for (key, value) in [
            ("Using metacopy", false),
            ("Native Overlay Diff", !self.settings.index),
            ("userxattr", false),
        ] {
            lines.push((key.to_owned(), value.to_string()));
        }
        lines
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.stack.metadata(id).map(Some)
    }

    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        let size = self.check_create_options(options)?;
        let limit = self.quotas.as_ref().and_then(|quotas| quotas.limit(size));
        self.stack.create(id, parent, options.writable, limit)
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        match self.stack.view(id, access)? {
            View::Plain(root) => Ok(Prepared { root, mounts: Vec::new(), teardown: Vec::new() }),
            View::Stacked { lowers, upper, read_only, index, target } => {
                let upper = upper.as_ref();
                let mapped = self.mapped.as_ref().map(Mapped::dir);
                let parts = Parts { lowers: &lowers, mapped, upper, read_only, index, target };
                let mount = self.overlayfs.plan(parts)?;
                let root = mount.target.clone();
                let teardown = vec![Teardown::RemoveDir { path: root.clone() }];
                Ok(Prepared { root, mounts: vec![mount], teardown })
            }
        }
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        self.stack.release(id)
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.stack.commit(id)
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.stack.remove(id)
    }

    fn reap(&self) -> Result<(), StorageError> {
        self.stack.home().reap()
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        self.stack.list()
    }

    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.stack.clean_up(keep)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.stack.home().sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        self.stack.set_aside(id, lost_and_found)
    }

    fn close(&self) -> Result<(), StorageError> {
        self.mapped.as_ref().map_or(Ok(()), Mapped::close)
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        Some(&self.stack)
    }

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(&self.stack)
    }
}

fn parse_options(options: &[String]) -> Result<Settings, StorageError> {
    let mut settings = Settings::default();
    for option in options {
        let (key, value) = key_value(option)?;
        match key.as_str() {
            // Every kernel that berth runs on is newer than what this overrides.
            "overlay2.override_kernel_check" => {
                parse_bool(value)?;
            }
            "overlay2.size" => settings.size = parse_size(value)?,
            "overlay2.index" => settings.index = parse_switch(&key, value)?,
            _ => return Err(StorageError::Option(format!("overlay2: unknown option {key}"))),
        }
    }
    Ok(settings)
}

/// The kernel's words for its own options.
fn parse_switch(key: &str, value: &str) -> Result<bool, StorageError> {
    match value {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(StorageError::Option(format!("invalid {key}: {value:?} is neither on nor off"))),
    }
}

/// Whether `overlay2.size` can be kept. Docker's list of file systems has xfs alone; ext4 is as good.
fn check_quota(dir: &Path, backing: &str) -> Result<(), StorageError> {
    if !matches!(backing, "xfs" | "extfs") {
        return Err(StorageError::Option(format!(
            "Storage Option overlay2.size only supported for backingFS XFS. Found {backing}"
        )));
    }
    // The home may not be there yet, and is not made by a start that fails.
    let there = if dir.is_dir() { dir } else { dir.parent().unwrap_or(dir) };
    match Quotas::below(there) {
        Some(_) => Ok(()),
        None => Err(StorageError::Option(
            "Storage option overlay2.size not supported. Filesystem does not support Project Quota: \
             Filesystem does not support, or has not enabled quotas"
                .to_owned(),
        )),
    }
}

impl Overlay2 {
    /// Gives the size that a layer may have, 0 for any.
    fn check_create_options(&self, options: &CreateOptions) -> Result<i64, StorageError> {
        if !options.mount_label.is_empty() {
            return Err(StorageError::MountLabel);
        }
        if !options.writable {
            let text = "--storage-opt size is only supported for ReadWrite Layers";
            return if options.storage_opt.is_empty() {
                Ok(0)
            } else {
                Err(StorageError::Option(text.to_owned()))
            };
        }
        if self.quotas.is_none() && !options.storage_opt.is_empty() {
            let text =
                "--storage-opt is supported only for overlay over xfs with 'pquota' mount option";
            return Err(StorageError::Option(text.to_owned()));
        }
        let mut size = self.settings.size;
        for (key, value) in &options.storage_opt {
            if !key.eq_ignore_ascii_case("size") {
                return Err(StorageError::Option(format!("Unknown option {key}")));
            }
            size = parse_size(value)?;
        }
        Ok(size)
    }
}
