//! Making new image layers.

mod replace;

use std::io::{BufWriter, Read, Write as _};
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_db::Tx;
use berth_fs::marks::Marks;
use berth_fs::root::Root;
use berth_fs::steps;
use berth_fs::unpack::{UnpackOptions, WhiteoutStyle};
use berth_storage::{Access, CreateOptions, Mounted, NativeDiff};
use berth_types::{ChainId, DiffId, HexId, LayerId, Timestamp};

use crate::files::{Note, io_at};
use crate::store::Inner;
use crate::{Layer, LayerError, record};

/// One layer to be made.
#[derive(Debug, Clone)]
pub struct NewLayer {
    /// What it stands on.
    pub parent: Parent,
    /// The DiffID that its tar must have, when known.
    pub expected: Option<DiffId>,
}

/// What a new layer stands on.
#[derive(Debug, Clone)]
pub enum Parent {
    /// Nothing.
    None,
    /// A layer that exists; the ingest keeps it alive.
    Existing(ChainId),
    /// Another layer of this ingest, by its index, which is lower than this one's.
    Slot(usize),
}

/// A layer that was applied.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed tar.
    pub diff: DiffId,
    /// Bytes of the layer's own, as `docker history` shows them.
    pub size: u64,
    /// Bytes of the uncompressed tar.
    pub tar_bytes: u64,
    /// Whether a file of it has a `security.capability`.
    pub capabilities: bool,
}

/// Layers in the making. Dropping it undoes whatever was not recorded.
///
/// The order is [`apply`](Self::apply) for each layer, [`finish`](Self::finish),
/// [`record`](Self::record) in the transaction that also records the image, commit,
/// [`done`](Self::done). It must not be dropped inside the transaction.
#[derive(Debug)]
pub struct Ingest {
    store: Arc<Inner>,
    op: &'static str,
    id: HexId,
    slots: Vec<Slot>,
    applied: Mutex<Vec<Option<Applied>>>,
    /// Filled by `finish`, as far as files are in their place.
    chains: Vec<ChainId>,
}

#[derive(Debug)]
struct Slot {
    layer: LayerId,
    parent: Parent,
    /// The driver's name for the parent.
    parent_layer: Option<LayerId>,
    depth: u32,
    expected: Option<DiffId>,
}

impl Ingest {
    pub(crate) fn begin(
        store: Arc<Inner>,
        op: &'static str,
        layers: Vec<NewLayer>,
    ) -> Result<Self, LayerError> {
        let id = HexId::random();
        let slots = store.db.write(|tx| plan(&store, tx, &id, layers))?;
        let applied = Mutex::new(vec![None; slots.len()]);
        let this = Self { store, op, id, slots, applied, chains: Vec::new() };
        if this.concurrent() {
            for slot in &this.slots {
                this.create(slot)?;
            }
        }
        Ok(this)
    }

    /// Whether the layers may be applied in any order and at the same time from several
    /// threads; otherwise each after its parent.
    pub fn concurrent(&self) -> bool {
        self.store.driver.native().is_some()
    }

    /// Unpacks a tar (plain, gzip or zstd) into the layer, reading it to its end. Once for each.
    pub fn apply<R: Read + Send>(&self, slot: usize, tar: R) -> Result<Applied, LayerError> {
        let Some(new) = self.slots.get(slot) else {
            return Err(LayerError::NotApplied { slot });
        };
        if !self.concurrent() {
            if let Parent::Slot(parent) = new.parent
                && self.applied()[parent].is_none()
            {
                return Err(LayerError::NotApplied { slot: parent });
            }
            self.create(new)?;
        }
        let driver = &self.store.driver;
        let (path, marks, mounted) = if let Some(native) = driver.native() {
            (native.diff_dir(&new.layer), Some(native.marks()), None)
        } else {
            let mounted = Mounted::new(driver.prepare(&new.layer, Access::Write)?)?;
            (mounted.root().to_owned(), None, Some(mounted))
        };
        let unpacked = self.unpack(slot, new, tar, path, marks)?;
        if let Some(expected) = &new.expected
            && *expected != unpacked.diff
        {
            let (expected, got) = (expected.clone(), unpacked.diff);
            return Err(LayerError::DiffId { slot, expected, got });
        }
        drop(mounted);
        if !self.concurrent() {
            // What is above it is made of it from here on.
            driver.commit(&new.layer)?;
        }
        self.applied()[slot] = Some(unpacked.clone());
        Ok(unpacked)
    }

