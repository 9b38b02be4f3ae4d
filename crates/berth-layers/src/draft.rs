//! Layers that are written in place and then become image layers: what a build's `COPY` makes.
//!
//! A draft has no init layer: what is in it is what its writer put there. It is on record as an
//! intent, so a crash leaves nothing behind.

use std::io::Write;

use berth_fs::changes::{self, Base};
use berth_fs::pack;
use berth_fs::root::Root;
use berth_storage::{Access, CreateOptions, Mounted};
use berth_sys::mountns::within_private;
use berth_types::{ChainId, HexId, LayerId};

use crate::activations::{Active, Reading};
use crate::files::{end_scratch, io_at};
use crate::rw::open_root;
use crate::{Applied, Ingest, Layer, LayerError, LayerStore, record};

/// A layer that is being written. Dropping it removes it.
#[derive(Debug)]
pub struct Draft {
    store: LayerStore,
    id: HexId,
    layer: LayerId,
    parent: Option<Layer>,
}

impl LayerStore {
    /// Begins a layer on top of an image's, which it keeps alive.
    pub fn draft(&self, parent: Option<&ChainId>) -> Result<Draft, LayerError> {
        let parent = parent.map(|chain| self.inner().known(chain)).transpose()?;
        let (id, layer) = (HexId::random(), LayerId::random());
        let driver = self.driver().name();
        self.inner().db.write(|tx| {
            if let Some(parent) = &parent {
                self.retain(tx, &parent.chain, &owner(&id))?;
            }
            Ok::<_, LayerError>(record::intend_making(tx, driver, id.as_str(), &layer)?)
        })?;
        let draft = Draft { store: self.clone(), id, layer, parent };
        let options = CreateOptions { writable: true, ..CreateOptions::default() };
        let below = draft.parent.as_ref().map(|parent| &parent.layer);
        self.driver().create(&draft.layer, below, &options)?;
        Ok(draft)
    }

    /// Runs `work` on the tree that an image layer and those below it make, mounted where nobody
    /// else sees it.
    pub fn with_tree<T: Send>(
        &self,
        chain: &ChainId,
        work: impl FnOnce(&Root) -> T + Send,
    ) -> Result<T, LayerError> {
        let tree = self.read(&self.inner().known(chain)?.layer)?;
        Ok(work(&tree.root))
    }

    /// Makes one new layer on `base` of everything in which the tree of `top` differs from it. It is
    /// applied already: go on with [`Ingest::finish`].
    pub fn flatten(
        &self,
        op: &'static str,
        base: Option<&ChainId>,
        top: &ChainId,
    ) -> Result<(Ingest, Applied), LayerError> {
        let base_layer = base.map(|chain| self.inner().known(chain)).transpose()?;
        let top_layer = self.inner().known(top)?;
        self.commit_packed(op, base.cloned(), |out| {
            self.pack_between(base_layer.as_ref(), &top_layer.layer, out)
        })
    }

    /// Packs what differs between two layers' trees.
    fn pack_between<W: Write + Send>(
        &self,
        old: Option<&Layer>,
        new: &LayerId,
        out: W,
    ) -> Result<(), LayerError> {
        let new = self.read(new)?;
        let tree = old.map(|old| self.read(&old.layer)).transpose()?;
        let base = old
            .zip(tree.as_ref())
            .map(|(old, tree)| Base { root: &tree.root, capabilities: old.capabilities });
        let changed = changes::between(base, &new.root)?;
        pack::changes(&new.root, &changed, &self.inner().settings.ids, out)?;
        Ok(())
    }

    fn read(&self, layer: &LayerId) -> Result<Reading, LayerError> {
        let store = self.inner();
        let [reading] = Reading::open(store, [Active::hold(store, layer)?])?;
        Ok(reading)
    }
}

impl Draft {
    /// Runs `work` on the layer's tree, and on that of another image layer if one is named.
    pub fn write<T: Send>(
        &self,
        from: Option<&ChainId>,
        work: impl FnOnce(&Root, Option<&Root>) -> T + Send,
    ) -> Result<T, LayerError> {
        let store = self.store.inner();
        let read = |chain| self.store.read(&store.known(chain)?.layer);
        let from = from.map(read).transpose()?;
        let place = store.files.scratch()?;
        let prepared = self.store.driver().prepare(&self.layer, Access::Write)?;
        let prepared = prepared.moved_to(&place.join("0"));
        let done = within_private(|| {
            let mounted = Mounted::new(prepared)?;
            let root = open_root(mounted.root())?;
            let result = work(&root, from.as_ref().map(|from| &from.root));
            // Its files are closed before the mount goes.
            drop(root);
            Ok::<_, LayerError>(result)
        });
        end_scratch(&place);
        self.store.driver().release(&self.layer)?;
        done.map_err(io_at("mount below", place))?
    }

    /// Makes a new image layer of what was written. It is applied already: go on with
    /// [`Ingest::finish`]. When nothing was written the layer's DiffID is
    /// [`DiffId::empty`](berth_types::DiffId::empty), and the ingest may just be dropped.
    pub fn commit(&self, op: &'static str) -> Result<(Ingest, Applied), LayerError> {
        let parent = self.parent.as_ref().map(|parent| parent.chain.clone());
        self.store.commit_packed(op, parent, |out| {
            if let Some(native) = self.store.says_changes(&self.layer)? {
                let upper = open_root(native.diff_dir(&self.layer))?;
                let ids = &self.store.inner().settings.ids;
                pack::upper_dir(&upper, native.marks(), ids, out)?;
                return Ok(());
            }
            self.store.pack_between(self.parent.as_ref(), &self.layer, out)
        })
    }

    fn discard(&self) -> Result<(), LayerError> {
        let driver = self.store.driver();
        driver.remove(&self.layer)?;
        let removed = self.store.inner().db.write(|tx| {
            record::intend_removal(tx, driver.name(), &self.layer)?;
            match &self.parent {
                Some(parent) => self.store.release(tx, &parent.chain, &owner(&self.id)),
                None => Ok(Vec::new()),
            }
        })?;
        self.store.purge(&removed)
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        if let Err(error) = self.discard() {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(error, "a layer in the making is left for the next start to clear");
        }
    }
}

fn owner(id: &HexId) -> String {
    format!("{}{id}", record::INGEST_OWNER)
}
