//! Reading the lines.

use std::io::{BufRead, BufReader, Read};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::bufread::MultiGzDecoder;

use super::{AssembleError, Record, TYPE_FILE, TYPE_SEGMENT};

/// Longest line: segments of other writers are one header each, however long its PAX part.
const MAX_LINE: u64 = 64 << 20;

/// A line.
pub(super) enum Part {
    /// Bytes of the tar.
    Segment(Vec<u8>),
    /// The content of a file, which is elsewhere. It is not empty.
    File { name: Vec<u8>, size: u64, crc: [u8; 8] },
}

/// The lines of a gzipped tar-split.
pub(super) struct Records {
    input: BufReader<Box<dyn Read + Send>>,
    line: Vec<u8>,
}

impl Records {
    pub(super) fn new(gzipped: impl Read + Send + 'static) -> Self {
        let plain: Box<dyn Read + Send> = Box::new(MultiGzDecoder::new(BufReader::new(gzipped)));
        Self { input: BufReader::with_capacity(64 * 1024, plain), line: Vec::new() }
    }

    /// The next one; `None` after the last.
    pub(super) fn next(&mut self) -> Result<Option<Part>, AssembleError> {
        let damaged = |reason: String| AssembleError::Damaged { reason };
        self.line.clear();
        let count = (&mut self.input)
            .take(MAX_LINE)
            .read_until(b'\n', &mut self.line)
            .map_err(|error| damaged(error.to_string()))?;
        if count == 0 {
            return Ok(None);
        }
        let record: Record =
            serde_json::from_slice(&self.line).map_err(|error| damaged(error.to_string()))?;
        let decode = |text: &str| STANDARD.decode(text).map_err(|error| damaged(error.to_string()));
        let payload = decode(record.payload.as_deref().unwrap_or_default())?;
        match record.kind {
            TYPE_SEGMENT => Ok(Some(Part::Segment(payload))),
            TYPE_FILE if record.size == 0 => Ok(Some(Part::Segment(Vec::new()))),
            TYPE_FILE => {
                let name = match (record.name, record.name_raw) {
                    (Some(name), _) => name.into_bytes(),
                    (None, Some(raw)) => decode(&raw)?,
                    (None, None) => return Err(damaged("a file has no name".to_owned())),
                };
                let crc = <[u8; 8]>::try_from(payload.as_slice()).ok().ok_or_else(|| {
                    damaged(format!("{:?} has no checksum", String::from_utf8_lossy(&name)))
                })?;
                Ok(Some(Part::File { name, size: record.size, crc }))
            }
            other => Err(damaged(format!("a record has the unknown type {other}"))),
        }
    }
}