    /// Verifies, syncs once, and moves everything into place; gives the layers' chain ids.
    /// They are not visible before [`record`](Self::record).
    pub fn finish(&mut self) -> Result<Vec<ChainId>, LayerError> {
        let mut notes: Vec<(ChainId, Note)> = Vec::new();
        for (at, slot) in self.slots.iter().enumerate() {
            let Some(applied) = self.applied()[at].clone() else {
                return Err(LayerError::NotApplied { slot: at });
            };
            let parent = match &slot.parent {
                Parent::None => None,
                Parent::Existing(chain) => Some(chain.clone()),
                Parent::Slot(parent) => Some(notes[*parent].0.clone()),
            };
            let chain = ChainId::of(parent.as_ref(), &applied.diff);
            let driver = self.store.driver.name().to_owned();
            let layer_id = slot.layer.clone();
            notes.push((chain, Note { diff_id: applied.diff, parent, driver, layer_id }));
        }
        for (_, note) in &notes {
            self.store.driver.commit(&note.layer_id)?;
            self.store.files.complete(&note.layer_id, note)?;
        }
        self.store.driver.sync()?;
        if !self.store.files_beside_layers(notes.first().map(|(_, note)| &note.layer_id)) {
            self.store.files.sync()?;
        }
        self.step("staged");
        for (chain, note) in notes {
            self.store.files.claim(&chain, &note.layer_id)?;
            self.chains.push(chain);
        }
        self.store.files.sync_names()?;
        self.step("renamed");
        Ok(self.chains.clone())
    }

    /// Records the layers and forgets the intents. A chain that exists by now keeps its old data.
    ///
    /// The caller also [`retain`](crate::LayerStore::retain)s the layers it needs in `tx`.
    pub fn record(&self, tx: &Tx<'_>) -> Result<(), LayerError> {
        self.step("before-record");
        let driver = self.store.driver.name();
        let mut moved = vec![false; self.slots.len()];
        for (at, (slot, chain)) in self.slots.iter().zip(&self.chains).enumerate() {
            let Some(applied) = self.applied()[at].clone() else { continue };
            let (parent, parent_moved) = match &slot.parent {
                Parent::None => (None, false),
                Parent::Existing(chain) => (Some(chain), false),
                Parent::Slot(parent) => (Some(&self.chains[*parent]), moved[*parent]),
            };
            if record::get(tx, driver, chain)?.is_some() {
                // Another ingest was faster. The intent stays, and dropping this one removes
                // the layer.
                continue;
            }
            let below = match parent {
                None => None,
                Some(parent) => Some(
                    record::get(tx, driver, parent)?
                        .ok_or_else(|| LayerError::Unknown { chain: parent.clone() })?,
                ),
            };
            let below_layer = below.as_ref().map(|below| &below.layer);
            if (parent_moved || below_layer != slot.parent_layer.as_ref())
                && let Some(native) = self.store.driver.native()
            {
                // The planned parent, or one below it, was a duplicate. Only files of a few
                // bytes are written, and only in this race.
                native.stand_on(&slot.layer, below_layer)?;
                moved[at] = true;
            }
            let new = Layer {
                chain: chain.clone(),
                diff: applied.diff,
                parent: parent.cloned(),
                size: applied.size,
                chain_size: applied.size + below.as_ref().map_or(0, |below| below.chain_size),
                capabilities: applied.capabilities || below.is_some_and(|below| below.capabilities),
                depth: slot.depth,
                created: Timestamp::now(),
                layer: slot.layer.clone(),
            };
            record::insert(tx, driver, &new)?;
            record::forget_intent(tx, &slot.layer)?;
        }
        let owner = self.owner();
        for slot in &self.slots {
            if let Parent::Existing(chain) = &slot.parent {
                record::release(tx, driver, chain, &owner)?;
            }
        }
        Ok(())
    }

    /// To be called after the commit: drops what turned out to exist already.
    pub fn done(self) {
        self.step("after-record");
        self.store.driver.keep_spare();
    }

    fn create(&self, slot: &Slot) -> Result<(), LayerError> {
        let options = CreateOptions::default();
        Ok(self.store.driver.create(&slot.layer, slot.parent_layer.as_ref(), &options)?)
    }

