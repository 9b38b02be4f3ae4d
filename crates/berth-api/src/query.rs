//! Docker's ways of reading query strings.

use serde::{Deserialize, Deserializer};

/// A boolean of a query string: empty, `0`, `no`, `false` and `none` are false in any case of
/// letters and between blanks; all else is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DockerBool(pub bool);

impl DockerBool {
    /// Reads the text of a parameter.
    pub fn parse(text: &str) -> Self {
        let word = text.trim().to_lowercase();
        Self(!matches!(word.as_str(), "" | "0" | "no" | "false" | "none"))
    }
}

impl<'de> Deserialize<'de> for DockerBool {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer).map(|text| Self::parse(&text))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn docker_booleans() {
        #[rustfmt::skip]
        let table = [
            ("", false), ("0", false), ("no", false), ("False", false), ("NONE", false), (" ", false),
            ("1", true), ("true", true), ("yes", true), ("00", true), ("off", true), ("-1", true),
        ];
        for (text, expected) in table {
            assert_eq!(DockerBool::parse(text), DockerBool(expected), "{text:?}");
        }
    }
}
