//! Layers that are directories of changes, stacked by a union file system: the layout that
//! `overlay2` and `fuse-overlayfs` have in common.
//!
//! ```text
//! <home>/                   0710
//!   l/<26 characters>       link to ../<id>/diff: short names for the mount options
//!   <id>/                   0710
//!     diff/                 the layer's own changes
//!     link                  its name below l/
//!     lower                 l/AAA:l/BBB:…, nearest first; only on top of another layer
//!     work/                 the union file system's own; only on top of another layer
//!     work/index/           only of layers that are mounted with an index, see `index`
//!     merged/               only while mounted
//!     committed             empty; the layer is frozen and is only mounted read-only
//! ```
//!
//! beside the names that [`home`](crate::home) describes.
//!
//! A layer may be created and filled before its parent is filled, since only `lower` ties them.

mod index;
mod layout;
mod recover;
mod transfer;

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_fs::marks::Marks;
use berth_types::{LayerId, Owner};

use crate::error::io_at;
use crate::home::{Home, PRIVATE, clear_mount_point, make_dir, new_dir};
use crate::quota::SizeLimit;
use crate::{Access, LayerState, NativeDiff, StorageError, Upkeep};

use layout::{COMMITTED, DIFF, LINK, LINKS, LOWER, MERGED, WORK, lower_text};

pub(crate) use layout::ShortName;
pub(crate) use transfer::transfer;

/// The layers below one home directory.
#[derive(Debug)]
pub(crate) struct Stack {
    home: Home,
    driver: &'static str,
    /// How many layers one may stand on.
    most: usize,
    /// Whether new layers that are written get an index.
    index: bool,
    /// Whether any layer may have one.
    some_indexed: bool,
    /// Where image layers, which hold ids of containers, are shown with those of the host.
    mapped: Option<PathBuf>,
}

/// A read-only part of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Lower {
    /// Relative to the home directory.
    pub(crate) path: String,
    /// It is taken from where the home is shown with other ids.
    pub(crate) mapped: bool,
}

impl Lower {
    /// One that is taken as it is.
    pub(crate) fn plain(path: String) -> Self {
        Self { path, mapped: false }
    }
}

/// Whether the home has any layer, finished or not.
pub(crate) fn has_layers(dir: &Path) -> Result<bool, StorageError> {
    Ok(!crate::select::is_empty(&dir.join(LINKS))?)
}

/// What is to be mounted for a layer.
#[derive(Debug)]
pub(crate) enum View {
    /// Nothing: the layer stands on no other, and this directory is its content.
    Plain(PathBuf),
    /// These parts.
    Stacked {
        /// Read-only, top-most first.
        lowers: Vec<Lower>,
        /// The part that is written and the union file system's own directory, relative to the home
        /// directory.
        upper: Option<(String, String)>,
        /// Nothing may be written.
        read_only: bool,
        /// Hard links to files of the read-only parts are kept, by an index in the own directory.
        index: bool,
        /// Absolute.
        target: PathBuf,
    },
}

impl Stack {
    pub(crate) fn open(
        driver: &'static str,
        dir: &Path,
        most: usize,
        root: Owner,
    ) -> Result<Self, StorageError> {
        let home = Home::open(driver, dir, root)?;
        make_dir(&dir.join(LINKS), 0o700)?;
        Ok(Self { home, driver, most, index: false, some_indexed: false, mapped: None })
    }

    /// Gives an index to new layers, or not; those that have one keep it.
    pub(crate) fn with_index(mut self, index: bool) -> Result<Self, StorageError> {
        self.index = index;
        self.some_indexed = index || self.any_indexed()?;
        Ok(self)
    }

    /// Image layers hold ids of containers, and the home is shown at `dir` with those of the host.
    pub(crate) fn with_mapped(mut self, dir: Option<PathBuf>) -> Self {
        self.mapped = dir;
        self
    }

