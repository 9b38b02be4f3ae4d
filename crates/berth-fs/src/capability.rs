//! The attribute with a program's file capabilities, where ids are remapped.
//!
//! Version 2 of it speaks to the host's own root; version 3 names the root it speaks to by its id on
//! the host, in the last four bytes. Archives hold version 2, for their reader's root.

use std::borrow::Cow;

use berth_types::IdMaps;

use crate::changes::CAPABILITY;

const REVISION: u32 = 0xff00_0000;
const REVISION_2: u32 = 0x0200_0000;
const REVISION_3: u32 = 0x0300_0000;
const SIZE_2: usize = 20;
const SIZE_3: usize = 24;

/// The value of the attribute `name` as it belongs on a file of the host.
pub(crate) fn to_host<'a>(name: &[u8], value: &'a [u8], ids: &IdMaps) -> Cow<'a, [u8]> {
    let root = ids.root().uid;
    if root == 0 || name != CAPABILITY.as_bytes() {
        return value.into();
    }
    match (value.len(), word(value, 0)) {
        (SIZE_2, Some(magic)) if magic & REVISION == REVISION_2 => {
            let magic = (magic & !REVISION) | REVISION_3;
            [&magic.to_le_bytes()[..], &value[4..], &root.to_le_bytes()].concat().into()
        }
        _ => value.into(),
    }
}

/// The value read from a file of the host as it belongs into an archive.
pub(crate) fn to_container(mut value: Vec<u8>, ids: &IdMaps) -> Vec<u8> {
    let root = ids.root().uid;
    let magic = word(&value, 0).unwrap_or(0);
    let is_ours = value.len() == SIZE_3
        && magic & REVISION == REVISION_3
        && word(&value, SIZE_2) == Some(root);
    if root != 0 && is_ours {
        value.truncate(SIZE_2);
        let magic = (magic & !REVISION) | REVISION_2;
        value[..4].copy_from_slice(&magic.to_le_bytes());
    }
    value
}

fn word(value: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(value.get(at..at + 4)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_types::IdMap;

    #[test]
    fn capabilities_follow_the_root_that_they_speak_to() {
        let map = IdMap::from_subordinate(&[(100_000, 65536)]);
        let mapped = IdMaps { uids: map.clone(), gids: map };
        let second = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let third = [&[1, 0, 0, 3][..], &second[4..], &100_000_u32.to_le_bytes()].concat();
        let name = CAPABILITY.as_bytes();
        assert_eq!(*to_host(name, &second, &mapped), third[..]);
        assert_eq!(to_container(third.clone(), &mapped), second);
        // Another attribute, no maps, another root, and bytes that are none of it.
        assert_eq!(*to_host(b"user.x", &second, &mapped), second[..]);
        assert_eq!(*to_host(name, &second, &IdMaps::default()), second[..]);
        assert_eq!(to_container(third.clone(), &IdMaps::default()), third);
        let other = [&third[..20], &7_u32.to_le_bytes()].concat();
        assert_eq!(to_container(other.clone(), &mapped), other);
        assert_eq!(*to_host(name, b"x", &mapped), b"x"[..]);
    }
}
