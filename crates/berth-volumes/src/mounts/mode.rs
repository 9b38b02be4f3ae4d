//! The mode text of `-v SOURCE:DESTINATION:MODE` and `--volumes-from CONTAINER:MODE`.

/// A mode text, read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Mode<'a> {
    pub(super) read_only: bool,
    pub(super) no_copy: bool,
    pub(super) propagation: &'a str,
}

/// The propagations of a bind mount.
pub(super) const PROPAGATIONS: [&str; 6] =
    ["private", "rprivate", "slave", "rslave", "shared", "rshared"];

impl<'a> Mode<'a> {
    /// At most one word of each class, separated by commas; `None` for anything else.
    pub(super) fn parse(text: &'a str) -> Option<Self> {
        let mut mode = Self::default();
        if text.is_empty() {
            return Some(mode);
        }
        let [mut access, mut label, mut propagation, mut copy, mut consistency] = [0_u8; 5];
        for word in text.split(',') {
            let count = match word {
                "rw" => &mut access,
                "ro" => {
                    mode.read_only = true;
                    &mut access
                }
                "z" | "Z" => &mut label,
                "nocopy" => {
                    mode.no_copy = true;
                    &mut copy
                }
                "consistent" | "cached" | "delegated" => &mut consistency,
                _ if PROPAGATIONS.contains(&word) => {
                    mode.propagation = word;
                    &mut propagation
                }
                _ => return None,
            };
            if *count == 1 {
                return None;
            }
            *count = 1;
        }
        Some(mode)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes() {
        let mode = |read_only, no_copy, propagation| Some(Mode { read_only, no_copy, propagation });
        #[rustfmt::skip]
        let table = [
            ("",                    mode(false, false, "")),
            ("rw",                  mode(false, false, "")),
            ("ro",                  mode(true,  false, "")),
            ("ro,Z,rslave,cached",  mode(true,  false, "rslave")),
            ("nocopy,z",            mode(false, true,  "")),
            ("shared",              mode(false, false, "shared")),
            ("rw,ro",               None),
            ("z,Z",                 None),
            ("shared,rshared",      None),
            ("nocopy,nocopy",       None),
            ("cached,delegated",    None),
            ("default",             None),
            ("RO",                  None),
            ("ro,",                 None),
            (",",                   None),
        ];
        for (text, expected) in table {
            assert_eq!(Mode::parse(text), expected, "{text:?}");
        }
    }
}
