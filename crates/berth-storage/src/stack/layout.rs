//! Names and small files of a layer.

use std::fs;
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, symlink};
use std::path::{Path, PathBuf};

use berth_fs::atomic::{self, Durability};
use berth_types::LayerId;

use crate::StorageError;
use crate::error::io_at;
use crate::home::Home;

pub(super) const DIFF: &str = "diff";
pub(super) const LINK: &str = "link";
pub(super) const LOWER: &str = "lower";
pub(super) const WORK: &str = "work";
pub(super) const MERGED: &str = "merged";
pub(super) const COMMITTED: &str = "committed";
pub(super) const LINKS: &str = "l";

/// Digits of a layer's short name: 26 of base32, from 17 random bytes.
const SHORT: usize = 26;
const ALPHABET: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";

/// The short name of a layer below `l/`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ShortName(String);

impl ShortName {
    pub(super) fn random() -> Self {
        let mut bytes = [0; 17];
        getrandom::fill(&mut bytes).expect("the kernel's random source answers");
        let mut text = base32(&bytes);
        text.truncate(SHORT);
        Self(text)
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let good = text.len() == SHORT && text.bytes().all(|b| ALPHABET.contains(&b));
        good.then(|| Self(text.to_owned()))
    }

    /// `l/AAA…`
    pub(super) fn relative(&self) -> String {
        format!("{LINKS}/{}", self.0)
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

fn base32(bytes: &[u8]) -> String {
    let mut text = String::new();
    let (mut buffer, mut bits) = (0_u32, 0);
    for &byte in bytes {
        buffer = (buffer << 8) | u32::from(byte);
        bits += 8;
        while bits >= 5 {
            bits -= 5;
            text.push(char::from(ALPHABET[(buffer >> bits) as usize & 31]));
        }
    }
    if bits > 0 {
        text.push(char::from(ALPHABET[(buffer << (5 - bits)) as usize & 31]));
    }
    text
}

/// The short name in a layer's `link` file; `None` when the file is missing or torn.
pub(super) fn read_link_file(layer: &Path) -> Result<Option<ShortName>, StorageError> {
    Ok(read(&layer.join(LINK))?.and_then(|text| ShortName::parse(&text)))
}

/// Gives a layer another short name.
pub(super) fn rewrite_link_file(layer: &Path, name: &ShortName) -> Result<(), StorageError> {
    let path = layer.join(LINK);
    atomic::write_with(&path, name.as_str().as_bytes(), 0o644, Durability::Synced)
        .map_err(io_at("write", path))
}

/// The short names in a layer's `lower` file, nearest first; `None` when there is no file.
pub(super) fn read_lower_file(
    id: &LayerId,
    layer: &Path,
) -> Result<Option<Vec<ShortName>>, StorageError> {
    let Some(text) = read(&layer.join(LOWER))? else { return Ok(None) };
    let name = |part: &str| {
        part.strip_prefix("l/")
            .and_then(ShortName::parse)
            .ok_or_else(|| StorageError::Damaged { id: id.clone(), what: "file lower" })
    };
    text.split(':').map(name).collect::<Result<_, _>>().map(Some)
}

/// What `lower` of a child of `parent` holds.
pub(super) fn lowers_on(
    home: &Home,
    parent: &LayerId,
    most: usize,
) -> Result<Vec<ShortName>, StorageError> {
    home.check(parent)?;
    let dir = home.layer(parent);
    let own = read_link_file(&dir)?
        .ok_or_else(|| StorageError::Damaged { id: parent.clone(), what: "file link" })?;
    let mut lowers = vec![own];
    lowers.extend(read_lower_file(parent, &dir)?.unwrap_or_default());
    if lowers.len() > most {
        return Err(StorageError::MaxDepth);
    }
    Ok(lowers)
}

/// The text of a `lower` file.
pub(super) fn lower_text(lowers: &[ShortName]) -> String {
    lowers.iter().map(ShortName::relative).collect::<Vec<_>>().join(":")
}

/// Where `l/<name>` of the layer must point.
pub(super) fn link_target(id: &LayerId) -> PathBuf {
    Path::new("..").join(id.as_str()).join(DIFF)
}

/// The directory behind a short name, without the link.
pub(super) fn resolve(home: &Home, name: &ShortName) -> Result<PathBuf, StorageError> {
    let link = home.dir().join(name.relative());
    let target = fs::read_link(&link).map_err(io_at("read", &link))?;
    let id = target.parent().and_then(Path::file_name).unwrap_or_default();
    Ok(home.dir().join(id).join(DIFF))
}

/// Makes `l/<name>` point to the layer.
pub(super) fn make_link(home: &Home, name: &ShortName, id: &LayerId) -> Result<(), StorageError> {
    let link = home.dir().join(name.relative());
    symlink(link_target(id), &link).map_err(io_at("create", link))
}

/// Makes `l/<name>` point to the layer, whatever it pointed to.
pub(super) fn remake_link(home: &Home, name: &ShortName, id: &LayerId) -> Result<(), StorageError> {
    let link = home.dir().join(name.relative());
    // Nobody lists names that are no short names.
    let staged = home.dir().join(LINKS).join(format!("{}{id}", atomic::TEMPORARY_PREFIX));
    match fs::remove_file(&staged) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(io_at("remove", staged)(error));
        }
        _ => {}
    }
    symlink(link_target(id), &staged).map_err(io_at("create", &staged))?;
    fs::rename(&staged, &link).map_err(io_at("rename to", link))
}

/// The layer that `l/<name>` points to.
pub(super) fn linked(home: &Home, name: &ShortName) -> Option<LayerId> {
    let target = fs::read_link(home.dir().join(name.relative())).ok()?;
    let id = target.parent()?.file_name()?.to_str()?;
    LayerId::parse(id).ok()
}

/// Removes `l/<name>` if it points to this layer.
pub(super) fn remove_link(home: &Home, name: &ShortName, id: &LayerId) -> Result<(), StorageError> {
    let link = home.dir().join(name.relative());
    match fs::read_link(&link) {
        Ok(target) if target == link_target(id) => {
            fs::remove_file(&link).map_err(io_at("remove", link))
        }
        Ok(_) => Ok(()),
        // Missing, or not a link: not ours.
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::InvalidInput) =>
        {
            Ok(())
        }
        Err(error) => Err(io_at("read", link)(error)),
    }
}

/// Writes a small file of a layer that nobody sees yet.
pub(super) fn write_new(path: &Path, content: &str, mode: u32) -> Result<(), StorageError> {
    let open = fs::OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    open.and_then(|mut file| file.write_all(content.as_bytes())).map_err(io_at("write", path))
}

/// Whether the layer is frozen.
pub(super) fn is_committed(layer: &Path) -> Result<bool, StorageError> {
    let marker = layer.join(COMMITTED);
    marker.try_exists().map_err(io_at("look at", marker))
}

fn read(path: &Path) -> Result<Option<String>, StorageError> {
    match fs::read(path) {
        Ok(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(io_at("read", path)(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_dockers() {
        let name = ShortName::random();
        assert_eq!(name.as_str().len(), 26);
        assert_eq!(ShortName::parse(name.as_str()), Some(name));
        for bad in ["", "../../../etc/passwd0000000", "abcdefghijklmnopqrstuvwxyz", "A"] {
            assert_eq!(ShortName::parse(bad), None, "{bad}");
        }
    }
}
