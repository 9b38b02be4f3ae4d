//! For callers that use a prepared layer in their own process, for a while.

use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::Path;

use berth_sys::mount::{MountRequest, Unmount, before_unmount, mount, unmount};

use crate::error::io_at;
use crate::{MountPlan, Prepared, StorageError, Teardown};

/// A prepared layer that this process mounted. Dropping it undoes the mounts.
#[derive(Debug)]
pub struct Mounted {
    prepared: Prepared,
    mounted: usize,
}

impl Mounted {
    /// Makes the mounts, in order; undoes them all when one fails.
    pub fn new(prepared: Prepared) -> Result<Self, StorageError> {
        let mut this = Self { prepared, mounted: 0 };
        for plan in &this.prepared.mounts {
            perform(plan)?;
            this.mounted += 1;
        }
        Ok(this)
    }

    /// Leaves the mounts to whoever unmounts them.
    pub fn leave(mut self) {
        self.mounted = 0;
        self.prepared.teardown.clear();
    }

    /// Where the content is.
    pub fn root(&self) -> &Path {
        &self.prepared.root
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        for plan in self.prepared.mounts[..self.mounted].iter().rev() {
            before_unmount(&plan.fs_type, &plan.target);
            if let Err(error) = unmount(&plan.target, Unmount::Lazy) {
                tracing::warn!(%error, target = %plan.target.display(), "cannot unmount a layer");
            }
        }
        for step in &self.prepared.teardown {
            let (path, removed) = match step {
                Teardown::RemoveDir { path } => (path, fs::remove_dir(path)),
                Teardown::RemoveFile { path } => (path, fs::remove_file(path)),
            };
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::debug!(%error, path = %path.display(), "a trace of a mount stays");
                }
                _ => {}
            }
        }
    }
}

fn perform(plan: &MountPlan) -> Result<(), StorageError> {
    match fs::DirBuilder::new().mode(0o700).create(&plan.target) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            return Err(io_at("create", &plan.target)(error));
        }
        _ => {}
    }
    let request = MountRequest {
        fs_type: &plan.fs_type,
        source: &plan.source,
        target: &plan.target,
        work_dir: plan.work_dir.as_deref(),
        options: &plan.options,
    };
    mount(&request).map_err(|source| StorageError::Mount {
        fs_type: plan.fs_type.clone(),
        target: plan.target.clone(),
        source,
    })
}
