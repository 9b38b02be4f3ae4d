//! Random 64-digit ids: containers, layers as the drivers name them, execs, networks.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an id was refused.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    #[error("an id has 64 hexadecimal digits, not {got}")]
    Length { got: usize },
    #[error("byte {at} of an id is not a lower-case hexadecimal digit")]
    Char { at: usize },
}

/// Lower-case hex digits of `bytes`.
pub fn to_hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let mut text = String::with_capacity(bytes.len() * 2);
    for byte in bytes {
        text.push(char::from(DIGITS[usize::from(byte >> 4)]));
        text.push(char::from(DIGITS[usize::from(byte & 15)]));
    }
    text
}

fn check_hex(text: &str) -> Result<(), IdError> {
    if text.len() != 64 {
        return Err(IdError::Length { got: text.len() });
    }
    let bad = |b: u8| !(b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    match text.bytes().position(bad) {
        Some(at) => Err(IdError::Char { at }),
        None => Ok(()),
    }
}

/// 64 random lower-case hex digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct HexId(String);

impl HexId {
    /// A new random id.
    ///
    /// Never 12 digits that all look like a number, so that a short id used as a
    /// host name is not taken for one (Docker does the same).
    pub fn random() -> Self {
        loop {
            let mut bytes = [0; 32];
            getrandom::fill(&mut bytes).expect("the kernel's random source answers");
            let text = to_hex(&bytes);
            if !text[..12].bytes().all(|b| b.is_ascii_digit()) {
                return Self(text);
            }
        }
    }

    /// Takes 64 lower-case hex digits.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_hex(text)?;
        Ok(Self(text.to_owned()))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as shown to people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl fmt::Display for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for HexId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for HexId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<HexId> for String {
    fn from(id: HexId) -> Self {
        id.0
    }
}

/// A container's id.
pub type ContainerId = HexId;

/// A layer as a storage driver names it on disk: 64 hex digits, or those and `-init`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LayerId(String);

const INIT: &str = "-init";

impl LayerId {
    /// A new random id.
    pub fn random() -> Self {
        Self(HexId::random().into())
    }

    /// Takes 64 lower-case hex digits, with or without `-init`.
    pub fn parse(text: &str) -> Result<Self, IdError> {
        check_hex(text.strip_suffix(INIT).unwrap_or(text))?;
        Ok(Self(text.to_owned()))
    }

    /// The init layer that stands below this container layer.
    #[must_use]
    pub fn init(&self) -> Self {
        Self(format!("{}{INIT}", self.0))
    }

    /// Whether this is an init layer.
    pub fn is_init(&self) -> bool {
        self.0.ends_with(INIT)
    }

    /// The name of the directory, dataset or device.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for LayerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl TryFrom<String> for LayerId {
    type Error = IdError;
    fn try_from(text: String) -> Result<Self, IdError> {
        Self::parse(&text)
    }
}

impl From<LayerId> for String {
    fn from(id: LayerId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layer_ids() {
        let hex = "0123456789abcdef".repeat(4);
        #[rustfmt::skip]
        let table: &[(String, Result<bool, IdError>)] = &[
            (hex.clone(),               Ok(false)),
            (format!("{hex}-init"),     Ok(true)),
            (format!("{hex}-init-init"), Err(IdError::Length { got: 69 })),
            ("../etc".to_owned(),       Err(IdError::Length { got: 6 })),
            (format!("/{}", &hex[1..]), Err(IdError::Char { at: 0 })),
        ];
        for (text, expected) in table {
            assert_eq!(&LayerId::parse(text).map(|id| id.is_init()), expected, "{text}");
        }
    }
}
