//! Bodies that are made while a client reads them.

use std::io;

use bytes::Bytes;
use tokio::sync::mpsc;

use crate::error::EngineError;

/// A body that is made while it is read. Dropping it ends the making.
pub type ByteStream = mpsc::Receiver<Result<Bytes, EngineError>>;

/// How large the pieces of a stream are.
const PIECE: usize = 256 << 10;
/// How many pieces may wait for a slow reader.
const AHEAD: usize = 4;

/// The writing end of a [`ByteStream`], for code that writes synchronously.
#[derive(Debug)]
pub(crate) struct PieceWriter {
    sender: mpsc::Sender<Result<Bytes, EngineError>>,
    piece: Vec<u8>,
}

/// A stream and the writer that feeds it from a blocking thread.
pub(crate) fn pieces() -> (PieceWriter, ByteStream) {
    let (sender, receiver) = mpsc::channel(AHEAD);
    (PieceWriter { sender, piece: Vec::new() }, receiver)
}

impl PieceWriter {
    /// Sends what is there, so that it does not wait for a whole piece.
    pub(crate) fn push(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.sender
            .blocking_send(Ok(Bytes::from(piece)))
            .map_err(|_closed| io::Error::from(io::ErrorKind::BrokenPipe))
    }

    /// Sends what is left, or why it ends early.
    pub(crate) fn finish(mut self, result: Result<(), EngineError>) {
        let sent = match result {
            Ok(()) if self.piece.is_empty() => return,
            Ok(()) => self.send(),
            Err(error) => {
                tracing::debug!(error = %berth_types::kind::chain(&error), "stream ends early");
                self.sender
                    .blocking_send(Err(error))
                    .map_err(|_closed| io::Error::from(io::ErrorKind::BrokenPipe))
            }
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "the reader left");
        }
    }
}

impl io::Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
