//! An image's tree for somebody else to mount: a build's step reads it beside its own root.

use std::path::{Path, PathBuf};

use berth_storage::Prepared;
use berth_types::{ChainId, HexId};

use crate::activations::Active;
use crate::files::end_scratch;
use crate::{LayerError, LayerStore, record};

/// The tree of an image layer and those below it, which stay as long as this does.
#[derive(Debug)]
pub struct Beside {
    store: LayerStore,
    chain: ChainId,
    owner: String,
    prepared: Prepared,
    /// Where it is mounted.
    place: Option<PathBuf>,
    _active: Active,
}

impl LayerStore {
    /// Says how to mount an image's tree at a place of its own, to be read. `None` for drivers whose
    /// layers are devices: one that a watcher holds could not be let go of.
    pub fn beside(&self, chain: &ChainId) -> Result<Option<Beside>, LayerError> {
        let layer = self.inner().known(chain)?.layer;
        let active = Active::hold(self.inner(), &layer)?;
        let is_mounted = active.is_mounted_to_be_read();
        if is_mounted && self.driver().native().is_none() {
            return Ok(None);
        }
        let owner = format!("{}{}", record::INGEST_OWNER, HexId::random());
        self.inner().db.write(|tx| self.retain(tx, chain, &owner))?;
        let place = is_mounted.then(|| self.inner().files.scratch()).transpose();
        let plan = active.plan();
        let prepared = match &place {
            Ok(Some(place)) => plan.aside(&place.join("0")),
            _ => plan,
        };
        let chain = chain.clone();
        let mut beside =
            Beside { store: self.clone(), chain, owner, prepared, place: None, _active: active };
        beside.place = place?;
        Ok(Some(beside))
    }
}

impl Beside {
    /// What to mount, and how to undo that.
    pub fn prepared(&self) -> &Prepared {
        &self.prepared
    }

    /// Where the tree is, once it is mounted.
    pub fn root(&self) -> &Path {
        &self.prepared.root
    }

    fn release(&self) -> Result<(), LayerError> {
        let store = &self.store;
        let removed = store.inner().db.write(|tx| store.release(tx, &self.chain, &self.owner))?;
        store.purge(&removed)
    }
}

impl Drop for Beside {
    fn drop(&mut self) {
        if let Some(place) = &self.place {
            end_scratch(place);
        }
        if let Err(error) = self.release() {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(error, "a layer is held until the next start");
        }
    }
}
