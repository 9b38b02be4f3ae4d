//! Versions of the API, and what changed between them.

use std::fmt;
use std::str::FromStr;

use berth_types::{Classify, ErrorKind};

/// A version of the API; versions compare by number, part for part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ApiVersion {
    major: u16,
    minor: u16,
}

/// Why a version in a path was refused. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum VersionError {
    #[error("{text:?} is not a version of the API")]
    Malformed { text: String },
    #[error(
        "client version {version} is too old. Minimum supported API version is {min}, please upgrade your client to a newer version",
        min = ApiVersion::MIN
    )]
    TooOld { version: ApiVersion },
    #[error(
        "client version {version} is too new. Maximum supported API version is {max}",
        max = ApiVersion::MAX
    )]
    TooNew { version: ApiVersion },
}

impl Classify for VersionError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Malformed { .. } | Self::TooOld { .. } | Self::TooNew { .. } => {
                ErrorKind::InvalidParameter
            }
        }
    }
}

impl ApiVersion {
    /// The oldest version answered.
    pub const MIN: Self = Self::new(1, 24);
    /// The newest version, and that of paths without one.
    pub const MAX: Self = Self::new(1, 51);

    /// The version `major.minor`.
    pub const fn new(major: u16, minor: u16) -> Self {
        Self { major, minor }
    }

    /// Refuses versions that are not answered.
    pub fn supported(self) -> Result<Self, VersionError> {
        if self < Self::MIN {
            Err(VersionError::TooOld { version: self })
        } else if self > Self::MAX {
            Err(VersionError::TooNew { version: self })
        } else {
            Ok(self)
        }
    }

    /// Whether this is at least `1.minor`.
    pub fn at_least(self, minor: u16) -> bool {
        self >= Self::new(1, minor)
    }

    /// Whether streams of containers without a terminal say so in their media type.
    pub fn names_multiplexed_streams(self) -> bool {
        self.at_least(42)
    }

    /// Whether `AutoRemove` is heard; before, the client removed.
    pub fn has_auto_remove(self) -> bool {
        self.at_least(25)
    }

    /// Whether containers have a private IPC namespace unless they ask; before, a shareable one.
    pub fn has_private_ipc(self) -> bool {
        self.at_least(40)
    }

    /// Whether `NonRecursive` of bind mounts is heard.
    pub fn has_non_recursive_binds(self) -> bool {
        self.at_least(40)
    }

    /// Whether create takes a platform and a cgroup namespace mode.
    pub fn has_platform(self) -> bool {
        self.at_least(41)
    }

    /// Whether mounts are strictly checked, and `CreateMountpoint` and `ConsoleSize` heard.
    pub fn has_strict_mounts(self) -> bool {
        self.at_least(42)
    }

    /// Whether stop and restart take a signal.
    pub fn has_stop_signal(self) -> bool {
        self.at_least(42)
    }

    /// Whether volume prune removes anonymous volumes only, unless told `all`.
    pub fn prunes_anonymous_volumes_only(self) -> bool {
        self.at_least(42)
    }

    /// Whether `system df` can be told what to count.
    pub fn has_df_types(self) -> bool {
        self.at_least(42)
    }

    /// Whether annotations are heard.
    pub fn has_annotations(self) -> bool {
        self.at_least(43)
    }

    /// Whether an untagged image lists nothing, rather than `<none>:<none>`.
    pub fn has_empty_repo_tags(self) -> bool {
        self.at_least(43)
    }

    /// Whether a new container may join several networks.
    pub fn has_many_networks(self) -> bool {
        self.at_least(44)
    }

    /// Whether images list `VirtualSize`.
    pub fn has_virtual_size(self) -> bool {
        !self.at_least(44)
    }

    /// Whether `StartInterval` and the read-only bind options are heard.
    pub fn has_start_interval(self) -> bool {
        self.at_least(44)
    }

    /// Whether volumes may be mounted in part.
    pub fn has_volume_subpath(self) -> bool {
        self.at_least(45)
    }

    /// Whether image inspect tells of the container it was made in.
    pub fn has_image_container(self) -> bool {
        !self.at_least(45)
    }

    /// Whether network aliases carry the short container id.
    pub fn has_short_id_aliases(self) -> bool {
        !self.at_least(45)
    }

    /// Whether tmpfs mounts take options.
    pub fn has_tmpfs_options(self) -> bool {
        self.at_least(46)
    }

    /// Whether images can be mounted.
    pub fn has_image_mounts(self) -> bool {
        self.at_least(48)
    }

    /// Whether image inspect prints the empty legacy fields of the configuration.
    pub fn has_legacy_image_config(self) -> bool {
        !self.at_least(50)
    }

    /// Whether the image list counts containers.
    pub fn counts_image_containers(self) -> bool {
        self.at_least(51)
    }
}

impl Default for ApiVersion {
    fn default() -> Self {
        Self::MAX
    }
}

impl fmt::Display for ApiVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl FromStr for ApiVersion {
    type Err = VersionError;

    fn from_str(text: &str) -> Result<Self, VersionError> {
        let digits = |part: &str| {
            let all = !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
            // A number beyond 16 bits is too new whatever it is.
            all.then(|| part.parse().unwrap_or(u16::MAX))
        };
        let parts = text.split_once('.').and_then(|(a, b)| Some((digits(a)?, digits(b)?)));
        match parts {
            Some((major, minor)) => Ok(Self { major, minor }),
            None => Err(VersionError::Malformed { text: text.to_owned() }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions() {
        #[rustfmt::skip]
        let table = [
            ("1.24", None),
            ("1.51", None),
            ("1.12", Some("client version 1.12 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version")),
            ("1.9",  Some("client version 1.9 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version")),
            ("1.99", Some("client version 1.99 is too new. Maximum supported API version is 1.51")),
            ("2.0",  Some("client version 2.0 is too new. Maximum supported API version is 1.51")),
            ("1",    Some("\"1\" is not a version of the API")),
            ("1.",   Some("\"1.\" is not a version of the API")),
            ("1.+4", Some("\"1.+4\" is not a version of the API")),
        ];
        for (text, refused) in table {
            let got = text.parse::<ApiVersion>().and_then(ApiVersion::supported);
            assert_eq!(got.err().map(|e| e.to_string()), refused.map(str::to_owned), "{text}");
        }
    }
}
