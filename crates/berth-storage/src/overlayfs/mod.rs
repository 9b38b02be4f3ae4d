//! The kernel's overlay file system: whether it works over a directory, and how its mounts are
//! described. `overlay2` and `overlay` have this in common.

mod probe;

use std::path::{Path, PathBuf};

use berth_sys::fsinfo;
use berth_sys::mount::ONE_LOWER;

use crate::error::io_at;
use crate::{MountPlan, StorageError};
use probe::Abilities;

/// What was found out about overlayfs over one directory.
#[derive(Debug)]
pub(crate) struct Overlayfs {
    home: PathBuf,
    backing: &'static str,
    d_type: bool,
    abilities: Abilities,
    page_size: usize,
}

/// The parts of one mount, by paths relative to the driver's home.
#[derive(Debug)]
pub(crate) struct Parts<'a> {
    /// Read-only, top-most first.
    pub(crate) lowers: &'a [String],
    /// What is written, and the directory that overlayfs needs for it.
    pub(crate) upper: Option<&'a (String, String)>,
    pub(crate) read_only: bool,
    /// Hard links to files of `lowers` are kept.
    pub(crate) index: bool,
    /// Absolute.
    pub(crate) target: PathBuf,
}

impl Overlayfs {
    /// Finds out whether `driver` can work in `dir`, or beside it while it is missing. `refused`
    /// are the file systems that it does not work over.
    pub(crate) fn open(
        driver: &'static str,
        dir: &Path,
        refused: &[&str],
    ) -> Result<Self, StorageError> {
        let parent = dir.parent().unwrap_or(dir);
        let test_dir = if dir.try_exists().map_err(io_at("look at", dir))? { dir } else { parent };
        let backing = fsinfo::fs_name(test_dir).map_err(io_at("look at", test_dir))?;
        if refused.contains(&backing) {
            tracing::error!("'{driver}' is not supported over {backing}");
            return Err(StorageError::BackingFs);
        }
        let abilities = probe::run(test_dir)?;
        let d_type = fsinfo::has_d_type(test_dir).map_err(io_at("try out", test_dir))?;
        if !d_type {
            let lacking = StorageError::DType { driver, backing };
            if crate::select::is_empty(dir)? {
                return Err(lacking);
            }
            tracing::warn!("{lacking}");
        }
        let page_size = rustix::param::page_size();
        Ok(Self { home: dir.to_owned(), backing, d_type, abilities, page_size })
    }

    /// Whether hard links are kept where a mount is told so: the file system below must have handles
    /// of its files.
    pub(crate) fn keeps_links(&self) -> Result<bool, StorageError> {
        probe::keeps_links(&self.home)
    }

    pub(crate) fn backing(&self) -> &'static str {
        self.backing
    }

    /// The first lines of the driver's status.
    pub(crate) fn status(&self) -> Vec<(String, String)> {
        vec![
            ("Backing Filesystem".to_owned(), self.backing.to_owned()),
            ("Supports d_type".to_owned(), self.d_type.to_string()),
        ]
    }

    /// How many layers one may stand on: as many as the kernel mounts where that can be reached, else as
    /// Docker has it.
    pub(crate) fn max_lowers(&self) -> usize {
        const DOCKERS: usize = 128;
        /// Of the kernel's 500 one is the layer itself when it is only read.
        const KERNELS: usize = 499;
        if self.abilities.many { KERNELS } else { DOCKERS }
    }

    /// Describes a mount: with absolute paths while they fit into a page, then with relative ones, then
    /// with one option for each lower directory.
    pub(crate) fn plan(&self, parts: Parts<'_>) -> Result<MountPlan, StorageError> {
        let options = |prefix: &str| {
            let mut options = self.abilities.options(parts.index);
            let stack: Vec<_> = parts.lowers.iter().map(|path| format!("{prefix}{path}")).collect();
            options.push(format!("lowerdir={}", stack.join(":")));
            if let Some((upper, work)) = parts.upper {
                options.push(format!("upperdir={prefix}{upper}"));
                options.push(format!("workdir={prefix}{work}"));
            }
            options
        };
        let mut plan = MountPlan {
            fs_type: "overlay".to_owned(),
            source: PathBuf::from("overlay"),
            target: parts.target,
            work_dir: None,
            options: Vec::new(),
        };
        // overlayfs would read these characters as its own.
        let plain = self.home.to_str().filter(|text| !text.contains([':', ',', '\\']));
        if let Some(prefix) = plain {
            plan.options = options(&format!("{prefix}/"));
        }
        if plain.is_none() || berth_sys::mount::data_len(&plan.options) >= self.page_size {
            plan.options = options("");
            plan.work_dir = Some(self.home.clone());
        }
        let length = berth_sys::mount::data_len(&plan.options);
        if length >= self.page_size && self.abilities.many {
            plan.options.retain(|option| !option.starts_with("lowerdir="));
            let lowers = parts.lowers.iter().map(|path| format!("{ONE_LOWER}{path}"));
            plan.options.extend(lowers);
        } else if length >= self.page_size {
            return Err(StorageError::MountTooLong { length });
        }
        if parts.read_only {
            plan.options.push("ro".to_owned());
        }
        Ok(plan)
    }
}
