//! One line of a container's output.

use std::collections::BTreeMap;

use berth_types::Timestamp;

/// Which of the container's streams a line came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Stream {
    /// Standard output, and everything from a terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// One record of a log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Where it came from.
    pub stream: Stream,
    /// When the watcher read it.
    pub time: Timestamp,
    /// The bytes as written; ends with a newline unless it is a piece of a line longer than 16 KiB
    /// or the last output without one.
    pub line: Vec<u8>,
    /// The attributes of `labels`, `env` and `tag` options, for `docker logs --details`.
    pub attrs: BTreeMap<String, String>,
}
