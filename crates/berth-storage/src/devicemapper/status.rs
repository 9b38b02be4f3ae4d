//! What `docker info` shows, in the order of Docker 18.09.

use berth_sys::dm;

use super::error::human;
use super::pool::METADATA_BLOCK;
use super::set::Set;
use crate::StorageError;

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
        let status = self.pool.status(&self.mapper)?;
        let block = status.block;
        let (fs, base_size) = {
            let state = self.state();
            (state.fs, state.base_size)
        };
        lines.push(("Pool Blocksize", human(block)));
        lines.push(("Base Device Size", human(base_size)));
        lines.push(("Backing Filesystem", fs.map_or("", |fs| fs.name()).to_owned()));
        lines.push(("Udev Sync Supported", dm::can_sync().to_string()));
        let mut available = (status.total - status.used) * block;
        let mut metadata_available =
            (status.metadata_total - status.metadata_used) * METADATA_BLOCK;
        if let Some(parts) = &self.pool.parts {
            lines.push(("Data file", parts.data.path().display().to_string()));
            lines.push(("Metadata file", parts.metadata.path().display().to_string()));
            #[rustfmt::skip]
            let files = [
                ("Data loop file",     &parts.data,     &mut available),
                ("Metadata loop file", &parts.metadata, &mut metadata_available),
            ];
            for (key, part, room) in files {
                if let Some(file) = part.file_path() {
                    lines.push((key, file.display().to_string()));
                    *room = (*room).min(self.free_below()?);
                }
            }
        }
        let least = status.total * self.options.min_free / 100 * block;
        lines.extend([
            ("Data Space Used", human(status.used * block)),
            ("Data Space Total", human(status.total * block)),
            ("Data Space Available", human(available)),
            ("Metadata Space Used", human(status.metadata_used * METADATA_BLOCK)),
            ("Metadata Space Total", human(status.metadata_total * METADATA_BLOCK)),
            ("Metadata Space Available", human(metadata_available)),
            ("Thin Pool Minimum Free Space", human(least)),
            ("Deferred Removal Enabled", self.deferred.removal.to_string()),
            ("Deferred Deletion Enabled", self.deferred.deletion.to_string()),
            ("Deferred Deleted Device Count", self.trash()?.len().to_string()),
        ]);
        Ok(())
    }

    /// Free bytes of the file system that the loop files lie on.
    fn free_below(&self) -> Result<u64, StorageError> {
        let info = rustix::fs::statvfs(&self.home);
        let info = info.map_err(crate::error::io_at("look at", &self.home))?;
        Ok(info.f_bfree * info.f_frsize)
    }
}
