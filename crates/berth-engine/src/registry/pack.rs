//! A layer as the body of an upload: its tar, rebuilt, compressed and hashed while it is sent.

use std::io::{self, Read, Write as _};
use std::sync::Arc;

use berth_images::ImageStore;
use berth_registry::RegistryError;
use berth_types::{ChainId, Digest};
use bytes::Bytes;
use flate2::Compression;
use flate2::write::GzEncoder;
use tokio::sync::mpsc;

use super::progress::far;
use super::send::registry;
use crate::error::EngineError;
use crate::images::MessageSender;

/// How many bytes of a layer are read between two reports.
const REPORT_EVERY: u64 = 512 << 10;
/// How large the pieces of a body are.
const PIECE: usize = 128 << 10;

/// Why a layer was not packed to its end.
pub(super) enum Unpacked {
    Failed(EngineError),
    /// Nobody takes the pieces any more.
    Unwanted,
}

/// A layer's tar, compressed into pieces of a body. Blocks.
pub(super) struct Packing {
    pub(super) images: Arc<ImageStore>,
    pub(super) chain: ChainId,
    /// So many bytes are left out: the registry has them.
    pub(super) skip: u64,
    pub(super) pieces: mpsc::Sender<io::Result<Bytes>>,
    pub(super) tell: MessageSender,
    pub(super) id: String,
}

impl Packing {
    /// Digest and length of the whole.
    pub(super) fn run(self) -> Result<(Digest, u64), Unpacked> {
        let failed = |error: io::Error| {
            let reason = error.to_string();
            Unpacked::Failed(registry(RegistryError::Source { reason }))
        };
        let opened = self.images.layer_tar_size(&self.chain);
        let total = opened.map_err(|error| Unpacked::Failed(error.into()))?;
        let opened = self.images.layer_tar(&self.chain);
        let mut tar = opened.map_err(|error| Unpacked::Failed(error.into()))?;
        let out = Pieces {
            sender: self.pieces,
            skip: self.skip,
            piece: Vec::new(),
            hash: Hash::default(),
            size: 0,
        };
        let mut gzip = GzEncoder::new(out, Compression::default());
        let mut buffer = vec![0; PIECE];
        let (mut read, mut told) = (0, 0);
        loop {
            let got = match fill(&mut tar, &mut buffer) {
                Ok(0) => break,
                Ok(got) => got,
                Err(error) => {
                    // A body that ended here would look whole.
                    gzip.get_ref().cut();
                    return Err(failed(error));
                }
            };
            gzip.write_all(&buffer[..got]).map_err(|_closed| Unpacked::Unwanted)?;
            read += got as u64;
            if read - told >= REPORT_EVERY || told == 0 {
                told = read;
                self.tell.try_send(far(&self.id, "Pushing", read, total));
            }
        }
        self.tell.try_send(far(&self.id, "Pushing", read, total));
        gzip.finish().and_then(Pieces::finish).map_err(|_closed| Unpacked::Unwanted)
    }
}

type Hash = sha2::Sha256;

/// Writes into pieces of a body, and hashes them.
struct Pieces {
    sender: mpsc::Sender<io::Result<Bytes>>,
    skip: u64,
    piece: Vec<u8>,
    hash: Hash,
    size: u64,
}

impl Pieces {
    fn push(&mut self) -> io::Result<()> {
        use sha2::Digest as _;
        let piece = std::mem::take(&mut self.piece);
        self.hash.update(&piece);
        let known = usize::try_from(self.skip.saturating_sub(self.size)).unwrap_or(usize::MAX);
        self.size += piece.len() as u64;
        if known >= piece.len() {
            // Whoever takes the body may be gone all the same.
            let is_taken = !self.sender.is_closed();
            return is_taken.then_some(()).ok_or_else(|| io::ErrorKind::BrokenPipe.into());
        }
        let sent = self.sender.blocking_send(Ok(Bytes::from(piece).slice(known..)));
        sent.map_err(|_closed| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Ends the body so that nobody takes it for the whole.
    fn cut(&self) {
        let cut = io::Error::other("the layer cannot be read");
        if self.sender.blocking_send(Err(cut)).is_err() {
            tracing::debug!("nobody takes the body any more");
        }
    }

    fn finish(mut self) -> io::Result<(Digest, u64)> {
        use sha2::Digest as _;
        if !self.piece.is_empty() {
            self.push()?;
        }
        Ok((Digest::from_hash(self.hash.finalize().as_slice()), self.size))
    }
}

impl io::Write for Pieces {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.push()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads until the buffer is full, so that the compressor is given the same pieces each time.
fn fill(from: &mut impl Read, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match from.read(&mut buffer[filled..]) {
            Ok(0) => break,
            Ok(got) => filled += got,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}
