//! The members of a tar, one after the other, with bounds on everything a header can ask for.
//!
//! This reads the archive that *carries* images. It only looks at names, types and sizes; nothing
//! is ever made in the file system under a name from here.

use std::io::{self, Read};

use super::ArchiveError;

const BLOCK: usize = 512;
/// The longest name or link target.
const MAX_NAME: u64 = 4096;
/// The largest block of extended attributes before a member.
const MAX_PAX: u64 = 1 << 20;

/// A member's header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Member {
    pub(super) name: String,
    pub(super) kind: Kind,
    pub(super) size: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    File,
    Directory,
    Symlink(String),
    HardLink(String),
    /// A device, a pipe: of no use in an archive of images.
    Other,
}

/// Reads members; the content of the last one is what [`Read`] gives.
pub(super) struct Members<R> {
    input: R,
    /// Content of the current member that was not read.
    left: u64,
    /// Bytes after it that fill its last block.
    padding: u64,
}

/// What helper headers say about the member that follows.
#[derive(Default)]
struct Extended {
    name: Option<String>,
    link: Option<String>,
    size: Option<u64>,
    sparse: bool,
}

impl<R: Read> Members<R> {
    pub(super) fn new(input: R) -> Self {
        Self { input, left: 0, padding: 0 }
    }

    /// The next member; what was not read of the one before is skipped.
    pub(super) fn next(&mut self) -> Result<Option<Member>, ArchiveError> {
        let mut extended = Extended::default();
        loop {
            self.skip()?;
            let Some(header) = self.header()? else { return Ok(None) };
            let size = header.entry_size().map_err(|_bad| ArchiveError::Header)?;
            self.begin(size);
            match header.as_bytes()[156] {
                b'L' => extended.name = Some(self.text(MAX_NAME)?),
                b'K' => extended.link = Some(self.text(MAX_NAME)?),
                b'x' => self.pax(&mut extended)?,
                // Attributes for all that follows: none that matters here.
                b'g' => {}
                kind => return self.member(&header, kind, extended).map(Some),
            }
        }
    }

    /// Reads to the end of the whole input, past the end of the archive, so that a client can
    /// finish sending.
    pub(super) fn drain(mut self) -> Result<(), ArchiveError> {
        io::copy(&mut self.input, &mut io::sink()).map_err(ArchiveError::read)?;
        Ok(())
    }

    fn member(
        &mut self,
        header: &tar::Header,
        kind: u8,
        extended: Extended,
    ) -> Result<Member, ArchiveError> {
        let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let name = extended.name.unwrap_or_else(|| lossy(&header.path_bytes()));
        if extended.sparse || kind == b'S' {
            return Err(ArchiveError::Sparse { name });
        }
        if let Some(size) = extended.size {
            self.begin(size);
        }
        let link = || {
            let own = header.link_name_bytes().map(|bytes| lossy(&bytes));
            extended.link.or(own).unwrap_or_default()
        };
        let kind = match kind {
            // A name with a slash at its end is a directory in the oldest format.
            b'0' | 0 | b'7' if name.ends_with('/') => Kind::Directory,
            b'0' | 0 | b'7' => Kind::File,
            b'1' => Kind::HardLink(link()),
            b'2' => Kind::Symlink(link()),
            b'5' => Kind::Directory,
            _ => Kind::Other,
        };
        if kind != Kind::File && !matches!(kind, Kind::Other) && extended.size.is_none() {
            // Links and directories carry no content, whatever size their header names.
            self.begin(0);
        }
        Ok(Member { name, kind, size: self.left })
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = (BLOCK as u64 - size % BLOCK as u64) % BLOCK as u64;
    }

    fn skip(&mut self) -> Result<(), ArchiveError> {
        let wanted = self.left.saturating_add(self.padding);
        let skipped = io::copy(&mut (&mut self.input).take(wanted), &mut io::sink())
            .map_err(ArchiveError::read)?;
        if skipped != wanted {
            return Err(ArchiveError::Truncated);
        }
        self.left = 0;
        self.padding = 0;
        Ok(())
    }

    /// The next header block; `None` at the end of the archive.
    fn header(&mut self) -> Result<Option<tar::Header>, ArchiveError> {
        let mut block = [0; BLOCK];
        let mut filled = 0;
        while filled < BLOCK {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(None),
                Ok(0) => return Err(ArchiveError::Truncated),
                Ok(n) => filled += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(ArchiveError::read(error)),
            }
        }
        if block.iter().all(|&byte| byte == 0) {
            return Ok(None);
        }
        let header = tar::Header::from_byte_slice(&block).clone();
        let sum: u32 = block
            .iter()
            .enumerate()
            .map(|(at, &byte)| if (148..156).contains(&at) { 32 } else { u32::from(byte) })
            .sum();
        match header.cksum() {
            Ok(stored) if stored == sum => Ok(Some(header)),
            _ => Err(ArchiveError::Header),
        }
    }

    fn bytes(&mut self, most: u64) -> Result<Vec<u8>, ArchiveError> {
        if self.left > most {
            return Err(ArchiveError::Header);
        }
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(ArchiveError::read)?;
        Ok(bytes)
    }

    fn text(&mut self, most: u64) -> Result<String, ArchiveError> {
        let bytes = self.bytes(most)?;
        let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
        Ok(String::from_utf8_lossy(&bytes[..end]).into_owned())
    }

    fn pax(&mut self, extended: &mut Extended) -> Result<(), ArchiveError> {
        let bytes = self.bytes(MAX_PAX)?;
        for record in tar::PaxExtensions::new(&bytes) {
            let record = record.map_err(|_bad| ArchiveError::Header)?;
            let text = || {
                let bytes = record.value_bytes();
                if bytes.len() as u64 > MAX_NAME {
                    return Err(ArchiveError::Header);
                }
                Ok(Some(String::from_utf8_lossy(bytes).into_owned()))
            };
            match record.key_bytes() {
                b"path" => extended.name = text()?,
                b"linkpath" => extended.link = text()?,
                b"size" => {
                    let size = record.value().ok().and_then(|size| size.parse().ok());
                    extended.size = Some(size.ok_or(ArchiveError::Header)?);
                }
                key => extended.sparse |= key.starts_with(b"GNU.sparse."),
            }
        }
        Ok(())
    }
}

impl<R: Read> Read for Members<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        if most == 0 {
            return Ok(0);
        }
        let read = self.input.read(&mut buffer[..most])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
