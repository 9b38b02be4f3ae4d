//! The driver's calls.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_types::LayerId;

use crate::options::{key_value, parse_bool, parse_size};
use crate::overlayfs::{Overlayfs, Parts};
use crate::stack::{Stack, View};
use crate::{
    Access, CreateOptions, LayerState, NativeDiff, Prepared, StorageDriver, StorageError, Teardown,
};

pub(crate) const NAME: &str = "overlay2";
/// File systems that overlayfs does not work over.
const REFUSED: [&str; 5] = ["aufs", "ecryptfs", "nfs", "overlayfs", "zfs"];

/// The driver over one home directory.
#[derive(Debug)]
pub struct Overlay2 {
    stack: Stack,
    overlayfs: Overlayfs,
}

impl Overlay2 {
    /// Opens the driver whose home is `dir`, creating it when it is missing, after finding out
    /// that it can work there.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        let size = parse_options(options)?;
        let overlayfs = Overlayfs::open(NAME, dir, &REFUSED)?;
        refuse_quota(size, overlayfs.backing())?;
        let stack = Stack::open(NAME, dir)?;
        Ok(Self { stack, overlayfs })
    }
}

impl StorageDriver for Overlay2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        let mut lines = self.overlayfs.status();
        // Mounts switch off what would make them differ from the kernel's plain behaviour.
        for (key, value) in
            [("Using metacopy", false), ("Native Overlay Diff", true), ("userxattr", false)]
        {
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
        check_create_options(options)?;
        self.stack.create(id, parent, options.writable)
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        match self.stack.view(id, access)? {
            View::Plain(root) => Ok(Prepared { root, mounts: Vec::new(), teardown: Vec::new() }),
            View::Stacked { lowers, upper, target } => {
                let parts = Parts { lowers: &lowers, upper: upper.as_ref(), target };
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

    fn native(&self) -> Option<&dyn NativeDiff> {
        Some(&self.stack)
    }
}

/// Gives the size of `overlay2.size`, 0 for none.
fn parse_options(options: &[String]) -> Result<i64, StorageError> {
    let mut size = 0;
    for option in options {
        let (key, value) = key_value(option)?;
        match key.as_str() {
            // Every kernel that berth runs on is newer than what this overrides.
            "overlay2.override_kernel_check" => {
                parse_bool(value)?;
            }
            "overlay2.size" => size = parse_size(value)?,
            _ => return Err(StorageError::Option(format!("overlay2: unknown option {key}"))),
        }
    }
    Ok(size)
}

fn refuse_quota(size: i64, backing: &str) -> Result<(), StorageError> {
    if size <= 0 {
        return Ok(());
    }
    Err(StorageError::Option(if backing == "xfs" {
        "Storage option overlay2.size not supported. Filesystem does not support Project Quota: \
         project quotas are not supported by this version of berth"
            .to_owned()
    } else {
        format!("Storage Option overlay2.size only supported for backingFS XFS. Found {backing}")
    }))
}

fn check_create_options(options: &CreateOptions) -> Result<(), StorageError> {
    if !options.mount_label.is_empty() {
        return Err(StorageError::MountLabel);
    }
    if options.storage_opt.is_empty() {
        return Ok(());
    }
    let text = if options.writable {
        "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"
    } else {
        "--storage-opt size is only supported for ReadWrite Layers"
    };
    Err(StorageError::Option(text.to_owned()))
}
