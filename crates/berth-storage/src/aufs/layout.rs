//! The files that say what a layer stands on.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_fs::atomic::{self, Durability};
use berth_types::{LayerId, Owner};

use crate::StorageError;
use crate::error::io_at;
use crate::home::{clear_temporaries, make_passage};

pub(super) const DIFF: &str = "diff";
pub(super) const LAYERS: &str = "layers";
pub(super) const MNT: &str = "mnt";

/// The directory `layers`.
#[derive(Debug)]
pub(super) struct Chains(PathBuf);

impl Chains {
    pub(super) fn open(home: &Path, root: Owner) -> Result<Self, StorageError> {
        let dir = home.join(LAYERS);
        make_passage(&dir, root)?;
        Ok(Self(dir))
    }

    /// What the layer stands on, nearest first; `None` when nothing says it.
    pub(super) fn find(&self, id: &LayerId) -> Result<Option<Vec<LayerId>>, StorageError> {
        let path = self.0.join(id.as_str());
        let text = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(io_at("read", path))?,
        };
        match parse(&String::from_utf8_lossy(&text)) {
            Some(chain) => Ok(Some(chain)),
            None => Err(damaged(id)),
        }
    }

    /// As [`find`](Self::find), of a layer that is there.
    pub(super) fn read(&self, id: &LayerId) -> Result<Vec<LayerId>, StorageError> {
        self.find(id)?.ok_or_else(|| damaged(id))
    }

    pub(super) fn write(
        &self,
        id: &LayerId,
        chain: &[LayerId],
        durability: Durability,
    ) -> Result<(), StorageError> {
        let path = self.0.join(id.as_str());
        let text: String = chain.iter().flat_map(|id| [id.as_str(), "\n"]).collect();
        atomic::write_with(&path, text.as_bytes(), 0o644, durability).map_err(io_at("write", path))
    }

    pub(super) fn remove(&self, id: &LayerId) -> Result<(), StorageError> {
        let path = self.0.join(id.as_str());
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(io_at("remove", path)(error))
            }
            _ => Ok(()),
        }
    }

    /// Removes files whose writing was interrupted.
    pub(super) fn clear_temporary(&self) -> Result<(), StorageError> {
        clear_temporaries(&self.0)
    }

    pub(super) fn list(&self) -> Result<Vec<LayerId>, StorageError> {
        ids(&self.0)
    }
}

/// The names of layers in a directory.
pub(super) fn ids(dir: &Path) -> Result<Vec<LayerId>, StorageError> {
    let mut ids = Vec::new();
    for entry in fs::read_dir(dir).map_err(io_at("list", dir))? {
        let name = entry.map_err(io_at("list", dir))?.file_name();
        ids.extend(name.to_str().and_then(|name| LayerId::parse(name).ok()));
    }
    Ok(ids)
}

fn parse(text: &str) -> Option<Vec<LayerId>> {
    if !text.is_empty() && !text.ends_with('\n') {
        return None;
    }
    text.lines().map(|line| LayerId::parse(line).ok()).collect()
}

fn damaged(id: &LayerId) -> StorageError {
    StorageError::Damaged { id: id.clone(), what: "file layers" }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chains_are_whole_or_damaged() {
        let (one, two) = (LayerId::random(), LayerId::random().init());
        #[rustfmt::skip]
        let table = [
            (String::new(),                       Some(vec![])),
            (format!("{one}\n"),                  Some(vec![one.clone()])),
            (format!("{two}\n{one}\n"),           Some(vec![two.clone(), one.clone()])),
            (format!("{two}\n{one}"),             None),
            (format!("{two}\n{}", &one.as_str()[..9]), None),
            (format!("{two}\n\n{one}\n"),         None),
            ("../../etc\n".to_owned(),            None),
        ];
        for (text, expected) in table {
            assert_eq!(parse(&text), expected, "{text:?}");
        }
    }
}
