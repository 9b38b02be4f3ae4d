//! Names for containers whose creator gives none, and the rule for those that do.

use super::registry::Registry;
use crate::error::ContainerError;

/// Left halves: what a day at sea can be.
const LEFT: &[&str] = &[
    "amber", "azure", "bold", "brisk", "broad", "bronze", "calm", "clear", "coastal", "copper",
    "coral", "crisp", "deep", "distant", "drifting", "early", "eastern", "fair", "faithful",
    "fleet", "foggy", "fresh", "gentle", "gilded", "golden", "grand", "grey", "hardy", "hazy",
    "hidden", "high", "humble", "icy", "idle", "jolly", "keen", "late", "light", "little",
    "lively", "lone", "long", "lucky", "lunar", "mellow", "merry", "mighty", "misty", "moonlit",
    "narrow", "nimble", "noble", "northern", "open", "pale", "patient", "pearly", "placid",
    "plucky", "polar", "proud", "quick", "quiet", "rapid", "restful", "rising", "rolling", "rosy",
    "rugged", "rusty", "salty", "sandy", "serene", "shady", "sharp", "silent", "silver", "slow",
    "smooth", "snug", "solar", "southern", "stable", "starry", "steady", "stormy", "sturdy",
    "sunny", "swift", "tidal", "tranquil", "trim", "true", "vast", "vivid", "warm", "western",
    "wild", "windy", "wise",
];

/// Right halves: what lies in, or at, a harbour.
const RIGHT: &[&str] = &[
    "albatross",
    "anchor",
    "atoll",
    "ballast",
    "barge",
    "barque",
    "bay",
    "beacon",
    "bollard",
    "boom",
    "bow",
    "breeze",
    "bridge",
    "brig",
    "bulwark",
    "buoy",
    "cabin",
    "canal",
    "canvas",
    "cape",
    "capstan",
    "captain",
    "cargo",
    "channel",
    "chart",
    "cleat",
    "clipper",
    "coast",
    "compass",
    "cormorant",
    "cove",
    "crane",
    "crew",
    "current",
    "cutter",
    "davit",
    "deck",
    "delta",
    "dinghy",
    "dock",
    "dolphin",
    "ensign",
    "estuary",
    "fathom",
    "fender",
    "ferry",
    "fjord",
    "foam",
    "frigate",
    "galleon",
    "galley",
    "gannet",
    "gull",
    "gulf",
    "halyard",
    "harbor",
    "hatch",
    "hawser",
    "helm",
    "heron",
    "horizon",
    "hull",
    "inlet",
    "island",
    "jetty",
    "jib",
    "kayak",
    "keel",
    "ketch",
    "lagoon",
    "lantern",
    "lighthouse",
    "log",
    "lugger",
    "mainsail",
    "marina",
    "mariner",
    "mast",
    "mooring",
    "narwhal",
    "oar",
    "osprey",
    "packet",
    "pelican",
    "pennant",
    "petrel",
    "pier",
    "pilot",
    "pinnace",
    "porpoise",
    "port",
    "prow",
    "quay",
    "raft",
    "reef",
    "rigging",
    "rudder",
    "sail",
    "schooner",
    "seal",
    "sextant",
    "shoal",
    "shore",
    "skiff",
    "sloop",
    "sounding",
    "spar",
    "spray",
    "squall",
    "stern",
    "strait",
    "tern",
    "tide",
    "tiller",
    "trawler",
    "tug",
    "voyage",
    "walrus",
    "wave",
    "wharf",
    "winch",
    "yawl",
];

/// A name that is free: two words, and a digit once those are hard to find.
pub(crate) fn generate(registry: &Registry) -> String {
    for round in 0u32.. {
        let [a, b, c, d] = random();
        let left = LEFT[usize::from(a) * LEFT.len() / 256];
        let right = RIGHT[usize::from(b) * RIGHT.len() / 256];
        let name = if round < 6 {
            format!("{left}_{right}")
        } else {
            format!("{left}_{right}{}", u32::from(c) << 8 | u32::from(d))
        };
        if !registry.is_taken(&name) {
            return name;
        }
    }
    unreachable!("an endless loop ends only by returning")
}

fn random() -> [u8; 4] {
    let mut bytes = [0; 4];
    getrandom::fill(&mut bytes).expect("the kernel's random source answers");
    bytes
}

/// Checks a name by Docker's rule; a slash before it is dropped.
pub(crate) fn check(name: &str) -> Result<&str, ContainerError> {
    let bare = name.strip_prefix('/').unwrap_or(name);
    let mut bytes = bare.bytes();
    let first = bytes.next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if first && rest && bare.len() >= 2 {
        Ok(bare)
    } else {
        Err(ContainerError::Name { name: name.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names() {
        #[rustfmt::skip]
        let table = [
            ("web",     Some("web")),
            ("/web",    Some("web")),
            ("a.b_c-9", Some("a.b_c-9")),
            ("9a",      Some("9a")),
            ("a",       None),
            ("",        None),
            ("-a",      None),
            ("x!",      None),
            ("a/b",     None),
            ("../etc",  None),
        ];
        for (name, expected) in table {
            assert_eq!(check(name).ok(), expected, "{name:?}");
        }
    }

    #[test]
    fn generated_names_are_allowed() {
        let registry = Registry::default();
        for _ in 0..200 {
            let name = generate(&registry);
            assert_eq!(check(&name).unwrap(), name);
        }
    }
}
