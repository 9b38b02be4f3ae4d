//! Content digests, and the ids made of them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

/// Why a digest was refused.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    #[error("invalid checksum digest format")]
    Format,
    #[error("unsupported digest algorithm")]
    Algorithm,
    #[error("invalid checksum digest length")]
    Length,
}

/// A SHA-256 content digest, printed as `sha256:` and 64 lower-case hex digits.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest(String);

const PREFIX: &str = "sha256:";

impl Digest {
    /// Reads `sha256:<64 hex>`.
    pub fn parse(text: &str) -> Result<Self, DigestError> {
        let Some((algorithm, hex)) = text.split_once(':') else {
            return Err(DigestError::Format);
        };
        if algorithm != "sha256" {
            return Err(DigestError::Algorithm);
        }
        Self::from_hex(hex)
    }

    /// Takes the 64 hex digits alone.
    pub fn from_hex(hex: &str) -> Result<Self, DigestError> {
        if hex.len() != 64 {
            return Err(DigestError::Length);
        }
        if !hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b)) {
            return Err(DigestError::Format);
        }
        Ok(Self(format!("{PREFIX}{hex}")))
    }

    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        Self::from_hash(Sha256::digest(bytes).as_slice())
    }

    /// Wraps a finished SHA-256 state: exactly 32 bytes.
    pub fn from_hash(hash: &[u8]) -> Self {
        Self(format!("{PREFIX}{}", crate::id::to_hex(hash)))
    }

    /// With the `sha256:` prefix.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The 64 hex digits.
    pub fn hex(&self) -> &str {
        &self.0[PREFIX.len()..]
    }

    /// The first 12 hex digits, as shown to people.
    pub fn short(&self) -> &str {
        &self.hex()[..12]
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Digest {
    type Err = DigestError;
    fn from_str(text: &str) -> Result<Self, DigestError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;
    fn try_from(text: String) -> Result<Self, DigestError> {
        Self::parse(&text)
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.0
    }
}

macro_rules! digest_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(Digest);

        impl $name {
            /// Reads `sha256:<64 hex>`.
            pub fn parse(text: &str) -> Result<Self, DigestError> {
                Digest::parse(text).map(Self)
            }
            /// The digest itself.
            pub fn digest(&self) -> &Digest {
                &self.0
            }
            /// With the `sha256:` prefix.
            pub fn as_str(&self) -> &str {
                self.0.as_str()
            }
            /// The 64 hex digits.
            pub fn hex(&self) -> &str {
                self.0.hex()
            }
            /// The first 12 hex digits.
            pub fn short(&self) -> &str {
                self.0.short()
            }
        }

        impl From<Digest> for $name {
            fn from(digest: Digest) -> Self {
                Self(digest)
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(&self.0, f)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&self.0, f)
            }
        }
    };
}

digest_id! {
    /// The digest of a layer's uncompressed tar, byte for byte as received.
    DiffId
}

digest_id! {
    /// The identity of a layer on top of its parents.
    ChainId
}

digest_id! {
    /// The digest of an image's config JSON as stored.
    ImageId
}

impl DiffId {
    /// The layer that changes nothing: a tar of 1024 zero bytes.
    pub fn empty() -> Self {
        Self(Digest::of(&[0; 1024]))
    }
}

impl ChainId {
    /// The chain id of `diff` on top of `parent`.
    pub fn of(parent: Option<&Self>, diff: &DiffId) -> Self {
        match parent {
            None => Self(diff.digest().clone()),
            Some(parent) => Self(Digest::of(format!("{parent} {diff}").as_bytes())),
        }
    }

    /// The chain ids of a whole image, base first.
    pub fn chain(diffs: &[DiffId]) -> Vec<Self> {
        let mut chain: Vec<Self> = Vec::with_capacity(diffs.len());
        for diff in diffs {
            chain.push(Self::of(chain.last(), diff));
        }
        chain
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_layer_has_dockers_well_known_diff_id() {
        assert_eq!(
            DiffId::empty().as_str(),
            "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef"
        );
    }

    #[test]
    fn a_chain_id_is_the_digest_of_parent_space_diff() {
        let diff = DiffId::empty();
        let chain = ChainId::chain(&[diff.clone(), diff.clone()]);
        assert_eq!(chain[0].as_str(), diff.as_str());
        assert_eq!(chain[1].digest(), &Digest::of(format!("{diff} {diff}").as_bytes()));
    }

    #[test]
    fn digests() {
        let hex = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        #[rustfmt::skip]
        let table: &[(String, Result<(), DigestError>)] = &[
            (format!("sha256:{hex}"),           Ok(())),
            (hex.to_owned(),                    Err(DigestError::Format)),
            (format!("sha512:{hex}"),           Err(DigestError::Algorithm)),
            ("sha256:abc".to_owned(),           Err(DigestError::Length)),
            (format!("sha256:{}", hex.to_uppercase()), Err(DigestError::Format)),
        ];
        for (text, expected) in table {
            assert_eq!(&Digest::parse(text).map(|_| ()), expected, "{text}");
        }
    }
}
