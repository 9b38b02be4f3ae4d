//! Which ids of the host stand for the ids inside containers, when the daemon remaps them.

use serde::{Deserialize, Serialize};

/// What the kernel shows for an id that a user namespace has no name for.
pub const OVERFLOW: u32 = 65534;

/// A user and a group of the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
}

impl Owner {
    /// The host's own root.
    pub const ROOT: Self = Self { uid: 0, gid: 0 };
}

/// Ids that follow each other on both sides.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdRange {
    /// The first id inside.
    pub container: u32,
    /// What it is outside.
    pub host: u32,
    /// How many there are.
    pub size: u32,
}

/// One of the two maps; empty when ids are the same on both sides.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct IdMap(pub Vec<IdRange>);

/// Both maps.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct IdMaps {
    /// Of users.
    pub uids: IdMap,
    /// Of groups.
    pub gids: IdMap,
}

/// Why an id has no counterpart. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdMapError {
    #[error("Container ID {id} cannot be mapped to a host ID")]
    ToHost { id: u64 },
    #[error("Host ID {id} cannot be mapped to a container ID")]
    ToContainer { id: u32 },
}

impl IdMap {
    /// The ids of `ranges` (first, count), which the container counts through from 0.
    pub fn from_subordinate(ranges: &[(u32, u32)]) -> Self {
        let mut sorted = ranges.to_vec();
        sorted.sort_unstable();
        let mut container = 0_u32;
        let mut map = Vec::new();
        for (host, size) in sorted {
            // Ids are 32 bits wide on both sides, and the last one is nobody's.
            let size = size.min(u32::MAX - container).min(u32::MAX - host);
            if size > 0 {
                map.push(IdRange { container, host, size });
            }
            container += size;
        }
        Self(map)
    }

    /// Its ranges in the kernel's order: first id inside, first id outside, how many.
    pub fn ranges(&self) -> Vec<(u32, u32, u32)> {
        self.0.iter().map(|range| (range.container, range.host, range.size)).collect()
    }

    /// Whether ids are the same on both sides.
    pub fn is_identity(&self) -> bool {
        self.0.is_empty()
    }

    /// What an id of the container is on the host.
    pub fn to_host(&self, id: u64) -> Result<u32, IdMapError> {
        let unmapped = IdMapError::ToHost { id };
        // The largest value means "leave as it is" to the kernel.
        let id = u32::try_from(id).ok().filter(|&id| id != u32::MAX).ok_or(unmapped)?;
        if self.is_identity() {
            return Ok(id);
        }
        let found = self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.container).filter(|offset| *offset < range.size)?;
            Some(range.host + offset)
        });
        found.ok_or(unmapped)
    }

    /// What an id of the host is in the container.
    pub fn to_container(&self, id: u32) -> Result<u32, IdMapError> {
        if self.is_identity() {
            return Ok(id);
        }
        let found = self.0.iter().find_map(|range| {
            let offset = id.checked_sub(range.host).filter(|offset| *offset < range.size)?;
            Some(range.container + offset)
        });
        found.ok_or(IdMapError::ToContainer { id })
    }

    /// What an id of the host looks like in the container.
    pub fn seen(&self, id: u32) -> u32 {
        self.to_container(id).unwrap_or(OVERFLOW)
    }
}

impl IdMaps {
    /// Whether ids are the same on both sides.
    pub fn is_identity(&self) -> bool {
        self.uids.is_identity() && self.gids.is_identity()
    }

    /// What the container's root is on the host.
    pub fn root(&self) -> Owner {
        let first = |map: &IdMap| map.to_host(0).unwrap_or(0);
        Owner { uid: first(&self.uids), gid: first(&self.gids) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn two_ranges() -> IdMap {
        IdMap::from_subordinate(&[(300_000, 5), (100_000, 10)])
    }

    #[test]
    fn ranges_are_counted_through_in_the_order_of_the_host() {
        let range = |container, host, size| IdRange { container, host, size };
        assert_eq!(two_ranges().0, [range(0, 100_000, 10), range(10, 300_000, 5)]);
        let huge = IdMap::from_subordinate(&[(4_294_967_290, 100), (0, 0)]);
        assert_eq!(huge.0, [range(0, 4_294_967_290, 5)]);
    }

    #[test]
    fn ids_are_mapped_both_ways() {
        #[rustfmt::skip]
        let table: &[(u64, Option<u32>)] = &[
            (0,             Some(100_000)),
            (9,             Some(100_009)),
            (10,            Some(300_000)),
            (14,            Some(300_004)),
            (15,            None),
            (100_000,       None),
            (4_294_967_295, None),
            (4_294_967_296, None),
        ];
        let map = two_ranges();
        for &(inside, outside) in table {
            assert_eq!(map.to_host(inside).ok(), outside, "{inside}");
            if let Some(outside) = outside {
                assert_eq!(u64::from(map.to_container(outside).unwrap()), inside);
            }
        }
        for nobody in [0, 99_999, 100_010, 300_005] {
            assert!(map.to_container(nobody).is_err(), "{nobody}");
            assert_eq!(map.seen(nobody), OVERFLOW);
        }
        assert_eq!(
            map.to_host(15).unwrap_err().to_string(),
            "Container ID 15 cannot be mapped to a host ID"
        );
        assert_eq!(
            map.to_container(7).unwrap_err().to_string(),
            "Host ID 7 cannot be mapped to a container ID"
        );
    }

    #[test]
    fn without_maps_ids_stay_as_they_are() {
        let none = IdMaps::default();
        assert!(none.is_identity());
        assert_eq!(none.root(), Owner::ROOT);
        assert_eq!(none.uids.to_host(1000), Ok(1000));
        assert!(none.uids.to_host(u64::from(u32::MAX)).is_err());
        assert_eq!(none.gids.seen(1000), 1000);
        let mapped = IdMaps { uids: two_ranges(), gids: two_ranges() };
        assert_eq!(mapped.root(), Owner { uid: 100_000, gid: 100_000 });
    }
}
