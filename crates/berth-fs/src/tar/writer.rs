//! Writing archives as Docker does: ustar headers, PAX records where ustar cannot say it.

use std::io::{self, Write};

use crate::tar::BLOCK;
use crate::tar::entry::{Entry, Kind};
use crate::tar::pax::write_record;

const NAME: usize = 100;
/// Largest number in a field of eight bytes, and in one of twelve.
const MAX_8: u64 = 0o777_7777;
const MAX_12: u64 = 0o777_7777_7777;

/// Writes an archive entry by entry.
///
/// Times are written in whole seconds, as Docker does for layers.
#[derive(Debug)]
pub struct TarWriter<W> {
    out: W,
    padding: usize,
    pax: Vec<u8>,
}

impl<W: Write> TarWriter<W> {
    /// Writes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, padding: 0, pax: Vec::new() }
    }

    /// Begins an entry. The caller then writes exactly `entry.size` bytes to
    /// [`content`](Self::content), and calls [`end_content`](Self::end_content).
    pub fn header(&mut self, entry: &Entry) -> io::Result<()> {
        self.pax.clear();
        if needs_record(&entry.path) {
            write_record(&mut self.pax, b"path", &entry.path);
        }
        if needs_record(&entry.link) {
            write_record(&mut self.pax, b"linkpath", &entry.link);
        }
        for (key, value, max) in [
            (&b"uid"[..], entry.uid, MAX_8),
            (b"gid", entry.gid, MAX_8),
            (b"size", entry.size, MAX_12),
        ] {
            if value > max {
                write_record(&mut self.pax, key, value.to_string().as_bytes());
            }
        }
        let seconds = entry.mtime.seconds;
        if u64::try_from(seconds).ok().is_none_or(|seconds| seconds > MAX_12) {
            write_record(&mut self.pax, b"mtime", seconds.to_string().as_bytes());
        }
        for (name, value) in &entry.xattrs {
            let key = [b"SCHILY.xattr.", name.as_slice()].concat();
            write_record(&mut self.pax, &key, value);
        }
        if !self.pax.is_empty() {
            self.pax_header(&entry.path)?;
        }
        self.out.write_all(&block(entry, flag(entry.kind)))?;
        self.padding = padding_of(entry.size);
        Ok(())
    }

    /// Where the content of the entry goes.
    pub fn content(&mut self) -> &mut W {
        &mut self.out
    }

    /// Pads the content that was written.
    pub fn end_content(&mut self) -> io::Result<()> {
        let padding = std::mem::take(&mut self.padding);
        self.out.write_all(&[0; BLOCK][..padding])
    }

    /// Writes the end mark and gives the output back.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 2 * BLOCK])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn pax_header(&mut self, path: &[u8]) -> io::Result<()> {
        let trimmed = path.strip_suffix(b"/").unwrap_or(path);
        let split = trimmed.iter().rposition(|&byte| byte == b'/').map_or(0, |at| at + 1);
        let (dir, base) = trimmed.split_at(split);
        let mut name = [dir, b"PaxHeaders.0/", base].concat();
        name.retain(u8::is_ascii);
        name.truncate(NAME);
        let size = self.pax.len() as u64;
        let header = Entry { path: name, size, kind: Kind::File, ..Entry::default() };
        self.out.write_all(&block(&header, b'x'))?;
        self.out.write_all(&self.pax)?;
        self.out.write_all(&[0; BLOCK][..padding_of(size)])
    }
}

fn needs_record(name: &[u8]) -> bool {
    name.len() > NAME || !name.is_ascii()
}

fn padding_of(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

fn flag(kind: Kind) -> u8 {
    match kind {
        Kind::File => b'0',
        Kind::HardLink => b'1',
        Kind::Symlink => b'2',
        Kind::CharDevice => b'3',
        Kind::BlockDevice => b'4',
        Kind::Directory => b'5',
        Kind::Fifo => b'6',
        Kind::Global => b'g',
        Kind::Other(flag) => flag,
    }
}

/// Octal with leading zeros and a NUL; 0 when it does not fit (a PAX record has it then).
fn octal(field: &mut [u8], value: u64) {
    let digits = field.len() - 1;
    let fits = value < 1 << (3 * digits);
    let mut rest = if fits { value } else { 0 };
    for place in field[..digits].iter_mut().rev() {
        *place = b'0' + u8::try_from(rest & 7).unwrap_or(0);
        rest >>= 3;
    }
    field[digits] = 0;
}

fn put_text(field: &mut [u8], text: &[u8]) {
    let ascii = text.iter().copied().filter(u8::is_ascii);
    for (place, byte) in field.iter_mut().zip(ascii) {
        *place = byte;
    }
}

fn block(entry: &Entry, flag: u8) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    put_text(&mut block[..100], &entry.path);
    octal(&mut block[100..108], u64::from(entry.mode));
    octal(&mut block[108..116], entry.uid);
    octal(&mut block[116..124], entry.gid);
    octal(&mut block[124..136], entry.size);
    octal(&mut block[136..148], u64::try_from(entry.mtime.seconds).unwrap_or(0));
    block[156] = flag;
    put_text(&mut block[157..257], &entry.link);
    block[257..265].copy_from_slice(b"ustar\x0000");
    octal(&mut block[329..337], u64::from(entry.device.0));
    octal(&mut block[337..345], u64::from(entry.device.1));
    block[148..156].copy_from_slice(b"        ");
    let sum: u64 = block.iter().map(|&byte| u64::from(byte)).sum();
    octal(&mut block[148..155], sum);
    block[155] = b' ';
    block
}
