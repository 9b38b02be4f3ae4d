//! What query strings ask of the engine, as plain data.

use std::str::FromStr;

use berth_types::{Classify, ErrorKind, Timestamp};

use crate::filters::Filters;

/// `GET /containers/json`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ListOptions {
    /// Not only running ones.
    pub all: bool,
    /// The newest so many, running or not.
    pub limit: Option<usize>,
    /// With sizes.
    pub size: bool,
    /// Checked against the endpoint's keys.
    pub filters: Filters,
}

/// `DELETE /containers/{id}`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RemoveOptions {
    /// Its anonymous volumes too.
    pub volumes: bool,
    /// The link, not the container.
    pub link: bool,
    /// Even if it runs.
    pub force: bool,
}

/// When `POST /containers/{id}/wait` answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum WaitCondition {
    /// As soon as the container does not run; at once if it does not now.
    #[default]
    NotRunning,
    /// At the next exit, even if it does not run now.
    NextExit,
    /// When it is removed.
    Removed,
}

/// A condition that is none of the three.
#[expect(missing_docs, reason = "the message names the field")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("invalid condition: {text:?}")]
pub struct ConditionError {
    pub text: String,
}

impl Classify for ConditionError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

impl FromStr for WaitCondition {
    type Err = ConditionError;

    fn from_str(text: &str) -> Result<Self, ConditionError> {
        match text {
            "" | "not-running" => Ok(Self::NotRunning),
            "next-exit" => Ok(Self::NextExit),
            "removed" => Ok(Self::Removed),
            _ => Err(ConditionError { text: text.to_owned() }),
        }
    }
}

/// `GET /containers/{id}/logs`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogOptions {
    /// Lines of stdout.
    pub stdout: bool,
    /// Lines of stderr.
    pub stderr: bool,
    /// Go on until the container ends.
    pub follow: bool,
    /// Not before.
    pub since: Option<Timestamp>,
    /// Not after.
    pub until: Option<Timestamp>,
    /// Each line begins with its time.
    pub timestamps: bool,
    /// The last so many lines; all if `None`.
    pub tail: Option<usize>,
    /// Each line begins with the log driver's attributes.
    pub details: bool,
}

/// `POST /containers/{id}/attach`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AttachOptions {
    /// Send stdin.
    pub stdin: bool,
    /// Receive stdout.
    pub stdout: bool,
    /// Receive stderr.
    pub stderr: bool,
    /// Past output first.
    pub logs: bool,
    /// Output from now on.
    pub stream: bool,
    /// Keys that detach, such as `ctrl-p,ctrl-q`; the default if empty.
    pub detach_keys: String,
}

/// `PUT /containers/{id}/archive`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ArchivePutOptions {
    /// Refuse to put a directory over a file or the other way round.
    pub no_overwrite_dir_non_dir: bool,
    /// Owners as in the archive, not the container's user.
    pub copy_uid_gid: bool,
}

/// `POST /commit`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CommitOptions {
    /// The container's name or id.
    pub container: String,
    /// The new image's repository, if it gets a name.
    pub repo: Option<String>,
    /// The tag.
    pub tag: Option<String>,
    /// For the history.
    pub comment: String,
    /// For the image.
    pub author: String,
    /// Stop the processes while copying.
    pub pause: bool,
    /// Dockerfile instructions that change the configuration.
    pub changes: Vec<String>,
}

/// `GET /events`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EventFilter {
    /// Kept events from here on.
    pub since: Option<Timestamp>,
    /// The stream's end; at once when it is past.
    pub until: Option<Timestamp>,
    /// Checked against the endpoint's keys.
    pub filters: Filters,
}

/// `GET /system/df`: what to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DfTypes {
    /// Containers.
    pub containers: bool,
    /// Images and layers.
    pub images: bool,
    /// Volumes.
    pub volumes: bool,
    /// The build cache.
    pub build_cache: bool,
}

impl DfTypes {
    /// Everything.
    pub const ALL: Self = Self { containers: true, images: true, volumes: true, build_cache: true };
    /// Nothing.
    pub const NONE: Self =
        Self { containers: false, images: false, volumes: false, build_cache: false };
}

/// Whether a call changed anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changed {
    /// It did.
    Yes,
    /// The object already was as asked.
    NotModified,
}
