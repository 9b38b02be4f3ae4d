//! Limits on layers by project quota: each limited layer is a project of its file system.
//!
//! As in Docker, projects are numbered upwards from that of the driver's home, and the number of a
//! layer is an attribute of its directory, which everything made in it inherits. The limit itself is
//! kept by the file system. A number whose layer is gone is given again after the next start, with
//! a new limit.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use berth_sys::quota::{Limit, ProjectQuotas, project, set_project};

use crate::StorageError;
use crate::error::io_at;

/// The project quotas of the file system below a driver's home.
#[derive(Debug)]
pub(crate) struct Quotas {
    of_fs: ProjectQuotas,
    home: PathBuf,
    /// The last number given; found out when the first is asked for.
    last: Mutex<Option<u32>>,
}

/// A limit for a layer in the making.
#[derive(Debug, Clone, Copy)]
pub(crate) struct SizeLimit<'a> {
    quotas: &'a Quotas,
    bytes: u64,
}

impl Quotas {
    /// Those below `home`, the directory of the layers' directories; `None` where the file system does
    /// not count projects or does not refuse what is beyond a limit.
    pub(crate) fn below(home: &Path) -> Option<Self> {
        let ask = || {
            let of_fs = ProjectQuotas::of(home)?;
            let state = of_fs.state()?;
            Ok::<_, io::Error>((state.is_counted && state.is_enforced).then_some(of_fs))
        };
        let of_fs = ask().unwrap_or_else(|error| {
            // Whatever it is that does not let itself be asked, it limits nothing.
            tracing::debug!(%error, home = %home.display(), "no project quotas");
            None
        })?;
        Some(Self { of_fs, home: home.to_owned(), last: Mutex::new(None) })
    }

    /// So many bytes; 0 is no limit.
    pub(crate) fn limit(&self, bytes: i64) -> Option<SizeLimit<'_>> {
        let bytes = u64::try_from(bytes).ok().filter(|bytes| *bytes > 0)?;
        Some(SizeLimit { quotas: self, bytes })
    }

    fn next(&self) -> Result<u32, StorageError> {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let next = match *last {
            Some(last) => last,
            None => self.highest()?,
        };
        let next = next.checked_add(1).ok_or_else(|| {
            let error = io::Error::new(io::ErrorKind::StorageFull, "no project number is left");
            io_at("limit layers of", &self.home)(error)
        })?;
        *last = Some(next);
        Ok(next)
    }

    /// The highest number in use: of the home, of layers, and of what waits to be deleted.
    fn highest(&self) -> Result<u32, StorageError> {
        let number = |path: &Path| {
            let dir = File::open(path)?;
            project(&dir).map(|project| project.id)
        };
        let mut highest = number(&self.home).map_err(io_at("look at", &self.home))?;
        for entry in fs::read_dir(&self.home).map_err(io_at("list", &self.home))? {
            let entry = entry.map_err(io_at("list", &self.home))?;
            if !entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                continue;
            }
            match number(&entry.path()) {
                Ok(found) => highest = highest.max(found),
                // Deleted meanwhile.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io_at("look at", entry.path())(error)),
            }
        }
        Ok(highest)
    }
}

impl SizeLimit<'_> {
    /// Limits everything that will be made in the new, empty directory.
    pub(crate) fn apply(self, dir: &Path) -> Result<(), StorageError> {
        let Self { quotas, bytes } = self;
        let number = quotas.next()?;
        let limit = Limit { hard: bytes, soft: bytes };
        // First the limit: an old one of the same number must not count for a moment.
        let set = || {
            quotas.of_fs.set_limit(number, limit)?;
            set_project(File::open(dir)?, number)
        };
        set().map_err(io_at("limit", dir))
    }
}

#[cfg(test)]
mod tests;
