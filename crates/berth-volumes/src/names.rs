//! The directory entries of the volume store.

use std::path::{Path, PathBuf};

pub(crate) const DATA: &str = "_data";
pub(crate) const OPTIONS: &str = "opts.json";
/// A copy from an image that may be incomplete.
pub(crate) const POPULATE: &str = ".berth-populate";
/// A complete copy whose entries are being moved into the volume.
pub(crate) const POPULATED: &str = ".berth-populated";
const CREATE: &str = ".berth-create-";
const REMOVE: &str = ".berth-remove-";

/// The paths of one volume.
#[derive(Debug, Clone)]
pub(crate) struct VolumePaths {
    pub(crate) home: PathBuf,
    pub(crate) data: PathBuf,
    pub(crate) options: PathBuf,
    pub(crate) create: PathBuf,
    pub(crate) remove: PathBuf,
}

impl VolumePaths {
    pub(crate) fn new(root: &Path, name: &str) -> Self {
        let home = root.join(name);
        Self {
            data: home.join(DATA),
            options: home.join(OPTIONS),
            create: root.join(format!("{CREATE}{name}")),
            remove: root.join(format!("{REMOVE}{name}")),
            home,
        }
    }
}

/// What an entry of the volume directory is.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Entry<'a> {
    /// A volume.
    Volume(&'a str),
    /// A volume that was being created.
    Creating(&'a str),
    /// A volume that was being removed.
    Removing(&'a str),
    /// Not ours.
    Foreign,
}

pub(crate) fn classify(entry: &str) -> Entry<'_> {
    if let Some(name) = entry.strip_prefix(CREATE) {
        return if crate::name::is_valid(name) { Entry::Creating(name) } else { Entry::Foreign };
    }
    if let Some(name) = entry.strip_prefix(REMOVE) {
        return if crate::name::is_valid(name) { Entry::Removing(name) } else { Entry::Foreign };
    }
    if crate::name::is_valid(entry) { Entry::Volume(entry) } else { Entry::Foreign }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn directory_entries() {
        #[rustfmt::skip]
        let table = [
            ("data",                Entry::Volume("data")),
            (".berth-create-data",  Entry::Creating("data")),
            (".berth-remove-data",  Entry::Removing("data")),
            (".berth-remove-",      Entry::Foreign),
            (".berth-create-a",     Entry::Foreign),
            ("lost+found",          Entry::Foreign),
            ("x",                   Entry::Foreign),
        ];
        for (entry, expected) in table {
            assert_eq!(classify(entry), expected, "{entry}");
        }
    }
}