    fn any_indexed(&self) -> Result<bool, StorageError> {
        for id in self.home.list()? {
            if index::has(&self.home.layer(&id))? {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn home(&self) -> &Home {
        &self.home
    }

    pub(crate) fn create(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        writable: bool,
        limit: Option<SizeLimit<'_>>,
    ) -> Result<(), StorageError> {
        let made = self.fill_new(id, parent, writable, limit);
        if made.is_err() && !matches!(made, Err(StorageError::LayerExists { .. })) {
            self.undo_creation(id);
        }
        made
    }

    fn fill_new(
        &self,
        id: &LayerId,
        parent: Option<&LayerId>,
        writable: bool,
        limit: Option<SizeLimit<'_>>,
    ) -> Result<(), StorageError> {
        let lowers = match parent {
            Some(parent) => Some(layout::lowers_on(&self.home, parent, self.most)?),
            None => None,
        };
        let holds_ids_of_containers = self.mapped.is_some() && !writable;
        let dir = if holds_ids_of_containers {
            // A group of the host's would be nobody's where the home is shown with other ids, and
            // not even the host's root passes then.
            let dir = self.home.stage(id)?;
            new_dir(&dir, PRIVATE)?;
            dir
        } else {
            self.home.start_creating(id)?
        };
        if let Some(limit) = limit {
            limit.apply(&dir)?;
        }
        let diff = dir.join(DIFF);
        if holds_ids_of_containers {
            new_dir(&diff, 0o755)?;
        } else {
            self.home.new_root(&diff)?;
        }
        if let Some(parent) = parent.filter(|_| writable) {
            take_owner(&diff, &self.shown(parent).join(DIFF))?;
        }
        let short = ShortName::random();
        // Before the link: an interrupted creation tells by this file which link is its own.
        layout::write_new(&dir.join(LINK), short.as_str(), 0o644)?;
        layout::make_link(&self.home, &short, id)?;
        if let Some(lowers) = lowers {
            new_dir(&dir.join(WORK), 0o700)?;
            if writable && self.index {
                index::make(&dir)?;
            }
            layout::write_new(&dir.join(LOWER), &lower_text(&lowers), 0o644)?;
        }
        self.home.publish(id)
    }

    /// What to mount so as to reach a layer's content.
    pub(crate) fn view(&self, id: &LayerId, access: Access) -> Result<View, StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        let write = access == Access::Write;
        let committed = layout::is_committed(&dir)?;
        if write && committed {
            return Err(StorageError::ReadOnly { driver: self.driver, id: id.clone() });
        }
        let Some(lowers) = layout::read_lower_file(id, &dir)? else {
            let shown = if committed { self.shown(id) } else { dir };
            return Ok(View::Plain(shown.join(DIFF)));
        };
        let index = self.some_indexed && !committed && index::has(&dir)?;
        let mut lowers = self.parts(&lowers);
        // What the index knows is seen by a mount that has it.
        let as_upper = write || index;
        if !as_upper {
            let own = layout::read_link_file(&dir)?
                .ok_or_else(|| StorageError::Damaged { id: id.clone(), what: "file link" })?;
            let mapped = self.mapped.is_some() && committed && !id.is_init();
            lowers.insert(0, Lower { path: own.relative(), mapped });
        }
        let upper = as_upper.then(|| (format!("{id}/{DIFF}"), format!("{id}/{WORK}")));
        Ok(View::Stacked { lowers, upper, read_only: !write, index, target: dir.join(MERGED) })
    }

    /// How the layers below are mounted.
    fn parts(&self, lowers: &[ShortName]) -> Vec<Lower> {
        let part = |(at, name): (usize, &ShortName)| Lower {
            path: name.relative(),
            mapped: self.mapped.is_some() && !(at == 0 && self.is_of_init(name)),
        };
        lowers.iter().enumerate().map(part).collect()
    }

    /// Only a container's own layer stands on an init layer, which is one that was written.
    fn is_of_init(&self, name: &ShortName) -> bool {
        layout::linked(&self.home, name).is_some_and(|id| id.is_init())
    }

    /// The directory of a layer as mounts take it.
    fn shown(&self, id: &LayerId) -> PathBuf {
        match &self.mapped {
            Some(mapped) if !id.is_init() => mapped.join(id.as_str()),
            _ => self.home.layer(id),
        }
    }

    pub(crate) fn metadata(&self, id: &LayerId) -> Result<BTreeMap<String, String>, StorageError> {
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
        Ok(data)
    }

    pub(crate) fn release(&self, id: &LayerId) -> Result<(), StorageError> {
        clear_mount_point(&self.home.layer(id).join(MERGED))
    }

    pub(crate) fn commit(&self, id: &LayerId) -> Result<(), StorageError> {
        self.home.check(id)?;
        let dir = self.home.layer(id);
        if layout::is_committed(&dir)? {
            return Ok(());
        }
        layout::write_new(&dir.join(COMMITTED), "", 0o600)
    }

    pub(crate) fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        self.release(id)?;
        let Some(trash) = self.home.detach(id)? else { return Ok(()) };
        self.drop_link(id, &trash)
    }

    pub(crate) fn list(&self) -> Result<Vec<(LayerId, LayerState)>, StorageError> {
        let with_state = |id: LayerId| {
            let committed = layout::is_committed(&self.home.layer(&id))?;
            Ok((id, if committed { LayerState::Committed } else { LayerState::Active }))
        };
        self.home.list()?.into_iter().map(with_state).collect()
    }

    pub(crate) fn set_aside(
        &self,
        id: &LayerId,
        lost_and_found: &Path,
    ) -> Result<PathBuf, StorageError> {
        let moved = self.home.set_aside(id, lost_and_found)?;
        self.drop_link(id, &moved)?;
        Ok(moved)
    }

    fn lower_paths(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        let lowers = layout::read_lower_file(id, &self.home.layer(id))?.unwrap_or_default();
        lowers.iter().map(|name| layout::resolve(&self.home, name)).collect()
    }
}

impl NativeDiff for Stack {
    fn diff_dir(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id).join(DIFF)
    }