    fn unpack<R: Read + Send>(
        &self,
        slot: usize,
        new: &Slot,
        tar: R,
        path: PathBuf,
        marks: Option<Marks>,
    ) -> Result<Applied, LayerError> {
        let style = marks.map_or(WhiteoutStyle::Apply, WhiteoutStyle::Mark);
        let dest = Root::open(&path).map_err(io_at("open", &path))?;
        let mut records = BufWriter::new(self.store.files.start(&new.layer)?);
        let mut options = UnpackOptions::layer(style, &path);
        let ids = self.store.settings.ids.clone();
        if self.store.driver.native().is_some_and(NativeDiff::maps_ids) {
            options.known = ids;
        } else {
            options.ids = ids;
        }
        let applied = berth_fs::apply::apply(tar, dest.fd().as_fd(), &options, Some(&mut records))
            .map_err(|source| LayerError::Unpack { slot, source })?;
        records.flush().map_err(io_at("write the tar-split of", path))?;
        let size = match marks {
            None => applied.unpacked.header_size,
            Some(_) => applied.unpacked.tree_size,
        };
        Ok(Applied {
            diff: applied.diff_id,
            size,
            tar_bytes: applied.tar_bytes,
            capabilities: applied.unpacked.capabilities > 0,
        })
    }

    /// Undoes what the database still calls an intent.
    fn abort(&self) -> Result<(), LayerError> {
        let Inner { driver, db, files, .. } = &*self.store;
        let owner = self.owner();
        let (left, leases) = db.read(|conn| {
            let left = record::intents_of(conn, self.id.as_str())?;
            Ok::<_, LayerError>((left, record::leases(conn, driver.name(), &owner)?))
        })?;
        for slot in self.slots.iter().rev().filter(|slot| left.contains(&slot.layer)) {
            // What fails here stays an intent and is tried again.
            if let Err(error) = driver.remove(&slot.layer) {
                tracing::warn!(error = %berth_types::kind::chain(&error), "cannot remove a layer");
            }
            files.discard_new(&slot.layer)?;
        }
        if !left.is_empty() || !leases.is_empty() {
            let removed = db.write(|tx| {
                for layer in &left {
                    record::intend_removal(tx, driver.name(), layer)?;
                }
                let mut removed = Vec::new();
                for (chain, owner) in &leases {
                    record::release(tx, driver.name(), chain, owner)?;
                    removed.extend(record::collect(tx, &**driver, chain)?);
                }
                Ok::<_, LayerError>(removed)
            })?;
            self.store.purge(&removed)?;
        }
        for chain in &self.chains {
            files.unclaim(chain, || self.store.is_recorded(chain))?;
        }
        Ok(())
    }

    fn owner(&self) -> String {
        format!("{}{}", record::INGEST_OWNER, self.id)
    }

    fn step(&self, name: &str) {
        steps::reached(&format!("{}.{name}", self.op));
    }

    fn applied(&self) -> MutexGuard<'_, Vec<Option<Applied>>> {
        // Each change is one assignment, so a panic elsewhere leaves it whole.
        self.applied.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if let Err(error) = self.abort() {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(error, "an interrupted ingest is left for the next start to clear");
        }
    }
}

impl Inner {
    /// Whether one sync covers both the driver's layers and the files of this store.
    fn files_beside_layers(&self, layer: Option<&LayerId>) -> bool {
        let Some((layer, native)) = layer.zip(self.driver.native()) else { return false };
        self.files.is_beside(&native.diff_dir(layer))
    }
}

/// Checks the plan, keeps the parents alive, and records the intents.
fn plan(
    store: &Inner,
    tx: &Tx<'_>,
    id: &HexId,
    layers: Vec<NewLayer>,
) -> Result<Vec<Slot>, LayerError> {
    let driver = store.driver.name();
    let owner = format!("{}{id}", record::INGEST_OWNER);
    let mut slots: Vec<Slot> = Vec::new();
    for NewLayer { parent, expected } in layers {
        let (parent_layer, below) = match &parent {
            Parent::None => (None, 0),
            Parent::Existing(chain) => {
                let below = record::get(tx, driver, chain)?
                    .ok_or_else(|| LayerError::Unknown { chain: chain.clone() })?;
                record::retain(tx, driver, chain, &owner)?;
                (Some(below.layer), below.depth)
            }
            Parent::Slot(at) => {
                let below = slots.get(*at).ok_or(LayerError::NotApplied { slot: *at })?;
                (Some(below.layer.clone()), below.depth)
            }
        };
        if below >= store.settings.max_depth {
            return Err(LayerError::MaxDepth);
        }
        let layer = LayerId::random();
        record::intend_making(tx, driver, id.as_str(), &layer)?;
        slots.push(Slot { layer, parent, parent_layer, depth: below + 1, expected });
    }
    Ok(slots)
}
