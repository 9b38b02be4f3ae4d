//! What `docker info` shows, in the order of Docker 18.09 with
//! berth's own lines at the end; and what else can be asked about the pool.

use std::path::Path;

use berth_sys::dm;

use super::driver::Devicemapper;
use super::error::human;
use super::lvm_extend::Wipe;
use super::pool::METADATA_BLOCK;
use super::pool::Part;
use super::set::Set;
use super::watch::duration;
use crate::{PoolLayout, PoolUsage, StorageError, Tell, ThinPool};

impl Set {
    /// The lines; those that a pool which does not answer has nothing for are missing.
    pub(super) fn describe(&self) -> Vec<(String, String)> {
        let mut lines = vec![("Pool Name", self.pool.name.clone())];
        if let Err(error) = self.fill_in(&mut lines) {
            let error = berth_types::kind::chain(&error);
            tracing::warn!(error, "the thin pool does not say how it is");
        }
        lines.into_iter().map(|(key, value)| (key.to_owned(), value)).collect()
    }

    fn fill_in(&self, lines: &mut Vec<(&'static str, String)>) -> Result<(), StorageError> {
        self.notice_growth()?;
        let (status, usage) = self.watch.look()?;
        let block = status.block;
        let (fs, base_size) = {
            let state = self.state();
            (state.fs, state.base_size)
        };
        lines.push(("Pool Blocksize", human(block)));
        lines.push(("Base Device Size", human(base_size)));
        lines.push(("Backing Filesystem", fs.map_or("", |fs| fs.name()).to_owned()));
        lines.push(("Udev Sync Supported", dm::can_sync().to_string()));
        if let Some(parts) = &self.pool.parts {
            lines.push(("Data file", parts.data.path().display().to_string()));
            lines.push(("Metadata file", parts.metadata.path().display().to_string()));
            let files = [("Data loop file", &parts.data), ("Metadata loop file", &parts.metadata)];
            for (key, part) in files {
                if let Some(file) = part.file_path() {
                    lines.push((key, file.display().to_string()));
                }
            }
        }
        let least = status.total * self.options.min_free / 100 * block;
        lines.extend([
            ("Data Space Used", human(status.used * block)),
            ("Data Space Total", human(status.total * block)),
            ("Data Space Available", human(usage.data.room)),
            ("Metadata Space Used", human(status.metadata_used * METADATA_BLOCK)),
            ("Metadata Space Total", human(status.metadata_total * METADATA_BLOCK)),
            ("Metadata Space Available", human(usage.metadata.room)),
            ("Thin Pool Minimum Free Space", human(least)),
            ("Deferred Removal Enabled", self.deferred.removal.to_string()),
            ("Deferred Deletion Enabled", self.deferred.deletion.to_string()),
            ("Deferred Deleted Device Count", self.trash()?.len().to_string()),
            ("Thin Pool Level", usage.level.name().to_owned()),
        ]);
        let full_in = [usage.data.seconds_to_full, usage.metadata.seconds_to_full];
        if let Some(seconds) = full_in.into_iter().flatten().min() {
            lines.push(("Thin Pool Full In", duration(seconds)));
        }
        Ok(())
    }
}

impl ThinPool for Devicemapper {
    fn usage(&self) -> Result<PoolUsage, StorageError> {
        self.set.notice_growth()?;
        Ok(self.set.watch.look()?.1)
    }

    fn check_room(&self) -> Result<(), StorageError> {
        self.set.check_space()
    }

    fn layout(&self) -> PoolLayout {
        let file = |part: &Part| part.file_path().map(Path::to_owned);
        let parts = self.set.pool.parts.as_ref();
        PoolLayout {
            name: self.set.pool.name.clone(),
            data: parts.and_then(|parts| file(&parts.data)),
            metadata: parts.and_then(|parts| file(&parts.metadata)),
        }
    }

    fn grow(&self, data: Option<u64>, metadata: Option<u64>) -> Result<(), StorageError> {
        self.set.grow(data, metadata)
    }

    fn extend(&self, device: &Path, wipe: bool) -> Result<(), StorageError> {
        self.set.extend(device, if wipe { Wipe::Yes } else { Wipe::No })
    }

    fn on_change(&self, tell: Tell) {
        self.set.watch.set_listener(tell);
    }
}