    fn marks(&self) -> Marks {
        Marks::Overlay
    }

    fn lower_dirs(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        self.home.check(id)?;
        self.lower_paths(id)
    }

    fn shown_lower_dirs(&self, id: &LayerId) -> Result<Vec<PathBuf>, StorageError> {
        self.home.check(id)?;
        let lowers = layout::read_lower_file(id, &self.home.layer(id))?.unwrap_or_default();
        let dir = |name: &ShortName| match layout::linked(&self.home, name) {
            Some(lower) => Ok(self.shown(&lower).join(DIFF)),
            None => layout::resolve(&self.home, name),
        };
        lowers.iter().map(dir).collect()
    }

    fn maps_ids(&self) -> bool {
        self.mapped.is_some()
    }

    fn stand_on(&self, id: &LayerId, parent: Option<&LayerId>) -> Result<(), StorageError> {
        self.mend(id, parent)
    }

    fn may_lack_changes(&self) -> bool {
        self.some_indexed
    }

    fn lacks_changes(&self, id: &LayerId) -> Result<bool, StorageError> {
        Ok(self.some_indexed && index::has(&self.home.layer(id))?)
    }
}

impl Upkeep for Stack {
    /// The short name stays with the place.
    fn replace(&self, id: &LayerId, new: &LayerId) -> Result<(), StorageError> {
        self.home.check(new)?;
        let (old, own) = (self.home.layer(id), self.home.layer(new));
        let short = match layout::read_link_file(&old)? {
            None => self.find_link(id)?,
            some => some,
        };
        if let Some(short) = short {
            // Before the stroke: from then on this is the place's file.
            layout::rewrite_link_file(&own, &short)?;
        }
        self.home.replace(id, new)?;
        self.mend_link(id)
    }

    fn place(&self, id: &LayerId) -> PathBuf {
        self.home.layer(id)
    }
}

/// The root of a container's layer belongs to whom the layer below belongs.
pub(crate) fn take_owner(diff: &Path, below: &Path) -> Result<(), StorageError> {
    let owner = |path: &Path| {
        let meta = fs::metadata(path).map_err(io_at("look at", path))?;
        Ok::<_, StorageError>((meta.uid(), meta.gid()))
    };
    let (uid, gid) = owner(below)?;
    if owner(diff)? == (uid, gid) {
        return Ok(());
    }
    std::os::unix::fs::chown(diff, Some(uid), Some(gid)).map_err(io_at("set the owner of", diff))
}
