//! The driver's calls.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_sys::fsinfo;
use berth_types::LayerId;

use super::layout::{
    self, COMMITTED, DIFF, LINK, LINKS, LOWER, MERGED, ShortName, WORK, lower_text,
};
use super::probe::{self, Abilities};
use crate::error::io_at;
use crate::home::{Home, PRIVATE, clear_mount_point, make_dir, new_dir};
use crate::options::{key_value, parse_bool, parse_size};
use crate::{
    Access, CreateOptions, LayerState, MountPlan, NativeDiff, Prepared, StorageDriver,
    StorageError, Teardown, Whiteouts,
};

pub(crate) const NAME: &str = "overlay2";
/// File systems that overlayfs does not work over.
const REFUSED: [&str; 5] = ["aufs", "ecryptfs", "nfs", "overlayfs", "zfs"];

/// The driver over one home directory.
#[derive(Debug)]
pub struct Overlay2 {
    pub(super) home: Home,
    backing: &'static str,
    d_type: bool,
    abilities: Abilities,
    page_size: usize,
}

impl Overlay2 {
    /// Opens the driver whose home is `dir`, creating it when it is missing, after finding out
    /// that it can work there.
    pub fn open(dir: &Path, options: &[String]) -> Result<Self, StorageError> {
        let size = parse_options(options)?;
        let parent = dir.parent().unwrap_or(dir);
        let test_dir = if dir.try_exists().map_err(io_at("look at", dir))? { dir } else { parent };
        let backing = fsinfo::fs_name(test_dir).map_err(io_at("look at", test_dir))?;
        if REFUSED.contains(&backing) {
            tracing::error!("'overlay2' is not supported over {backing}");
            return Err(StorageError::BackingFs);
        }
        let abilities = probe::run(test_dir)?;
        let d_type = fsinfo::has_d_type(test_dir).map_err(io_at("try out", test_dir))?;
        if !d_type {
            let refused = StorageError::DType { driver: NAME, backing };
            if crate::select::is_empty(dir)? {
                return Err(refused);
            }
            tracing::warn!("{refused}");
        }
        refuse_quota(size, backing)?;
        let home = Home::open(NAME, dir)?;
        make_dir(&dir.join(LINKS), 0o700)?;
        let page_size = rustix::param::page_size();
        Ok(Self { home, backing, d_type, abilities, page_size })
    }

    fn fill_new(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        writable: bool,
    ) -> Result<(), StorageError> {
        let lowers = match parent {
            Some(parent) => Some(layout::lowers_on(&self.home, parent)?),
            None => None,
        };
        let dir = self.home.start_creating(id, PRIVATE)?;
        let diff = dir.join(DIFF);
        new_dir(&diff, 0o755)?;
        if let Some(parent) = parent.filter(|_| writable) {
            take_owner(&diff, &self.diff_dir(parent))?;
        }
        let short = ShortName::random();
        // Before the link: an interrupted creation tells by this file which link is its own.
        layout::write_new(&dir.join(LINK), short.as_str(), 0o644)?;
        layout::make_link(&self.home, &short, id)?;
        if let Some(lowers) = lowers {
            new_dir(&dir.join(WORK), 0o700)?;
            layout::write_new(&dir.join(LOWER), &lower_text(&lowers), 0o644)?;
        }
        self.home.publish(id)
    }

    /// What is mounted below a layer's own directory, top-most first; `None` for a base layer.
    fn lowers(&self, id: &LayerId) -> Result<Option<Vec<ShortName>>, StorageError> {
        layout::read_lower_file(id, &self.home.layer(id))
    }

    fn plan(
        &self,
        id: &LayerId,
        lowers: &[ShortName],
        write: bool,
    ) -> Result<MountPlan, StorageError> {
        let home = self.home.dir();
        let mut stack: Vec<String> = lowers.iter().map(ShortName::relative).collect();
        if !write {
            let own = layout::read_link_file(&self.home.layer(id))?
                .ok_or_else(|| StorageError::Damaged { id: id.clone(), what: "file link" })?;
            stack.insert(0, own.relative());
        }
        let options = |prefix: &str| {
            let mut options = self.abilities.options();
            let stack: Vec<_> = stack.iter().map(|link| format!("{prefix}{link}")).collect();
            options.push(format!("lowerdir={}", stack.join(":")));
            if write {
                options.push(format!("upperdir={prefix}{id}/{DIFF}"));
                options.push(format!("workdir={prefix}{id}/{WORK}"));
            }
            options
        };
        let mut plan = MountPlan {
            fs_type: "overlay".to_owned(),
            source: PathBuf::from("overlay"),
            target: home.join(id.as_str()).join(MERGED),
            work_dir: None,
            options: Vec::new(),
        };
        // overlayfs would read these characters as its own.
        let plain = home.to_str().filter(|text| !text.contains([':', ',', '\\']));
        if let Some(prefix) = plain {
            plan.options = options(&format!("{prefix}/"));
        }
        if plain.is_none() || berth_sys::mount::data_len(&plan.options) >= self.page_size {
            plan.options = options("");
            plan.work_dir = Some(home.to_owned());
        }
        let length = berth_sys::mount::data_len(&plan.options);
        if length >= self.page_size {
            return Err(StorageError::MountTooLong { length });
        }
        if !write {
            plan.options.push("ro".to_owned());
        }
        Ok(plan)
    }

