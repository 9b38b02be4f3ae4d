//! How much a volume holds.

use std::collections::HashSet;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{Volume, VolumeStore};
use crate::VolumeError;

impl VolumeStore {
    /// The apparent sizes of a volume's files, each inode counted once; `None` for a volume with
    /// options, whose content may lie elsewhere.
    pub fn usage(&self, volume: &Volume) -> Result<Option<u64>, VolumeError> {
        if !volume.options.is_empty() {
            return Ok(None);
        }
        let data = self.paths(&volume.name).data;
        tree_size(&data).map(Some).map_err(VolumeError::io("measure", &data))
    }
}

/// Entries that vanish while we look are not counted.
fn tree_size(top: &Path) -> io::Result<u64> {
    let mut total = 0;
    let mut seen = HashSet::new();
    let mut pending = vec![top.to_owned()];
    while let Some(dir) = pending.pop() {
        let entries = match std::fs::read_dir(&dir) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            entries => entries?,
        };
        for entry in entries {
            let entry = entry?;
            let meta = match entry.metadata() {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                meta => meta?,
            };
            if meta.is_dir() {
                pending.push(entry.path());
            } else if meta.nlink() == 1 || seen.insert((meta.dev(), meta.ino())) {
                total += meta.size();
            }
        }
    }
    Ok(total)
}
