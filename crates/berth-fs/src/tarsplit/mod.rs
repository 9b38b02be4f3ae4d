//! tar-split: a layer's headers and padding, so that its tar can be given back bit for bit.
//!
//! The format is Docker's: a gzip stream of JSON lines, each either a *segment* (type 2: raw
//! bytes in base64) or a *file* (type 1: a name, a size, and the CRC-64 of the content, which is
//! read from the unpacked layer). Content that cannot be read back there (sparse files, aufs
//! metadata) is kept as segments.

mod assemble;
mod crc64;
mod outline;
mod records;
mod write;

pub use assemble::{AssembleError, Assembler, FileSource};
pub(crate) use crc64::Crc64;
pub use outline::{Brought, Outline, Sum, outline};
pub use write::Writer;

use serde::Deserialize;

const TYPE_FILE: u8 = 1;
const TYPE_SEGMENT: u8 = 2;

/// One line, as read back.
#[derive(Debug, Deserialize)]
struct Record {
    #[serde(rename = "type")]
    kind: u8,
    #[serde(default)]
    name: Option<String>,
    /// The name in base64 when it is not UTF-8.
    #[serde(default)]
    name_raw: Option<String>,
    #[serde(default)]
    size: u64,
    #[serde(default)]
    payload: Option<String>,
}

#[cfg(test)]
mod tests;
