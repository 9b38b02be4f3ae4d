//! What a volume may be called.

use berth_types::HexId;

use crate::VolumeError;

/// The longest name: with berth's staging prefixes it still is one directory entry.
const LONGEST: usize = 255 - 16;

/// Checks a name that a request gives to a local volume: `[a-zA-Z0-9][a-zA-Z0-9_.-]+`.
pub fn check_name(name: &str) -> Result<(), VolumeError> {
    if name.len() == 1 {
        return Err(VolumeError::NameTooShort { name: name.to_owned() });
    }
    if !is_valid(name) {
        return Err(VolumeError::NameInvalid { name: name.to_owned() });
    }
    if name.len() > LONGEST {
        return Err(VolumeError::NameTooLong { name: name.to_owned() });
    }
    Ok(())
}

/// Whether a directory entry can be a local volume.
pub(crate) fn is_valid(name: &str) -> bool {
    let first = name.bytes().next().is_some_and(|b| b.is_ascii_alphanumeric());
    let rest = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    first && name.len() > 1 && name.bytes().skip(1).all(rest)
}

/// A new name for a volume that nobody named: 64 random hex digits.
pub fn anonymous_name() -> String {
    HexId::random().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_names() {
        let long = "a".repeat(LONGEST + 1);
        let invalid = |name: &str| {
            format!(
                "create {name}: \"{name}\" includes invalid characters for a local volume name, \
                 only \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host \
                 directory, use absolute path"
            )
        };
        #[rustfmt::skip]
        let table: &[(&str, Option<String>)] = &[
            ("data",    None),
            ("a.b_c-9", None),
            ("9z",      None),
            ("a",       Some("create a: volume name is too short, names should be at least two alphanumeric characters".to_owned())),
            ("",        Some(invalid(""))),
            ("../etc",  Some(invalid("../etc"))),
            (".hidden", Some(invalid(".hidden"))),
            ("a/b",     Some(invalid("a/b"))),
            ("ä5",      Some(invalid("ä5"))),
            (&long,     Some(format!("create {long}: file name too long"))),
        ];
        for (name, expected) in table {
            let got = check_name(name).err().map(|e| e.to_string());
            assert_eq!(&got, expected, "{name:?}");
        }
    }
}
