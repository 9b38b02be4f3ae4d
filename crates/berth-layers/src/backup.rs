//! What a backup needs of the layers: that none disappears while it is copied, and that the copy of the
//! records speaks of what was copied only.

use std::path::PathBuf;

use berth_db::Tx;
use berth_types::{ChainId, HexId};

use crate::{LayerError, LayerStore, record};

/// Keeps every image layer from being removed, until it is given to [`LayerStore::end_hold`] or the
/// process ends.
#[derive(Debug)]
pub struct Hold(String);

impl LayerStore {
    /// Holds every image layer of this driver.
    pub fn hold_all(&self, tx: &Tx<'_>) -> Result<Hold, LayerError> {
        let hold = Hold(format!("{}{}", record::INGEST_OWNER, HexId::random()));
        let driver = self.driver().name();
        for layer in record::list(tx, driver)? {
            record::retain(tx, driver, &layer.chain, &hold.0)?;
        }
        Ok(hold)
    }

    /// Ends it: what was removed meanwhile goes.
    pub fn end_hold(&self, hold: &Hold) -> Result<(), LayerError> {
        let driver = self.driver().name();
        let removed = self.inner().db.write(|tx| {
            let mut removed = Vec::new();
            // Children first: a parent is kept by them.
            for layer in record::list(tx, driver)?.into_iter().rev() {
                record::release(tx, driver, &layer.chain, &hold.0)?;
                removed.extend(record::collect(tx, self.driver(), &layer.chain)?);
            }
            Ok::<_, LayerError>(removed)
        })?;
        self.purge(&removed)
    }

    /// In a copy of the records: forgets operations that were under way, what only they held, and
    /// what other storage drivers have.
    pub fn settle_copy(&self, tx: &Tx<'_>) -> Result<(), LayerError> {
        let driver = self.driver().name();
        for (chain, owner) in record::leases(tx, driver, record::INGEST_OWNER)? {
            record::release(tx, driver, &chain, &owner)?;
        }
        for layer in record::list(tx, driver)?.into_iter().rev() {
            record::collect(tx, self.driver(), &layer.chain)?;
        }
        Ok(record::forget_elsewhere(tx, driver)?)
    }

    /// The directory of what is kept of a layer beside its files.
    pub fn files_of(&self, chain: &ChainId) -> PathBuf {
        self.inner().files.place(chain)
    }
}
