//! One pass over a layer: decompress, hash, parse, extract, record.

use std::io::{self, BufRead, Read, Write};
use std::os::fd::BorrowedFd;
use std::sync::mpsc::{Receiver, SyncSender, channel, sync_channel};

use berth_types::{DiffId, Digest};
use sha2::{Digest as _, Sha256};

use crate::decompress::{self, Compression};
use crate::tar::Reader;
use crate::unpack::{UnpackError, UnpackOptions, Unpacked};

/// What became of an applied layer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// The digest of the uncompressed stream, trailing padding included.
    pub diff_id: DiffId,
    /// How many uncompressed bytes the stream had.
    pub tar_bytes: u64,
    /// How the input was compressed.
    pub compression: Compression,
    /// Sizes and counts of what was unpacked.
    pub unpacked: Unpacked,
}

/// Bytes handed from one thread to the next at a time, and how many such pieces there are.
const PIECE: usize = 256 * 1024;
const PIECES: usize = 8;

/// Unpacks a layer (plain, gzip or zstd) into the directory `dest`.
///
/// Hashes the whole uncompressed stream and, when `tar_split` is given, writes to it what
/// [`crate::tarsplit::Assembler`] needs to give the same bytes back. Reading and decompressing, and
/// hashing, each run on a thread of their own, for each takes about as long as the rest; after a
/// failure the call returns as soon as the present read of `input` does.
///
/// On failure `dest` holds a part of the layer; the caller removes it. Nothing is synced.
pub fn apply<R: Read + Send>(
    input: R,
    dest: BorrowedFd<'_>,
    options: &UnpackOptions,
    tar_split: Option<&mut dyn Write>,
) -> Result<Applied, UnpackError> {
    let (compression, plain) = decompress::open(input)?;
    let (full, read) = sync_channel(PIECES);
    let (hashed, filled) = sync_channel(PIECES);
    let (empty, emptied) = channel();
    for _ in 0..PIECES {
        // Both ends are alive here: the receiver is still in this function.
        empty
            .send(Vec::with_capacity(PIECE))
            .map_err(|error| UnpackError::Thread { source: io::Error::other(error.to_string()) })?;
    }
    std::thread::scope(|scope| {
        let thread = |name: &str| std::thread::Builder::new().name(name.to_owned());
        let failed = |source| UnpackError::Thread { source };
        thread("layer-read")
            .spawn_scoped(scope, move || read_pieces(plain, &full, &emptied))
            .map_err(failed)?;
        let hasher = thread("layer-hash")
            .spawn_scoped(scope, move || hash_pieces(&read, &hashed))
            .map_err(failed)?;
        let input = Pieces { filled, empty, piece: Vec::new(), at: 0, ended: false };
        // A reborrow with a shorter life, which the extraction shares with its options.
        let tar_split = tar_split.map(|out| -> &mut dyn Write { out });
        let unpacked = crate::unpack::run(Reader::new(input), dest, options, tar_split);
        let hash = hasher.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        let unpacked = unpacked?;
        let (hash, tar_bytes) = hash.ok_or_else(|| UnpackError::Thread {
            source: io::Error::other("the archive was not read to its end"),
        })?;
        Ok(Applied { diff_id: DiffId::from(hash), tar_bytes, compression, unpacked })
    })
}

/// The last one is empty, or an error.
type Piece = io::Result<Vec<u8>>;

/// Reads until the end, an error, or until the other side has lost interest.
fn read_pieces(
    mut plain: Box<dyn Read + Send + '_>,
    full: &SyncSender<Piece>,
    emptied: &Receiver<Vec<u8>>,
) {
    while let Ok(mut piece) = emptied.recv() {
        piece.clear();
        let read = (&mut plain).take(PIECE as u64).read_to_end(&mut piece);
        let is_last = read.is_err() || piece.is_empty();
        if full.send(read.map(|_| piece)).is_err() || is_last {
            return;
        }
    }
}

/// Hashes what it hands on; `None` when the other side lost interest or reading failed
/// (the other side then has the error).
fn hash_pieces(read: &Receiver<Piece>, hashed: &SyncSender<Piece>) -> Option<(Digest, u64)> {
    let mut hash = Sha256::new();
    let mut total = 0;
    loop {
        let piece = read.recv().ok()?;
        let (failed, ended) = (piece.is_err(), piece.as_ref().is_ok_and(Vec::is_empty));
        if let Ok(bytes) = &piece {
            hash.update(bytes);
            total += bytes.len() as u64;
        }
        hashed.send(piece).ok()?;
        if failed {
            return None;
        }
        if ended {
            return Some((Digest::from_hash(hash.finalize().as_slice()), total));
        }
    }
}

/// The other end: a buffered reader over the pieces.
struct Pieces {
    filled: Receiver<Piece>,
    empty: std::sync::mpsc::Sender<Vec<u8>>,
    piece: Vec<u8>,
    at: usize,
    ended: bool,
}

impl BufRead for Pieces {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.piece.len() && !self.ended {
            let old = std::mem::take(&mut self.piece);
            self.at = 0;
            if old.capacity() > 0 && self.empty.send(old).is_err() {
                tracing::trace!("the reading side has ended");
            }
            self.piece = self.filled.recv().map_err(io::Error::other)??;
            self.ended = self.piece.is_empty();
        }
        Ok(&self.piece[self.at..])
    }

    fn consume(&mut self, count: usize) {
        self.at += count;
    }
}

impl Read for Pieces {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let count = self.fill_buf()?.read(buf)?;
        self.consume(count);
        Ok(count)
    }
}
