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

use berth_types::{LayerId, Owner};

use crate::error::io_at;
use crate::home::{Home, clear_mount_point, make_dir, new_dir};
use crate::quota::SizeLimit;
use crate::{Access, LayerState, NativeDiff, StorageError, Upkeep, Whiteouts};

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
}

/// What is to be mounted for a layer.
#[derive(Debug)]
pub(crate) enum View {
    /// Nothing: the layer stands on no other, and this directory is its content.
    Plain(PathBuf),
    /// These paths, relative to the home directory.
    Stacked {
        /// Read-only parts, top-most first.
        lowers: Vec<String>,
        /// The part that is written and the union file system's own directory.
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
        Ok(Self { home, driver, most, index: false, some_indexed: false })
    }

    /// Gives an index to new layers, or not; those that have one keep it.
    pub(crate) fn with_index(mut self, index: bool) -> Result<Self, StorageError> {
        self.index = index;
        self.some_indexed = index || self.any_indexed()?;
        Ok(self)
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
        let dir = self.home.start_creating(id)?;
        if let Some(limit) = limit {
            limit.apply(&dir)?;
        }
        let diff = dir.join(DIFF);
        self.home.new_root(&diff)?;
        if let Some(parent) = parent.filter(|_| writable) {
            take_owner(&diff, &self.diff_dir(parent))?;
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
            return Ok(View::Plain(dir.join(DIFF)));
        };
        let index = self.some_indexed && !committed && index::has(&dir)?;
        let mut lowers: Vec<String> = lowers.iter().map(ShortName::relative).collect();
        // What the index knows is seen by a mount that has it.
        let as_upper = write || index;
        if !as_upper {
            let own = layout::read_link_file(&dir)?
                .ok_or_else(|| StorageError::Damaged { id: id.clone(), what: "file link" })?;
            lowers.insert(0, own.relative());
        }
        let upper = as_upper.then(|| (format!("{id}/{DIFF}"), format!("{id}/{WORK}")));
        Ok(View::Stacked { lowers, upper, read_only: !write, index, target: dir.join(MERGED) })
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
fn take_owner(diff: &Path, below: &Path) -> Result<(), StorageError> {
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
