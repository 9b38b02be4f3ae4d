//! Copying a layer to another data root.

use std::path::Path;

use super::index;
use super::layout::{COMMITTED, DIFF, LINK, LOWER, ShortName, WORK, link_target};
use crate::StorageError;
use crate::error::io_at;
use crate::home::new_dir;
use crate::transfer::Copied;

/// A layer that is there already was made by the driver, for its limit: only its changes are copied.
pub(crate) fn transfer(copied: &mut Copied<'_, '_>) -> Result<u64, StorageError> {
    let place = Path::new(copied.id.as_str());
    if index::holds_what_changes_lack(&copied.from.join(place))? {
        return Err(StorageError::Indexed { id: copied.id.clone() });
    }
    let dir = copied.to.join(place);
    if dir.try_exists().map_err(io_at("look at", &dir))? {
        // Handles of files mean nothing elsewhere: the copy goes on without an index.
        index::drop_new(&dir)?;
        return copied.tree(&place.join(DIFF));
    }
    copied.passage(place)?;
    let bytes = copied.tree(&place.join(DIFF))?;
    let link = copied.small(&place.join(LINK), 0o644)?;
    if copied.small(&place.join(LOWER), 0o644)?.is_some() {
        new_dir(&dir.join(WORK), 0o700)?;
    }
    copied.small(&place.join(COMMITTED), 0o600)?;
    let short = link.and_then(|text| ShortName::parse(&String::from_utf8_lossy(&text)));
    if let Some(short) = short {
        let link = copied.to.join(short.relative());
        std::os::unix::fs::symlink(link_target(copied.id), &link).map_err(io_at("create", link))?;
    }
    Ok(bytes)
}
