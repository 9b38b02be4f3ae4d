//! What registries call layers: the compressed blobs that a layer came as, or was sent as.
//!
//! A guess that saves work, not a promise: a registry may have forgotten a blob since.

use berth_db::{OptionalExtension as _, Tx, params};
use berth_types::{ChainId, DiffId, Digest, ImageId, Timestamp};

use crate::hold::Hold;
use crate::{ImageError, ImageStore};

/// How many blobs are remembered of a layer; Docker's number.
const MOST: u32 = 100;

/// A layer as a repository has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LayerBlob {
    /// The layer.
    pub diff: DiffId,
    /// Registry and repository, `docker.io/library/alpine`.
    pub repository: String,
    /// The blob's digest.
    pub digest: Digest,
    /// The blob's length.
    pub size: u64,
    /// The blob's media type.
    pub media_type: String,
}

/// Remembers blobs.
pub(crate) fn note_blobs(tx: &Tx<'_>, blobs: &[LayerBlob]) -> Result<(), ImageError> {
    let now = Timestamp::now().unix();
    for blob in blobs {
        tx.prepare_cached(
            "INSERT INTO layer_blobs (diff, repository, digest, size, media_type, seen) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (diff, repository, digest) DO UPDATE SET seen = excluded.seen, \
             size = excluded.size, media_type = excluded.media_type",
        )?
        .execute(params![
            blob.diff.as_str(),
            blob.repository,
            blob.digest.as_str(),
            i64::try_from(blob.size).unwrap_or(i64::MAX),
            blob.media_type,
            now,
        ])?;
        tx.prepare_cached(
            "DELETE FROM layer_blobs WHERE diff = ?1 AND (repository, digest) NOT IN \
             (SELECT repository, digest FROM layer_blobs WHERE diff = ?1 \
              ORDER BY seen DESC, repository, digest LIMIT ?2)",
        )?
        .execute(params![blob.diff.as_str(), MOST])?;
    }
    Ok(())
}

impl ImageStore {
    /// Remembers a blob that a registry has.
    pub fn note_blob(&self, blob: &LayerBlob) -> Result<(), ImageError> {
        self.db.write(|tx| note_blobs(tx, std::slice::from_ref(blob)))
    }

    /// Remembers blobs that a registry has, together with what else is written.
    pub fn note_blobs(&self, tx: &Tx<'_>, blobs: &[LayerBlob]) -> Result<(), ImageError> {
        note_blobs(tx, blobs)
    }

    /// Forgets a blob that a registry does not have after all.
    pub fn forget_blob(&self, blob: &LayerBlob) -> Result<(), ImageError> {
        self.db.write(|tx| {
            tx.execute(
                "DELETE FROM layer_blobs WHERE diff = ?1 AND repository = ?2 AND digest = ?3",
                [blob.diff.as_str(), &blob.repository, blob.digest.as_str()],
            )?;
            Ok(())
        })
    }

    /// The blobs that are remembered of a layer, the newest first.
    pub fn blobs_of(&self, diff: &DiffId) -> Result<Vec<LayerBlob>, ImageError> {
        self.db.read(|conn| {
            let rows = conn
                .prepare_cached(
                    "SELECT repository, digest, size, media_type FROM layer_blobs \
                     WHERE diff = ?1 ORDER BY seen DESC, repository, digest",
                )?
                .query_map([diff.as_str()], |row| {
                    Ok((row.get(0)?, row.get::<_, String>(1)?, row.get::<_, i64>(2)?, row.get(3)?))
                })?
                .collect::<Result<Vec<_>, _>>()?;
            let blobs = rows.into_iter().map(|(repository, digest, size, media_type)| {
                let digest = Digest::parse(&digest)
                    .map_err(|_bad| ImageError::Damaged { id: digest.clone() })?;
                let size = size.unsigned_abs();
                Ok(LayerBlob { diff: diff.clone(), repository, digest, size, media_type })
            });
            blobs.collect()
        })
    }

    /// Whether a layer that is here came as this blob, or was sent as it.
    pub fn knows_blob(&self, digest: &Digest) -> Result<bool, ImageError> {
        self.db.read(|conn| {
            let asked = "SELECT EXISTS (SELECT 1 FROM layer_blobs WHERE digest = ?1)";
            Ok(conn.query_row(asked, [digest.as_str()], |row| row.get(0))?)
        })
    }

    /// The media type of the manifest that an image came with; `None` for one that was made here.
    pub fn media_type(&self, id: &ImageId) -> Result<Option<String>, ImageError> {
        self.db.read(|conn| {
            let asked = "SELECT media_type FROM images WHERE driver = ?1 AND id = ?2";
            let at = self.at(conn);
            let here = [at.driver(), id.as_str()];
            let found = at.query_row(asked, here, |row| row.get(0)).optional()?;
            Ok(found.flatten())
        })
    }

    /// Notes how an image came, unless it was there before.
    pub(crate) fn note_media_type(
        &self,
        tx: &Tx<'_>,
        id: &ImageId,
        media_type: &str,
    ) -> Result<(), ImageError> {
        tx.execute(
            "UPDATE images SET media_type = ?3 \
             WHERE driver = ?1 AND id = ?2 AND media_type IS NULL AND NOT built_locally",
            [self.at(tx).driver(), id.as_str(), media_type],
        )?;
        Ok(())
    }

    /// Keeps layers while they are sent to a registry, though the image may be removed meanwhile.
    pub fn hold(self: &std::sync::Arc<Self>, top: &ChainId) -> Result<Hold, ImageError> {
        Hold::take(self, "push", std::slice::from_ref(top))
    }

    /// The tar of a layer that is held, bit for bit.
    pub fn layer_tar(&self, chain: &ChainId) -> Result<berth_layers::TarStream, ImageError> {
        Ok(self.layers.tar_stream(chain)?)
    }

    /// How long the tar of a layer is.
    pub fn layer_tar_size(&self, chain: &ChainId) -> Result<u64, ImageError> {
        self.tar_size(chain)
    }
}
