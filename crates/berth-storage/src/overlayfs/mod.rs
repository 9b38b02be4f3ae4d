//! The kernel's overlay file system: whether it works over a directory, and how its mounts are
//! described. `overlay2` and `overlay` have this in common.

mod probe;

use std::path::{Path, PathBuf};

use berth_sys::fsinfo;
use berth_sys::mount::ONE_LOWER;

use crate::error::io_at;
use crate::stack::Lower;
use crate::{MountPlan, StorageError};
use probe::Abilities;

const LOWERS: &str = "lowerdir=";

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
    pub(crate) lowers: &'a [Lower],
    /// Where those that are mapped are instead.
    pub(crate) mapped: Option<&'a Path>,
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
        // overlayfs would read these characters as its own.
        let plain = self.home.to_str().filter(|text| !text.contains([':', ',', '\\']));
        let own = plain.map_or_else(String::new, |home| format!("{home}/"));
        // What is mapped is only there where the home is plain.
        let mapped = parts.mapped.map(|dir| format!("{}/", dir.display()));
        let mut options = self.options(&parts, &own, mapped.as_deref().unwrap_or_default());
        let mut work_dir = plain.is_none().then(|| self.home.clone());
        if plain.is_some() && berth_sys::mount::data_len(&options) >= self.page_size {
            let (own, dir) = match parts.mapped {
                Some(mapped) => (&*own, mapped),
                None => ("", &*self.home),
            };
            options = self.options(&parts, own, "");
            work_dir = Some(dir.to_owned());
        }
        let length = berth_sys::mount::data_len(&options);
        if length >= self.page_size && self.abilities.many {
            let stack = options.iter().position(|option| option.starts_with(LOWERS));
            let stack = stack.map(|at| options.remove(at)).unwrap_or_default();
            let lowers = stack.trim_start_matches(LOWERS).split(':');
            options.extend(lowers.map(|path| format!("{ONE_LOWER}{path}")));
        } else if length >= self.page_size {
            return Err(StorageError::MountTooLong { length });
        }
        if parts.read_only {
            options.push("ro".to_owned());
        }
        Ok(MountPlan {
            fs_type: "overlay".to_owned(),
            source: PathBuf::from("overlay"),
            target: parts.target,
            work_dir,
            options,
        })
    }

    /// The options of a mount, with what paths of the home and mapped ones begin with.
    fn options(&self, parts: &Parts<'_>, own: &str, mapped: &str) -> Vec<String> {
        let mut options = self.abilities.options(parts.index);
        let path = |lower: &Lower| {
            let prefix = if lower.mapped { mapped } else { own };
            format!("{prefix}{}", lower.path)
        };
        let stack: Vec<_> = parts.lowers.iter().map(path).collect();
        options.push(format!("{LOWERS}{}", stack.join(":")));
        if let Some((upper, work)) = parts.upper {
            options.push(format!("upperdir={own}{upper}"));
            options.push(format!("workdir={own}{work}"));
        }
        options
    }
}
