//! Names of datasets, checked: none can be taken for an option, a snapshot or a path.

use std::fmt;

use berth_types::LayerId;

/// The longest name of a dataset that layers are below: the kernel takes 255 bytes in all, and no
/// layer's own name, snapshot included, is longer than the rest.
const LONGEST: usize = 140;

const CREATING: &str = ".berth-creating-";
const REMOVING: &str = ".berth-removing-";
const ASIDE: &str = ".berth-aside-";
/// The snapshot that a frozen layer has.
pub(super) const COMMITTED: &str = "committed";
/// On a layer: it was made whole.
pub(super) const MARK: &str = "berth:layer";
/// On the dataset that layers are below: whose it is.
pub(super) const HOME: &str = "berth:home";

/// A dataset that layers are below.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Dataset(String);

impl Dataset {
    /// `None` for what the kernel would not take as the name of a file system, or not with a layer
    /// below it.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let is_known = |c: char| c.is_ascii_alphanumeric() || "-_.: ".contains(c);
        let is_part = |part: &str| {
            !part.is_empty() && part != "." && part != ".." && part.chars().all(is_known)
        };
        let is_valid = name.len() <= LONGEST
            && name.starts_with(|c: char| c.is_ascii_alphabetic())
            && name.split('/').all(is_part);
        is_valid.then(|| Self(name.to_owned()))
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }

    /// The pool that it is in.
    pub(super) fn pool(&self) -> &str {
        self.0.split('/').next().unwrap_or(&self.0)
    }

    /// A layer.
    pub(super) fn layer(&self, id: &LayerId) -> String {
        format!("{self}/{id}")
    }

    /// What the layers above a layer are clones of.
    pub(super) fn frozen(&self, id: &LayerId) -> String {
        format!("{self}/{id}@{COMMITTED}")
    }

    pub(super) fn creating(&self, id: &LayerId) -> String {
        format!("{self}/{CREATING}{id}")
    }

    pub(super) fn removing(&self, id: &LayerId, attempt: u32) -> String {
        format!("{self}/{REMOVING}{id}-{attempt}")
    }

    pub(super) fn aside(&self, id: &LayerId, number: u128) -> String {
        format!("{self}/{ASIDE}{id}-{number}")
    }
}

impl fmt::Display for Dataset {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a dataset directly below the driver's own is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Role {
    Layer(LayerId),
    Creating(LayerId),
    Removing,
    /// Somebody else's.
    Foreign,
}

impl Role {
    pub(super) fn of(name: &str) -> Self {
        if let Ok(id) = LayerId::parse(name) {
            return Self::Layer(id);
        }
        let numbered = |rest: &str| rest.rsplit_once('-').and_then(|(id, _)| parsed(id));
        if let Some(id) = name.strip_prefix(CREATING).and_then(parsed) {
            return Self::Creating(id);
        }
        match name.strip_prefix(REMOVING).and_then(numbered) {
            Some(_) => Self::Removing,
            None => Self::Foreign,
        }
    }
}

fn parsed(id: &str) -> Option<LayerId> {
    LayerId::parse(id).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_datasets_cannot_be_anything_else() {
        #[rustfmt::skip]
        let table = [
            ("tank",                 Some("tank")),
            ("tank/docker",          Some("tank")),
            ("zpool-docker/a b/c:d", Some("zpool-docker")),
            ("",                     None),
            ("-r",                   None),
            ("/tank",                None),
            ("tank/",                None),
            ("tank//a",              None),
            ("tank/..",              None),
            ("tank@a",               None),
            ("tank/a#b",             None),
            ("tank,b",               None),
            ("tank/a\nb",            None),
            ("9tank",                None),
        ];
        for (name, pool) in table {
            let parsed = Dataset::parse(name);
            assert_eq!(parsed.as_ref().map(Dataset::pool), pool, "{name:?}");
        }
        assert_eq!(Dataset::parse(&"t".repeat(LONGEST + 1)), None);
        let longest = Dataset::parse(&"t".repeat(LONGEST)).unwrap();
        let id = LayerId::random().init();
        assert!(longest.aside(&id, u64::MAX.into()).len() < 256);
        assert!(longest.frozen(&id).len() < 256);
    }

    #[test]
    fn roles_are_told_by_names() {
        let own = Dataset::parse("t").unwrap();
        let id = LayerId::random().init();
        let role = |name: &str| Role::of(name.strip_prefix("t/").unwrap_or(name));
        assert_eq!(role(&own.layer(&id)), Role::Layer(id.clone()));
        assert_eq!(role(&own.creating(&id)), Role::Creating(id.clone()));
        assert_eq!(role(&own.removing(&id, 7)), Role::Removing);
        for name in [own.aside(&id, 7).as_str(), "volumes", ".berth-removing-x-0", ".berth-x"] {
            assert_eq!(role(name), Role::Foreign, "{name}");
        }
    }
}
