//! The home directory: mount points, and the file that says which dataset is this data root's.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_types::{HexId, LayerId, Owner};

use super::error::ZfsError;
use crate::StorageError;
use crate::error::io_at;
use crate::home::make_passage;

const GRAPH: &str = "graph";
const FILE: &str = ".berth-home";

/// What the file says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Record {
    /// The dataset, by the name that it had when the file was written.
    pub(super) dataset: String,
    /// What it has as [`HOME`](super::names::HOME).
    pub(super) number: String,
}

impl Record {
    /// Of a home that has none.
    pub(super) fn new(dataset: &str) -> Self {
        Self { dataset: dataset.to_owned(), number: HexId::random().to_string() }
    }

    pub(super) fn read(home: &Path) -> Result<Option<Self>, StorageError> {
        let file = file(home);
        let text = match fs::read_to_string(&file) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_at("read", &file))?,
        };
        let mut lines = text.lines();
        match (lines.next(), lines.next(), lines.next()) {
            (Some(dataset), Some(number), None) if HexId::parse(number).is_ok() => {
                Ok(Some(Self { dataset: dataset.to_owned(), number: number.to_owned() }))
            }
            _ => Err(ZfsError::Home { file }.into()),
        }
    }

    /// Makes it survive a power cut.
    pub(super) fn write(&self, home: &Path) -> Result<(), StorageError> {
        let file = file(home);
        let text = format!("{}\n{}\n", self.dataset, self.number);
        berth_fs::atomic::write(&file, text.as_bytes()).map_err(io_at("write", file))
    }
}

pub(super) fn file(home: &Path) -> PathBuf {
    home.join(FILE)
}

pub(super) fn make_dirs(home: &Path, root: Owner) -> Result<(), StorageError> {
    make_passage(home, root)?;
    make_passage(&home.join(GRAPH), root)
}

pub(super) fn mount_point(home: &Path, id: &LayerId) -> PathBuf {
    home.join(GRAPH).join(id.as_str())
}

/// The layers that something is or was mounted for.
pub(super) fn mounted(home: &Path) -> Result<Vec<LayerId>, StorageError> {
    let dir = home.join(GRAPH);
    let mut found = Vec::new();
    for entry in fs::read_dir(&dir).map_err(io_at("list", &dir))? {
        let name = entry.map_err(io_at("list", &dir))?.file_name();
        found.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_record_is_read_as_it_was_written() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), None);
        let record = Record::new("tank/a b");
        record.write(dir.path()).unwrap();
        assert_eq!(Record::read(dir.path()).unwrap(), Some(record));
        for damaged in ["", "tank\n", "tank\nx\n", "tank\nx\ny\n"] {
            berth_fs::atomic::write(&file(dir.path()), damaged.as_bytes()).unwrap();
            let error = Record::read(dir.path()).unwrap_err();
            assert!(error.to_string().ends_with("/.berth-home is damaged"), "{damaged:?} {error}");
        }
    }
}
