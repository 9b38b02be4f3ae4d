//! Go's `FileMode` and the kernel's `st_mode`.

const DIR: u32 = 1 << 31;
const SYMLINK: u32 = 1 << 27;
const DEVICE: u32 = 1 << 26;
const NAMED_PIPE: u32 = 1 << 25;
const SOCKET: u32 = 1 << 24;
const SETUID: u32 = 1 << 23;
const SETGID: u32 = 1 << 22;
const CHAR_DEVICE: u32 = 1 << 21;
const STICKY: u32 = 1 << 20;

const TYPES: [(u32, u32); 6] = [
    (0o040_000, DIR),
    (0o120_000, SYMLINK),
    (0o060_000, DEVICE),
    (0o020_000, DEVICE | CHAR_DEVICE),
    (0o010_000, NAMED_PIPE),
    (0o140_000, SOCKET),
];
const SPECIAL: [(u32, u32); 3] = [(0o4000, SETUID), (0o2000, SETGID), (0o1000, STICKY)];

/// The Go value of a `st_mode`.
pub fn go_mode(st_mode: u32) -> u32 {
    let kind = TYPES.iter().find(|(unix, _)| st_mode & 0o170_000 == *unix);
    let special = SPECIAL.iter().filter(|(unix, _)| st_mode & unix != 0);
    special.map(|(_, go)| go).fold(st_mode & 0o777 | kind.map_or(0, |(_, go)| *go), |a, b| a | b)
}

/// The `st_mode` of a Go value.
pub fn unix_mode(go_mode: u32) -> u32 {
    const TYPE_BITS: u32 = DIR | SYMLINK | DEVICE | NAMED_PIPE | SOCKET | CHAR_DEVICE;
    let kind = TYPES.iter().find(|(_, go)| go_mode & TYPE_BITS == *go);
    let special = SPECIAL.iter().filter(|(_, go)| go_mode & go != 0);
    let base = go_mode & 0o777 | kind.map_or(0o100_000, |(unix, _)| *unix);
    special.map(|(unix, _)| unix).fold(base, |a, b| a | b)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_go_both_ways() {
        #[rustfmt::skip]
        let table = [
            (0o100_644, 0o644),
            (0o040_755, 0x8000_01ed),
            (0o041_777, 0x8010_01ff),
            (0o120_777, 0x0800_01ff),
            (0o060_660, 0x0400_01b0),
            (0o020_666, 0x0420_01b6),
            (0o010_600, 0x0200_0180),
            (0o140_755, 0x0100_01ed),
            (0o104_755, 0x0080_01ed),
            (0o102_755, 0x0040_01ed),
        ];
        for (unix, go) in table {
            assert_eq!(go_mode(unix), go, "{unix:o}");
            assert_eq!(unix_mode(go), unix, "{go:x}");
        }
    }
}
