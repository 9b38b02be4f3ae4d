//! Reading and writing tar archives, byte-exactly.
//!
//! The reader takes ustar, GNU and PAX archives apart as Go's `archive/tar` does (the two must
//! agree on what an archive means, or an image would be one thing for Docker and another here),
//! and can keep the raw bytes of everything that is not file content, which tar-split needs.
//! Names are bytes; nothing here opens a file.

mod entry;
mod header;
mod pax;
mod reader;
mod sparse;
mod writer;

pub use entry::{Entry, Kind, Time};
pub use reader::{Reader, TarError};
pub use sparse::Extent;
pub use writer::TarWriter;

/// Archives consist of blocks of this size.
pub const BLOCK: usize = 512;

/// Longest PAX header, GNU long name or sparse map, as in Go's reader.
const MAX_SPECIAL: u64 = 1 << 20;

#[cfg(test)]
mod tests;
