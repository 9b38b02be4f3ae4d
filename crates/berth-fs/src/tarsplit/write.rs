//! Writing the records.

use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use flate2::Compression;
use flate2::write::GzEncoder;

use crate::tarsplit::{TYPE_FILE, TYPE_SEGMENT};

/// Longest piece of raw bytes in one line.
const MAX_SEGMENT: usize = 1 << 20;

/// Writes the records of one layer.
#[derive(Debug)]
pub struct Writer<W: Write> {
    out: GzEncoder<W>,
    line: Vec<u8>,
    text: String,
    position: u64,
}

impl<W: Write> Writer<W> {
    /// Writes a gzip stream to `out`.
    pub fn new(out: W) -> Self {
        Self {
            out: GzEncoder::new(out, Compression::fast()),
            line: Vec::new(),
            text: String::new(),
            position: 0,
        }
    }

    /// Records raw bytes. None are fine.
    pub fn segment(&mut self, bytes: &[u8]) -> io::Result<()> {
        for piece in bytes.chunks(MAX_SEGMENT) {
            self.text.clear();
            STANDARD.encode_string(piece, &mut self.text);
            self.line.clear();
            write!(
                self.line,
                r#"{{"type":{TYPE_SEGMENT},"payload":"{}","position":{}}}"#,
                self.text, self.position
            )?;
            self.end_line()?;
        }
        Ok(())
    }

    /// Records an entry of the archive; content of `size` bytes with this checksum follows
    /// there. Entries without content have no checksum.
    pub fn file(&mut self, name: &[u8], size: u64, checksum: Option<[u8; 8]>) -> io::Result<()> {
        self.line.clear();
        write!(self.line, r#"{{"type":{TYPE_FILE}"#)?;
        if let Ok(name) = std::str::from_utf8(name) {
            self.line.extend_from_slice(b",\"name\":");
            serde_json::to_writer(&mut self.line, name)?;
        } else {
            self.text.clear();
            STANDARD.encode_string(name, &mut self.text);
            write!(self.line, r#","name_raw":"{}""#, self.text)?;
        }
        if size > 0 {
            write!(self.line, r#","size":{size}"#)?;
        }
        match checksum {
            None => self.line.extend_from_slice(b",\"payload\":null"),
            Some(checksum) => {
                self.text.clear();
                STANDARD.encode_string(checksum, &mut self.text);
                write!(self.line, r#","payload":"{}""#, self.text)?;
            }
        }
        write!(self.line, r#","position":{}}}"#, self.position)?;
        self.end_line()
    }

    fn end_line(&mut self) -> io::Result<()> {
        self.line.push(b'\n');
        self.position += 1;
        self.out.write_all(&self.line)
    }

    /// Ends the gzip stream and gives the output back.
    pub fn finish(self) -> io::Result<W> {
        self.out.finish()
    }
}
