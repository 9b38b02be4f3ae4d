//! Keeping layers while an archive of them goes out, though the image may be removed meanwhile.

use std::sync::Arc;

use berth_db::params;
use berth_types::{ChainId, HexId};

use crate::{ImageError, ImageStore};

/// Layers that stay until this is dropped.
///
/// Recorded, so that a crash in the middle only leaves a note that [`ImageStore::recover`] clears.
#[derive(Debug)]
pub struct Hold {
    store: Arc<ImageStore>,
    owner: String,
}

impl Hold {
    pub(crate) fn take(
        store: &Arc<ImageStore>,
        op: &'static str,
        tops: &[ChainId],
    ) -> Result<Self, ImageError> {
        let owner = format!("{op}:{}", HexId::random());
        store.db.write(|tx| {
            for top in tops {
                store.layers.retain(tx, top, &owner)?;
                tx.execute(
                    "INSERT OR IGNORE INTO image_holds (driver, owner, chain) VALUES (?1, ?2, ?3)",
                    params![store.layers.driver().name(), owner, top.as_str()],
                )?;
            }
            Ok::<_, ImageError>(())
        })?;
        Ok(Self { store: Arc::clone(store), owner })
    }
}

impl Drop for Hold {
    fn drop(&mut self) {
        if let Err(error) = self.store.let_go(Some(&self.owner)) {
            tracing::warn!(
                owner = self.owner,
                error = %berth_types::kind::chain(&error),
                "layers stay held until the next start"
            );
        }
    }
}

impl ImageStore {
    /// Lets go of the layers that a stop in the middle of a `save` or a `push` left held, and forgets
    /// the blobs of layers that are gone. At start, after the layer store's own.
    pub fn recover(&self) -> Result<(), ImageError> {
        self.let_go(None)?;
        self.db.write(|tx| {
            tx.execute(
                "DELETE FROM layer_blobs WHERE diff NOT IN (SELECT diff_id FROM layers)",
                [],
            )?;
            Ok(())
        })
    }

    fn let_go(&self, owner: Option<&str>) -> Result<(), ImageError> {
        let driver = self.layers.driver().name();
        let removed = self.db.write(|tx| {
            let holds = tx
                .prepare(
                    "SELECT owner, chain FROM image_holds \
                     WHERE driver = ?1 AND (?2 IS NULL OR owner = ?2)",
                )?
                .query_map(params![driver, owner], |row| {
                    Ok((row.get::<_, String>(0)?, row.get::<_, String>(1)?))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            let mut removed = Vec::new();
            for (owner, chain) in holds {
                tx.execute(
                    "DELETE FROM image_holds WHERE driver = ?1 AND owner = ?2 AND chain = ?3",
                    params![driver, owner, chain],
                )?;
                let chain = ChainId::parse(&chain)
                    .map_err(|_bad| ImageError::Damaged { id: chain.clone() })?;
                removed.extend(self.release_layers(tx, &chain, &owner)?);
            }
            Ok::<_, ImageError>(removed)
        })?;
        Ok(self.layers.purge(&removed)?)
    }
}
