//! Writing a log: lines from raw output, rotation.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::PathBuf;

use berth_types::Timestamp;

use crate::files::{self, failed};
use crate::{LogError, Stream, json};

/// A line longer than this is logged in pieces, as Docker does it.
const PIECE: usize = 16 * 1024;

/// Where and how to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WriterOptions {
    /// The live file.
    pub path: PathBuf,
    /// Rotate before a line is added to a file that has reached this many bytes.
    pub max_size: Option<u64>,
    /// How many files there are at most, the live one included.
    pub max_file: u32,
    /// Offer rotated files for compression, see [`Writer::take_rotated`].
    pub compress: bool,
    /// Attributes of every line.
    pub attrs: BTreeMap<String, String>,
}

/// Writes one container's log. One writer at a time for a log.
#[derive(Debug)]
pub struct Writer {
    options: WriterOptions,
    attrs: String,
    file: File,
    size: u64,
    held: [Held; 2],
    out: Vec<u8>,
    rotated: Option<PathBuf>,
    hold: bool,
}

/// The beginning of a line whose end has not come yet.
#[derive(Debug, Default)]
struct Held {
    bytes: Vec<u8>,
    since: Option<Timestamp>,
}

impl Writer {
    /// Opens the live file for appending, creating it (mode 0640) when missing, and mends what a
    /// crash left: an unfinished last line is ended, half-done compression is forgotten.
    pub fn open(options: WriterOptions) -> Result<Self, LogError> {
        files::mend(&options.path, options.max_file)?;
        let mut file = files::open_live(&options.path)?;
        let size = end_last_line(&mut file).map_err(failed("mend", &options.path))?;
        let attrs = json::encode_attrs(&options.attrs);
        let held = Default::default();
        Ok(Self { options, attrs, file, size, held, out: Vec::new(), rotated: None, hold: false })
    }

    /// Takes output as it was read. What ends with a newline is in the file when this returns; the
    /// beginning of a line is held, up to 16 KiB.
    ///
    /// After an error the lines of this call may be missing from the file; later calls try again
    /// with their own.
    pub fn write(&mut self, stream: Stream, bytes: &[u8], now: Timestamp) -> Result<(), LogError> {
        let mut rest = bytes;
        let mut result = Ok(());
        while !rest.is_empty() {
            let held = &mut self.held[stream as usize];
            let room = PIECE - held.bytes.len();
            let newline = rest[..rest.len().min(room)].iter().position(|byte| *byte == b'\n');
            let (taken, whole) = match newline {
                Some(at) => (at + 1, true),
                None => (rest.len().min(room), rest.len() >= room),
            };
            let (head, tail) = rest.split_at(taken);
            rest = tail;
            let time = held.since.unwrap_or(now);
            if whole && held.bytes.is_empty() {
                held.since = newline.is_none().then_some(time);
                result = result.and(self.record(stream, head, time));
                continue;
            }
            held.bytes.extend_from_slice(head);
            if whole {
                held.since = newline.is_none().then_some(time);
                let line = std::mem::take(&mut held.bytes);
                result = result.and(self.record(stream, &line, time));
            }
        }
        self.flush().and(result)
    }

    /// Writes what is held of an unfinished last line of `stream`: its end was reached.
    pub fn finish(&mut self, stream: Stream, now: Timestamp) -> Result<(), LogError> {
        let held = &mut self.held[stream as usize];
        let time = held.since.take().unwrap_or(now);
        let line = std::mem::take(&mut held.bytes);
        let result = if line.is_empty() { Ok(()) } else { self.record(stream, &line, time) };
        self.flush().and(result)
    }

    /// The file that was rotated out since the last call, when it is to be compressed: give it to
    /// [`compress`](crate::compress).
    pub fn take_rotated(&mut self) -> Option<PathBuf> {
        self.rotated.take()
    }

    /// Puts off rotation (the live file grows meanwhile), or allows it again.
    pub fn hold_rotation(&mut self, hold: bool) {
        self.hold = hold;
    }

    fn record(&mut self, stream: Stream, line: &[u8], time: Timestamp) -> Result<(), LogError> {
        let pending = u64::try_from(self.out.len()).unwrap_or(u64::MAX);
        let full = self.options.max_size.is_some_and(|max| self.size + pending >= max);
        let rotated =
            if full && !self.hold && self.rotated.is_none() { self.rotate() } else { Ok(()) };
        json::encode(&mut self.out, line, stream, &self.attrs, time);
        rotated
    }

    fn rotate(&mut self) -> Result<(), LogError> {
        self.flush()?;
        self.file = files::rotate(&self.options.path, self.options.max_file)?;
        self.size = 0;
        if self.options.compress && self.options.max_file > 1 {
            self.rotated = Some(files::numbered(&self.options.path, 1));
        }
        Ok(())
    }

    fn flush(&mut self) -> Result<(), LogError> {
        if self.out.is_empty() {
            return Ok(());
        }
        let result = self.file.write_all(&self.out);
        let written = u64::try_from(self.out.len()).unwrap_or(u64::MAX);
        self.out.clear();
        if self.out.capacity() > 2 * PIECE {
            self.out = Vec::new();
        }
        if let Err(error) = result {
            // A full disk may have taken half a line: end it, or the next one would be lost too.
            self.size = end_last_line(&mut self.file).unwrap_or(self.size);
            return Err(failed("write", &self.options.path)(error));
        }
        self.size += written;
        Ok(())
    }
}

/// Ends an unfinished last line and says how long the file is.
fn end_last_line(file: &mut File) -> std::io::Result<u64> {
    let size = file.seek(SeekFrom::End(0))?;
    if size == 0 {
        return Ok(0);
    }
    let mut last = [0];
    file.seek(SeekFrom::Start(size - 1))?;
    file.read_exact(&mut last)?;
    if last == *b"\n" {
        return Ok(size);
    }
    file.write_all(b"\n")?;
    Ok(size + 1)
}

#[cfg(test)]
mod tests;
