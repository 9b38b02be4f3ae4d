//! Copying a layer to another data root.

use std::path::Path;

use super::layout::{DIFF, LAYERS, MNT};
use crate::StorageError;
use crate::home::new_dir;
use crate::markers::COMMITTED;
use crate::transfer::Copied;

pub(crate) fn transfer(copied: &mut Copied<'_, '_>) -> Result<u64, StorageError> {
    let name = copied.id.as_str();
    let bytes = copied.tree(&Path::new(DIFF).join(name))?;
    copied.small(&Path::new(LAYERS).join(name), 0o644)?;
    copied.small(&Path::new(COMMITTED).join(name), 0o600)?;
    new_dir(&copied.to.join(MNT).join(name), 0o755)?;
    Ok(bytes)
}
