//! Where a layer's tar can be had from, and who holds the layer meanwhile.

use std::io;

use berth_types::{ChainId, HexId, kind};

use crate::{Layer, LayerError, LayerStore, TarStream, record};

/// A layer that has, or should have, the same tar as another.
pub(super) struct Source<'a> {
    store: &'a LayerStore,
    layer: Layer,
    pub(super) name: String,
}

impl Source<'_> {
    pub(super) fn open(&self) -> Result<TarStream, LayerError> {
        self.store.tar_stream(&self.layer.chain)
    }

    /// Reads all of it; whether it is what it should be.
    pub(super) fn is_whole(&self) -> bool {
        let read = self.open().map_err(|error| kind::chain(&error)).and_then(|mut tar| {
            io::copy(&mut tar, &mut io::sink()).map_err(|error| kind::chain(&error))
        });
        match read {
            Ok(_) => true,
            Err(error) => {
                tracing::debug!(source = self.name, error, "no source for a repair");
                false
            }
        }
    }
}

/// The layer itself as a source.
pub(super) fn itself<'a>(store: &'a LayerStore, layer: &Layer) -> Source<'a> {
    Source { store, layer: layer.clone(), name: "its own files".to_owned() }
}

/// Everything in this data root that should have the same content as `layer`.
pub(super) fn elsewhere<'a>(
    store: &'a LayerStore,
    others: &'a [LayerStore],
    layer: &Layer,
) -> Result<Vec<Source<'a>>, LayerError> {
    let mut found = Vec::new();
    for twin in store.list()? {
        if twin.diff == layer.diff && twin.chain != layer.chain {
            let name = format!("layer {}", super::short(&twin.chain));
            found.push(Source { store, layer: twin, name });
        }
    }
    for other in others {
        for twin in other.list()?.into_iter().filter(|twin| twin.diff == layer.diff) {
            let short = super::short(&twin.chain);
            let name = format!("layer {short} of the storage driver {}", other.driver().name());
            found.push(Source { store: other, layer: twin, name });
        }
    }
    Ok(found)
}

/// Keeps a layer from being removed while this lives.
pub(super) struct Lease<'a> {
    store: &'a LayerStore,
    chain: ChainId,
    owner: String,
}

impl<'a> Lease<'a> {
    /// Nothing when the layer is gone already.
    pub(super) fn take(
        store: &'a LayerStore,
        chain: &ChainId,
    ) -> Result<Option<(Self, Layer)>, LayerError> {
        let owner = format!("{}{}", record::INGEST_OWNER, HexId::random());
        let driver = store.driver().name();
        let layer = store.inner().db.write(|tx| {
            let layer = record::get(tx, driver, chain)?;
            if layer.is_some() {
                record::retain(tx, driver, chain, &owner)?;
            }
            Ok::<_, LayerError>(layer)
        })?;
        Ok(layer.map(|layer| (Self { store, chain: chain.clone(), owner }, layer)))
    }
}

impl Drop for Lease<'_> {
    fn drop(&mut self) {
        let released = self
            .store
            .inner()
            .db
            .write(|tx| self.store.release(tx, &self.chain, &self.owner))
            .and_then(|removed| self.store.purge(&removed));
        if let Err(error) = released {
            // The next start releases it.
            tracing::warn!(error = kind::chain(&error), chain = %self.chain, "a layer stays held");
        }
    }
}
