//! The driver's calls.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use berth_sys::fsinfo;
use berth_types::{LayerId, Owner};
use rustix::fs::XattrFlags;

use super::helpers::end_strays;
use crate::error::io_at;
use crate::home::{ProbeDir, new_dir};
use crate::options::key_value;
use crate::programs::on_path;
use crate::stack::{Lower, Stack, View};
use crate::{
    Access, CreateOptions, LayerState, MountPlan, Mounted, NativeDiff, Prepared, StorageDriver,
    StorageError, Teardown, Upkeep,
};

pub(crate) const NAME: &str = "fuse-overlayfs";
/// What Docker's overlay drivers allow; the program reads its options from one argument.
const MAX_LOWERS: usize = 128;
pub(super) const PROGRAM: &str = "fuse-overlayfs";
const DEVICE: &str = "/dev/fuse";
const OPAQUE: &str = "trusted.overlay.opaque";

/// The driver over one home directory.
#[derive(Debug)]
pub struct FuseOverlayfs {
    stack: Stack,
}

impl FuseOverlayfs {
    /// Opens the driver whose home is `dir`, creating it when it is missing, after finding out
    /// that it can work there.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        Self::open_for(dir, options, Owner::ROOT)
    }

    /// As [`open`](Self::open), for containers whose root is `root` on the host.
    pub fn open_for(dir: &Path, options: &[String], root: Owner) -> Result<Self, StorageError> {
        if !on_path(PROGRAM) {
            tracing::error!("exec: \"{PROGRAM}\": executable file not found in $PATH");
            return Err(StorageError::NotSupported);
        }
        if let Err(error) = fs::OpenOptions::new().read(true).write(true).open(DEVICE) {
            tracing::error!(%error, "{DEVICE} cannot be used");
            return Err(StorageError::NotSupported);
        }
        if let Some(option) = options.first() {
            let (key, _) = key_value(option)?;
            return Err(StorageError::Option(format!("{NAME}: unknown option {key}")));
        }
        let parent = dir.parent().unwrap_or(dir);
        let test_dir = if dir.try_exists().map_err(io_at("look at", dir))? { dir } else { parent };
        probe(test_dir)?;
        Ok(Self { stack: Stack::open(NAME, dir, MAX_LOWERS, root)? })
    }

    fn plan(
        &self,
        lowers: &[Lower],
        upper: Option<&(String, String)>,
        target: PathBuf,
    ) -> MountPlan {
        let home = self.stack.home().dir();
        // The helper would read these characters as its own.
        let plain = home.to_str().filter(|text| !text.contains([':', ',', '\\']));
        let (prefix, work_dir) = match plain {
            Some(home) => (format!("{home}/"), None),
            None => (String::new(), Some(home.to_owned())),
        };
        let lowers: Vec<_> = lowers.iter().map(|lower| format!("{prefix}{}", lower.path)).collect();
        let mut options = vec!["dev".to_owned(), "writeback=0".to_owned()];
        options.push(format!("lowerdir={}", lowers.join(":")));
        match upper {
            Some((upper, work)) => {
                options.push(format!("upperdir={prefix}{upper}"));
                options.push(format!("workdir={prefix}{work}"));
            }
            None => options.push("ro".to_owned()),
        }
        let source = PathBuf::from(PROGRAM);
        MountPlan { fs_type: format!("fuse.{PROGRAM}"), source, target, work_dir, options }
    }
}

impl StorageDriver for FuseOverlayfs {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        Vec::new()
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
        if !options.mount_label.is_empty() {
            return Err(StorageError::MountLabel);
        }
        if !options.storage_opt.is_empty() {
            let text = format!("--storage-opt is not supported for {NAME}");
            return Err(StorageError::Option(text));
        }
        self.stack.create(id, parent, options.writable, None)
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        match self.stack.view(id, access)? {
            View::Plain(root) => Ok(Prepared { root, mounts: Vec::new(), teardown: Vec::new() }),
            View::Stacked { lowers, upper, target, .. } => {
                let mounts = vec![self.plan(&lowers, upper.as_ref(), target.clone())];
                let teardown = vec![Teardown::RemoveDir { path: target.clone() }];
                Ok(Prepared { root: target, mounts, teardown })
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
        self.stack.clean_up(keep)?;
        end_strays(self.stack.home().dir(), keep);
        Ok(())
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

    fn upkeep(&self) -> Option<&dyn Upkeep> {
        Some(&self.stack)
    }
}

/// Tries the helper in `dir`: a mount that shows both layers and takes a whiteout, over a file
/// system that can mark a directory opaque.
fn probe(dir: &Path) -> Result<(), StorageError> {
    let backing = fsinfo::fs_name(dir).map_err(io_at("look at", dir))?;
    let probe = ProbeDir::new(dir)?;
    let at = |name: &str| probe.path().join(name);
    for name in ["l1", "l2", "upper", "work"] {
        new_dir(&at(name), 0o755)?;
    }
    if let Err(error) = rustix::fs::setxattr(at("l2"), OPAQUE, b"y", XattrFlags::empty()) {
        tracing::error!(%error, "'{NAME}' needs trusted extended attributes, not in {backing}");
        return Err(StorageError::NotSupported);
    }
    rustix::fs::removexattr(at("l2"), OPAQUE).map_err(io_at("remove an attribute of", at("l2")))?;
    fs::File::create(at("l1/f")).map_err(io_at("create", at("l1/f")))?;
    let options = ["writeback=0", "lowerdir=l2:l1", "upperdir=upper", "workdir=work"];
    let plan = MountPlan {
        fs_type: format!("fuse.{PROGRAM}"),
        source: PathBuf::from(PROGRAM),
        target: at("merged"),
        work_dir: Some(probe.path().to_owned()),
        options: options.map(str::to_owned).to_vec(),
    };
    let root = at("merged");
    let tried = Mounted::new(Prepared { root, mounts: vec![plan], teardown: Vec::new() });
    let works = tried.and_then(|mounted| {
        let file = mounted.root().join("f");
        fs::remove_file(&file).map_err(io_at("remove", file))?;
        let mark = at("upper/f");
        let meta = fs::symlink_metadata(&mark).map_err(io_at("look at", mark))?;
        Ok(std::os::unix::fs::FileTypeExt::is_char_device(&meta.file_type()))
    });
    match works {
        Ok(true) => Ok(()),
        Ok(false) => {
            tracing::error!("'{NAME}' cannot mark deleted files over {backing}");
            Err(StorageError::NotSupported)
        }
        Err(error) => {
            let error = berth_types::kind::chain(&error);
            tracing::error!(error, "'{NAME}' does not work over {backing}");
            Err(StorageError::NotSupported)
        }
    }
}
