//! Copying a layer to another data root. Files that layers share stay shared.

use std::path::Path;

use super::layout::{COMMITTED, LOWER_ID, ROOT, UPPER, WORK};
use crate::StorageError;
use crate::error::io_at;
use crate::home::new_dir;
use crate::transfer::Copied;

pub(crate) fn transfer(copied: &mut Copied<'_, '_>) -> Result<u64, StorageError> {
    let place = Path::new(copied.id.as_str());
    let root = copied.from.join(place).join(ROOT);
    let is_whole = root.try_exists().map_err(io_at("look at", root))?;
    let dir = copied.to.join(place);
    copied.passage(place)?;
    let bytes = copied.tree(&place.join(if is_whole { ROOT } else { UPPER }))?;
    if !is_whole {
        new_dir(&dir.join(WORK), 0o700)?;
    }
    copied.small(&place.join(LOWER_ID), 0o644)?;
    copied.small(&place.join(COMMITTED), 0o600)?;
    Ok(bytes)
}
