//! Giving names, and taking them.

use berth_db::{Tx, params};
use berth_types::reference::Reference;
use berth_types::{ImageId, Timestamp};

use crate::store::{At, key, lookup};
use crate::{ImageError, ImageStore};

/// The name that `repo` and `tag` of a request make: `latest` when there is no tag anywhere.
/// `None` when `repo` is empty.
pub fn parse_repo_tag(repo: &str, tag: &str) -> Result<Option<Reference>, ImageError> {
    if repo.is_empty() {
        return Ok(None);
    }
    let reference = Reference::parse(repo)?;
    if reference.digest().is_some() {
        return Err(ImageError::ImportDigest);
    }
    let reference =
        if tag.is_empty() { reference.with_default_tag() } else { reference.with_tag(tag)? };
    Ok(Some(reference))
}

impl ImageStore {
    /// Points `reference` at the image, away from whatever it pointed at, and gives that.
    pub fn tag(
        &self,
        tx: &Tx<'_>,
        reference: &Reference,
        id: &ImageId,
    ) -> Result<Option<ImageId>, ImageError> {
        if reference.familiar_name() == "sha256" {
            return Err(ImageError::AmbiguousTag);
        }
        if reference.digest().is_some() {
            return Err(ImageError::DigestTag);
        }
        self.point(tx, reference, id)
    }

    /// As [`tag`](Self::tag), for names by digest too, as a pull makes them.
    pub fn point(
        &self,
        tx: &Tx<'_>,
        reference: &Reference,
        id: &ImageId,
    ) -> Result<Option<ImageId>, ImageError> {
        let reference = key(reference);
        let at = self.at(tx);
        let previous = lookup(at, &reference)?;
        tx.prepare_cached(
            "INSERT INTO tags (driver, reference, name, tag, digest, image) \
             VALUES (?1, ?2, ?3, ?4, ?5, ?6) \
             ON CONFLICT (driver, reference) DO UPDATE SET image = excluded.image",
        )?
        .execute(params![
            at.driver(),
            reference.to_string(),
            reference.name(),
            reference.tag(),
            reference.digest().map(berth_types::Digest::as_str),
            id.as_str(),
        ])?;
        tx.execute(
            "UPDATE images SET last_tagged = ?3 WHERE driver = ?1 AND id = ?2",
            params![at.driver(), id.as_str(), Timestamp::now().to_string()],
        )?;
        Ok(previous)
    }
}

/// Takes a name away; whether it was there.
pub(crate) fn untag(at: At<'_>, reference: &Reference) -> Result<bool, ImageError> {
    let gone = at.execute(
        "DELETE FROM tags WHERE driver = ?1 AND reference = ?2",
        params![at.driver(), key(reference).to_string()],
    )?;
    Ok(gone > 0)
}
