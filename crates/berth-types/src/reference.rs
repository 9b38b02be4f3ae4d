//! Names of images: `[domain/]path[:tag][@digest]`, as the distribution project defines them.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{Classify, Digest, DigestError, ErrorKind};

/// Why a reference was refused. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReferenceError {
    #[error("invalid reference format")]
    Format,
    #[error("invalid reference format: repository name ({name}) must be lowercase")]
    Uppercase { name: String },
    #[error("invalid repository name ({name}), cannot specify 64-byte hexadecimal strings")]
    LooksLikeId { name: String },
    #[error("repository name must not be more than 255 characters")]
    TooLong,
    #[error("invalid tag format")]
    Tag,
    #[error(transparent)]
    Digest(#[from] DigestError),
}

impl Classify for ReferenceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Format
            | Self::Uppercase { .. }
            | Self::LooksLikeId { .. }
            | Self::TooLong
            | Self::Tag
            | Self::Digest(_) => ErrorKind::InvalidParameter,
        }
    }
}

const DEFAULT_DOMAIN: &str = "docker.io";
const LEGACY_DOMAIN: &str = "index.docker.io";
const OFFICIAL: &str = "library/";
const DEFAULT_TAG: &str = "latest";
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A normalized image name, with or without tag and digest.
///
/// Prints in full, `docker.io/library/alpine:3.20`; [`familiar`](Self::familiar) is what people
/// write, `alpine:3.20`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    domain: String,
    path: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Reads a familiar or full name and normalizes it.
    ///
    /// ```
    /// # use berth_types::reference::Reference;
    /// let name = Reference::parse("alpine").unwrap();
    /// assert_eq!(name.with_default_tag().to_string(), "docker.io/library/alpine:latest");
    /// ```
    pub fn parse(text: &str) -> Result<Self, ReferenceError> {
        if is_id(text) {
            return Err(ReferenceError::LooksLikeId { name: text.to_owned() });
        }
        let (domain, remainder) = split_domain(text);
        let remote = remainder.split(':').next().unwrap_or_default();
        if remote.chars().any(char::is_uppercase) {
            return Err(ReferenceError::Uppercase { name: remote.to_owned() });
        }
        let (named, digest) = match remainder.split_once('@') {
            Some((named, digest)) => (named, Some(digest)),
            None => (remainder.as_str(), None),
        };
        let (path, tag) = match named.split_once(':') {
            Some((path, tag)) => (path, Some(tag)),
            None => (named, None),
        };
        if !is_domain(domain) || !is_path(path) || !tag.is_none_or(is_tag) {
            return Err(ReferenceError::Format);
        }
        if path.len() > NAME_MAX {
            return Err(ReferenceError::TooLong);
        }
        Ok(Self {
            domain: domain.to_owned(),
            path: path.to_owned(),
            tag: tag.map(str::to_owned),
            digest: digest.map(parse_digest).transpose()?,
        })
    }

    /// The registry, `docker.io` when none was given.
    pub fn domain(&self) -> &str {
        &self.domain
    }

    /// The repository on its registry, `library/alpine`.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// The tag, if one was given.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// The digest, if one was given.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// The full repository name, without tag and digest.
    pub fn name(&self) -> String {
        format!("{}/{}", self.domain, self.path)
    }

    /// The repository name as people write it.
    pub fn familiar_name(&self) -> String {
        if self.domain != DEFAULT_DOMAIN {
            return self.name();
        }
        match self.path.strip_prefix(OFFICIAL) {
            Some(official) if !official.contains('/') => official.to_owned(),
            _ => self.path.clone(),
        }
    }

    /// The whole reference as people write it.
    pub fn familiar(&self) -> String {
        format!("{}{}", self.familiar_name(), self.suffix())
    }

    /// Whether it has neither tag nor digest.
    pub fn is_name_only(&self) -> bool {
        self.tag.is_none() && self.digest.is_none()
    }

    /// With `latest` when it has neither tag nor digest.
    #[must_use]
    pub fn with_default_tag(mut self) -> Self {
        if self.is_name_only() {
            self.tag = Some(DEFAULT_TAG.to_owned());
        }
        self
    }

    /// The same repository with this tag and no digest.
    pub fn with_tag(&self, tag: &str) -> Result<Self, ReferenceError> {
        if !is_tag(tag) {
            return Err(ReferenceError::Tag);
        }
        Ok(Self { tag: Some(tag.to_owned()), digest: None, ..self.clone() })
    }

    /// The same repository with this digest and no tag.
    #[must_use]
    pub fn with_digest(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The repository alone.
    #[must_use]
    pub fn name_only(&self) -> Self {
        Self { tag: None, digest: None, ..self.clone() }
    }

    fn suffix(&self) -> String {
        let tag = self.tag.as_ref().map(|tag| format!(":{tag}")).unwrap_or_default();
        let digest = self.digest.as_ref().map(|digest| format!("@{digest}")).unwrap_or_default();
        tag + &digest
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}{}", self.domain, self.path, self.suffix())
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl std::str::FromStr for Reference {
    type Err = ReferenceError;
    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        Self::parse(text)
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;
    fn try_from(text: String) -> Result<Self, ReferenceError> {
        Self::parse(&text)
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

/// Whether the text is a full image id without its prefix: 64 lower-case hex digits.
pub fn is_id(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

/// Whether the text could be a tag: a word of at most 128 of `[A-Za-z0-9_.-]`, not starting with
/// a dot or a dash.
pub fn is_tag(text: &str) -> bool {
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    let starts_well = text.bytes().next().is_some_and(word);
    starts_well && text.len() <= TAG_MAX && text.bytes().all(|b| word(b) || b == b'.' || b == b'-')
}

fn split_domain(text: &str) -> (&str, String) {
    let is_host = |first: &str| {
        first.contains(['.', ':']) || first == "localhost" || first.to_lowercase() != first
    };
    let (domain, remainder) = match text.split_once('/') {
        Some((first, rest)) if is_host(first) => (first, rest),
        _ => (DEFAULT_DOMAIN, text),
    };
    let domain = if domain == LEGACY_DOMAIN { DEFAULT_DOMAIN } else { domain };
    if domain == DEFAULT_DOMAIN && !remainder.contains('/') {
        (domain, format!("{OFFICIAL}{remainder}"))
    } else {
        (domain, remainder.to_owned())
    }
}

fn is_domain(text: &str) -> bool {
    let (host, port) = match text.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
        Some((address, port)) => {
            let hex = |b: u8| b.is_ascii_hexdigit() || b == b':';
            if address.is_empty() || !address.bytes().all(hex) {
                return false;
            }
            ("", port)
        }
        None => text.split_at(text.find(':').unwrap_or(text.len())),
    };
    let port_ok = match port.strip_prefix(':') {
        Some(digits) => !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()),
        None => port.is_empty(),
    };
    port_ok && (text.starts_with('[') || host.split('.').all(is_domain_component))
}

fn is_domain_component(text: &str) -> bool {
    let inner = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
    !text.is_empty() && text.bytes().all(inner) && !text.starts_with('-') && !text.ends_with('-')
}

fn is_path(text: &str) -> bool {
    text.split('/').all(is_path_component)
}

/// Lower-case words joined by one dot, one or two underscores, or any number of dashes.
fn is_path_component(text: &str) -> bool {
    let word = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    if !text.starts_with(word) || !text.ends_with(word) {
        return false;
    }
    text.split(word)
        .filter(|between| !between.is_empty())
        .all(|between| matches!(between, "." | "_" | "__") || between.bytes().all(|b| b == b'-'))
}

/// `algorithm:hex`; a text that is not even that makes the whole reference malformed.
fn parse_digest(text: &str) -> Result<Digest, ReferenceError> {
    let (algorithm, hex) = text.split_once(':').ok_or(ReferenceError::Format)?;
    let algorithm_ok = algorithm.starts_with(|c: char| c.is_ascii_alphabetic())
        && algorithm.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_+.".contains(&b));
    if !algorithm_ok || hex.len() < 32 || !hex.bytes().all(|b| b.is_ascii_hexdigit()) {
        return Err(ReferenceError::Format);
    }
    Ok(Digest::parse(text)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";

    #[test]
    fn names_are_normalized() {
        let digest = format!("sha256:{HEX}");
        #[rustfmt::skip]
        let table = [
            // given                        full                                 familiar
            ("alpine",                      "docker.io/library/alpine",          "alpine"),
            ("alpine:3.20",                 "docker.io/library/alpine:3.20",     "alpine:3.20"),
            ("library/alpine",              "docker.io/library/alpine",          "alpine"),
            ("docker.io/alpine",            "docker.io/library/alpine",          "alpine"),
            ("index.docker.io/alpine:a",    "docker.io/library/alpine:a",        "alpine:a"),
            ("user/app",                    "docker.io/user/app",                "user/app"),
            ("library/a/b",                 "docker.io/library/a/b",             "library/a/b"),
            ("localhost/app",               "localhost/app",                     "localhost/app"),
            ("localhost:5000/app:x",        "localhost:5000/app:x",              "localhost:5000/app:x"),
            ("quay.io/a/b:T_1.-",           "quay.io/a/b:T_1.-",                 "quay.io/a/b:T_1.-"),
            ("[::1]:5000/app",              "[::1]:5000/app",                    "[::1]:5000/app"),
            ("Reg/app",                     "Reg/app",                           "Reg/app"),
            ("a__b/c--d.e_f",               "docker.io/a__b/c--d.e_f",           "a__b/c--d.e_f"),
        ];
        for (given, full, familiar) in table {
            for suffix in [String::new(), format!("@{digest}")] {
                let parsed = Reference::parse(&format!("{given}{suffix}")).unwrap();
                assert_eq!(parsed.to_string(), format!("{full}{suffix}"), "{given}");
                assert_eq!(parsed.familiar(), format!("{familiar}{suffix}"), "{given}");
                assert_eq!(Reference::parse(&parsed.to_string()), Ok(parsed), "{given}");
            }
        }
    }

    #[test]
    fn names_that_are_refused() {
        let long = "a".repeat(256);
        let short_digest = format!("a@sha256:{}", &HEX[..40]);
        let other_digest = format!("a@sha512:{HEX}");
        #[rustfmt::skip]
        let table = [
            ("",                "invalid reference format"),
            (":x",              "invalid reference format"),
            ("a:",              "invalid reference format"),
            ("a:-x",            "invalid reference format"),
            ("a@sha256:abc",    "invalid reference format"),
            ("a/",              "invalid reference format"),
            ("/a",              "invalid reference format"),
            ("a//b",            "invalid reference format"),
            ("a..b",            "invalid reference format"),
            ("a___b",           "invalid reference format"),
            ("-a",              "invalid reference format"),
            ("a b",             "invalid reference format"),
            ("http://x/y",      "invalid reference format"),
            ("x.y:/a",          "invalid reference format"),
            ("-x.y/a",          "invalid reference format"),
            ("Alpine",          "invalid reference format: repository name (library/Alpine) must be lowercase"),
            ("quay.io/Foo/b:X", "invalid reference format: repository name (Foo/b) must be lowercase"),
            (HEX,               "invalid repository name (5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef), cannot specify 64-byte hexadecimal strings"),
            (&long,             "repository name must not be more than 255 characters"),
            (&short_digest,     "invalid checksum digest length"),
            (&other_digest,     "unsupported digest algorithm"),
        ];
        for (given, message) in table {
            let error = Reference::parse(given).unwrap_err();
            assert_eq!(error.to_string(), message, "{given:?}");
        }
    }

    #[test]
    fn tags_and_digests_are_replaced() {
        let name = Reference::parse("alpine:3").unwrap();
        assert_eq!(name.with_tag("4").unwrap().familiar(), "alpine:4");
        assert_eq!(name.with_tag("a/b"), Err(ReferenceError::Tag));
        let digest = Digest::from_hex(HEX).unwrap();
        assert_eq!(name.with_digest(digest).familiar(), format!("alpine@sha256:{HEX}"));
        assert_eq!(name.name_only().with_default_tag().familiar(), "alpine:latest");
        assert_eq!(name.with_default_tag().familiar(), "alpine:3");
    }
}
