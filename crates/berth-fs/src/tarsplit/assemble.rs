//! Giving the tar back.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use berth_types::{DiffId, Digest};
use rustix::fs::{FileType, Mode, OFlags};
use sha2::{Digest as _, Sha256};

use crate::root::Root;
use crate::tarsplit::Crc64;
use crate::tarsplit::records::{Part, Records};

/// Where the contents of a layer's files are.
pub trait FileSource {
    /// Opens the regular file that the archive calls `name`.
    fn open(&mut self, name: &Path) -> io::Result<File>;
}

impl FileSource for Root {
    fn open(&mut self, name: &Path) -> io::Result<File> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::NOCTTY;
        let mut clean = Vec::new();
        if !crate::unpack::clean(name.as_os_str().as_bytes(), &mut clean) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let file = self.open_at(Path::new(OsStr::from_bytes(&clean)), flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&file)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "not a regular file"));
        }
        Ok(file.into())
    }
}

impl<F: FnMut(&Path) -> io::Result<File>> FileSource for F {
    fn open(&mut self, name: &Path) -> io::Result<File> {
        self(name)
    }
}

/// Why a layer could not be given back: the inner error of the `io::Error` that reading an
/// [`Assembler`] ends with. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum AssembleError {
    #[error(
        "could not verify layer data for: {diff_id}. This may be because internal files in the \
         layer store were modified. Re-pulling or rebuilding this image may resolve the issue"
    )]
    Mismatch { diff_id: DiffId },
    #[error("file integrity checksum failed for {name:?}")]
    Checksum { name: String },
    #[error("cannot open {name:?} of the layer")]
    Open { name: String, source: io::Error },
    #[error("the layer's tar-split is damaged: {reason}")]
    Damaged { reason: String },
}

impl From<AssembleError> for io::Error {
    fn from(error: AssembleError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

enum State {
    /// Bytes of a segment, and how many of them were given.
    Segment(Vec<u8>, usize),
    Content {
        file: File,
        name: String,
        left: u64,
        crc: Crc64,
        expected: [u8; 8],
    },
    /// Everything was given and found right.
    Done,
    /// An error was reported; nothing more follows.
    Failed,
}

/// Gives back the tar that was applied, byte for byte, checking it while it is read.
///
/// The end of the stream is only reached when every file and the whole had the right digest;
/// otherwise the last read is an error.
pub struct Assembler<S> {
    records: Records,
    files: S,
    diff_id: DiffId,
    hash: Sha256,
    state: State,
}

impl<S> std::fmt::Debug for Assembler<S> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Assembler").field("diff_id", &self.diff_id).finish_non_exhaustive()
    }
}

impl<S: FileSource> Assembler<S> {
    /// `records` is the gzipped tar-split; `files` gives the contents; the whole must hash to
    /// `diff_id`.
    pub fn new(records: impl Read + Send + 'static, files: S, diff_id: DiffId) -> Self {
        Self {
            records: Records::new(records),
            files,
            diff_id,
            hash: Sha256::new(),
            state: State::Segment(Vec::new(), 0),
        }
    }

    /// Reads the next record, or finds the end and checks the whole.
    fn advance(&mut self) -> Result<State, AssembleError> {
        match self.records.next()? {
            None => {
                let hash = std::mem::take(&mut self.hash).finalize();
                if Digest::from_hash(hash.as_slice()) != *self.diff_id.digest() {
                    return Err(AssembleError::Mismatch { diff_id: self.diff_id.clone() });
                }
                Ok(State::Done)
            }
            Some(Part::Segment(bytes)) => Ok(State::Segment(bytes, 0)),
            Some(Part::File { name: raw, size: left, crc: expected }) => {
                let name = String::from_utf8_lossy(&raw).into_owned();
                let file = self
                    .files
                    .open(Path::new(OsStr::from_bytes(&raw)))
                    .map_err(|source| AssembleError::Open { name: name.clone(), source })?;
                Ok(State::Content { file, name, left, crc: Crc64::new(), expected })
            }
        }
    }

    fn step(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.state {
                State::Done => return Ok(0),
                State::Failed => {
                    return Err(io::Error::other("the layer could not be read before"));
                }
                State::Segment(bytes, given) if *given < bytes.len() => {
                    let count = buf.len().min(bytes.len() - *given);
                    buf[..count].copy_from_slice(&bytes[*given..*given + count]);
                    *given += count;
                    return Ok(count);
                }
                State::Content { file, name, left, crc, .. } if *left > 0 => {
                    let most = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    let count = match file.read(&mut buf[..most]) {
                        Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                        other => other?,
                    };
                    if count == 0 {
                        return Err(AssembleError::Checksum { name: name.clone() }.into());
                    }
                    crc.update(&buf[..count]);
                    *left -= count as u64;
                    return Ok(count);
                }
                State::Content { name, crc, expected, .. } if crc.finish() != *expected => {
                    return Err(AssembleError::Checksum { name: name.clone() }.into());
                }
                State::Segment(..) | State::Content { .. } => self.state = self.advance()?,
            }
        }
    }
}

impl<S: FileSource> Read for Assembler<S> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        match self.step(buf) {
            Ok(count) => {
                self.hash.update(&buf[..count]);
                Ok(count)
            }
            Err(error) => {
                self.state = State::Failed;
                Err(error)
            }
        }
    }
}