    fn lower_paths(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        let lowers = self.lowers(id)?.unwrap_or_default();
        lowers.iter().map(|name| layout::resolve(&self.home, name)).collect()
    }
}

impl StorageDriver for Overlay2 {
    fn name(&self) -> &'static str {
        NAME
    }

    fn status(&self) -> Vec<(String, String)> {
        // Mounts switch off what would make them differ from the kernel's plain behaviour.
        let lines = [
            ("Backing Filesystem", self.backing.to_owned()),
            ("Supports d_type", self.d_type.to_string()),
            ("Using metacopy", false.to_string()),
            ("Native Overlay Diff", true.to_string()),
            ("userxattr", false.to_string()),
        ];
        lines.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn metadata(&self, id: &LayerId) -> Result<Option<BTreeMap<String, String>>, StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        let mut data = BTreeMap::new();
        for (key, name) in [("WorkDir", WORK), ("MergedDir", MERGED), ("UpperDir", DIFF)] {
            data.insert(key.to_owned(), dir.join(name).to_string_lossy().into_owned());
        }
        let lowers = self.lower_paths(id)?;
        if !lowers.is_empty() {
            let lowers: Vec<_> = lowers.iter().map(|path| path.to_string_lossy()).collect();
            data.insert("LowerDir".to_owned(), lowers.join(":"));
        }
        Ok(Some(data))
    }

    fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        options: &CreateOptions,
    ) -> Result<(), StorageError> {
        check_create_options(options)?;
        let made = self.fill_new(id, parent, options.writable);
        if made.is_err() && !matches!(made, Err(StorageError::LayerExists { .. })) {
            self.undo_creation(id);
        }
        made
    }

    fn prepare(&self, id: &LayerId, access: Access) -> Result<Prepared, StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        let write = access == Access::Write;
        if write && layout::is_committed(&dir)? {
            return Err(StorageError::ReadOnly { driver: NAME, id: id.clone() });
        }
        let Some(lowers) = self.lowers(id)? else {
            return Ok(Prepared { root: dir.join(DIFF), mounts: Vec::new(), teardown: Vec::new() });
        };
        let mount = self.plan(id, &lowers, write)?;
        let root = mount.target.clone();
        let teardown = vec![Teardown::RemoveDir { path: root.clone() }];
        Ok(Prepared { root, mounts: vec![mount], teardown })
    }

    fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        clear_mount_point(&self.home.layer(id).join(MERGED))
    }

    fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        if layout::is_committed(&dir)? {
            return Ok(());
        }
        layout::write_new(&dir.join(COMMITTED), "", 0o600)
    }

    fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.release(id)?;
        let Some(trash) = self.home.detach(id)? else { return Ok(()) };
        self.drop_link(id, &trash)
    }

    fn reap(&self) -> Result<(), StorageError> {
        self.home.reap()
    }

    fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let with_state = |id: LayerId| {
            let committed = layout::is_committed(&self.home.layer(&id))?;
            Ok((id, if committed { LayerState::Committed } else { LayerState::Active }))
        };
        self.home.list()?.into_iter().map(with_state).collect()
    }

    fn recover(&self, keep: &dyn Fn(&LayerId) -> bool) -> Result<(), StorageError> {
        self.clean_up(keep)
    }

    fn sync(&self) -> Result<(), StorageError> {
        self.home.sync()
    }

    fn set_aside(&self, id: &LayerId, lost_and_found: &Path) -> Result<PathBuf, StorageError> {
        let moved = self.home.set_aside(id, lost_and_found)?;
        self.drop_link(id, &moved)?;
        Ok(moved)
    }

    fn native(&self) -> Option<&dyn NativeDiff> {
        Some(self)
    }
}

impl NativeDiff for Overlay2 {
    fn diff_dir(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id).join(DIFF)
    }

    fn whiteouts(&self) -> Whiteouts {
        Whiteouts::Overlay
    }

    fn lower_dirs(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        self.home.check(id)?;
        self.lower_paths(id)
    }

    fn stand_on(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(), StorageError> {
        self.mend(id, parent)
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

/// The root of a container's layer belongs to whom the layer below belongs.
fn take_owner(diff: &Path, below: &Path) -> Result<(), StorageError> {
    let meta = fs::metadata(below).map_err(io_at("look at", below))?;
    if (meta.uid(), meta.gid()) == (0, 0) {
        return Ok(());
    }
    std::os::unix::fs::chown(diff, Some(meta.uid()), Some(meta.gid()))
        .map_err(io_at("set the owner of", diff))
}
