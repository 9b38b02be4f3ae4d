//! What there is below the driver's dataset, in the words of `zfs get`.

use std::collections::BTreeMap;

use super::error::ZfsError;
use super::names::{COMMITTED, Dataset, MARK, Role};

/// A file system directly below the driver's dataset.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Found {
    /// The dataset that it is a clone of, without the snapshot's name.
    pub(super) origin: Option<String>,
    /// Made whole by this driver.
    pub(super) is_marked: bool,
    /// Has a mount point of its own, as every layer that was made whole has, also one of Docker's.
    pub(super) has_mount_point: bool,
    /// Has the snapshot of a frozen layer.
    pub(super) is_committed: bool,
    /// Has any snapshot.
    pub(super) has_snapshots: bool,
}

impl Found {
    /// What is left of a creation that a power cut stopped between the file system and its
    /// properties. Nobody has used it, and what was received from elsewhere has a snapshot.
    pub(super) fn is_torn(&self) -> bool {
        !self.is_marked && !self.has_mount_point && !self.has_snapshots
    }
}

/// By the names below the driver's dataset.
pub(super) type Listing = BTreeMap<String, Found>;

/// The arguments that make `zfs` say it.
pub(super) fn arguments(dataset: &Dataset) -> [&str; 12] {
    let columns = "name,property,value,source";
    let properties = const { "origin,mountpoint,berth:layer" };
    let kinds = "filesystem,snapshot";
    // Snapshots of what is directly below count as one deeper.
    ["get", "-H", "-p", "-r", "-d", "2", "-t", kinds, "-o", columns, properties, dataset.as_str()]
}

/// Reads it.
pub(super) fn parse(text: &str, dataset: &Dataset) -> Result<Listing, ZfsError> {
    let mut listing = Listing::new();
    let begin = format!("{dataset}/");
    for line in text.lines() {
        let fields: Vec<&str> = line.split('\t').collect();
        let [name, property, value, source] = fields[..] else {
            return Err(ZfsError::Answer { command: "zfs get", line: line.to_owned() });
        };
        // Itself, its own snapshots, and what is deeper.
        let Some(name) = name.strip_prefix(&begin).filter(|name| !name.contains('/')) else {
            continue;
        };
        if let Some((name, snapshot)) = name.split_once('@') {
            let found = listing.entry(name.to_owned()).or_default();
            found.has_snapshots = true;
            found.is_committed |= snapshot == COMMITTED;
            continue;
        }
        let found = listing.entry(name.to_owned()).or_default();
        match property {
            "origin" => found.origin = value.split_once('@').map(|(origin, _)| origin.to_owned()),
            "mountpoint" => found.has_mount_point = source == "local" || source == "received",
            MARK => found.is_marked = value == "yes" && !source.starts_with("inherited"),
            _ => {}
        }
    }
    Ok(listing)
}

/// Whether there is what looks like a layer, this driver's or another engine's.
pub(super) fn has_layers(listing: &Listing) -> bool {
    listing.iter().any(|(name, found)| matches!(Role::of(name), Role::Layer(_)) && !found.is_torn())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_and_what_is_left_of_them_are_told_apart() {
        let own = Dataset::parse("t/d").unwrap();
        let text = "t/d\torigin\t-\t-\n\
                    t/d\tmountpoint\t/var/lib/docker\tlocal\n\
                    t/d\tberth:layer\t-\t-\n\
                    t/d@x\torigin\t-\t-\n\
                    t/d/a\torigin\t-\t-\n\
                    t/d/a\tmountpoint\tlegacy\tlocal\n\
                    t/d/a\tberth:layer\tyes\tlocal\n\
                    t/d/a@committed\torigin\t-\t-\n\
                    t/d/a/inner\torigin\tt/d/b@x\t-\n\
                    t/d/b\torigin\tt/d/a@committed\t-\n\
                    t/d/b\tmountpoint\tlegacy\treceived\n\
                    t/d/b\tberth:layer\tyes\treceived\n\
                    t/d/c\tmountpoint\t/t/d/c\tinherited from t\n\
                    t/d/c\tberth:layer\tyes\tinherited from t\n";
        let listing = parse(text, &own).unwrap();
        let a = Found {
            is_marked: true,
            has_mount_point: true,
            is_committed: true,
            has_snapshots: true,
            origin: None,
        };
        let b = Found {
            origin: Some("t/d/a".to_owned()),
            is_marked: true,
            has_mount_point: true,
            ..Found::default()
        };
        let expected = [("a", a), ("b", b), ("c", Found::default())];
        assert_eq!(listing, expected.map(|(name, found)| (name.to_owned(), found)).into());
        assert!(listing["c"].is_torn() && !listing["b"].is_torn());
        assert!(!has_layers(&listing));
        let error = parse("t/d/a\torigin", &own).unwrap_err();
        assert_eq!(error.to_string(), "zfs get says \"t/d/a\\torigin\", which is not known");
    }
}
