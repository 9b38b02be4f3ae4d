//! What goes to and from clients piece by piece.

use std::io::{self, Read};

use berth_api::image::ProgressMessage;
use bytes::Bytes;
use tokio::sync::mpsc;

use crate::containers::ByteStream;
use crate::error::EngineError;

/// A request's archive, read as it comes in.
pub type Archive = Box<dyn Read + Send>;

/// Messages of an operation that is under way, until it ends.
pub type Messages = mpsc::Receiver<ProgressMessage>;

/// How many messages may wait for a slow reader.
const MESSAGES_AHEAD: usize = 64;
/// How large the pieces of an archive are, and how many may wait.
const PIECE: usize = 256 << 10;
const PIECES_AHEAD: usize = 4;

/// Sends messages from a blocking thread.
#[derive(Debug)]
pub(super) struct MessageSender {
    sender: mpsc::Sender<ProgressMessage>,
}

pub(super) fn messages() -> (MessageSender, Messages) {
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    (MessageSender { sender }, receiver)
}

impl MessageSender {
    /// Sends a message; the operation goes on when nobody reads any more.
    pub(super) fn send(&self, message: ProgressMessage) {
        if self.sender.blocking_send(message).is_err() {
            tracing::trace!("the reader of the progress left");
        }
    }

    /// Sends a message if there is room: progress that a slow reader may miss.
    pub(super) fn try_send(&self, message: ProgressMessage) {
        if self.sender.try_send(message).is_err() {
            tracing::trace!("progress left out");
        }
    }

    /// Sends why the operation failed.
    pub(super) fn fail(&self, error: &EngineError) {
        let text = berth_types::kind::chain(error);
        tracing::debug!(error = text, "operation failed");
        self.send(ProgressMessage::error(text));
    }
}

/// Writes an archive to a client from a blocking thread.
#[derive(Debug)]
pub(super) struct ArchiveWriter {
    sender: mpsc::Sender<Result<Bytes, EngineError>>,
    piece: Vec<u8>,
}

pub(super) fn archive() -> (ArchiveWriter, ByteStream) {
    let (sender, receiver) = mpsc::channel(PIECES_AHEAD);
    (ArchiveWriter { sender, piece: Vec::new() }, receiver)
}

impl ArchiveWriter {
    /// Says why the archive ends early.
    pub(super) fn fail(self, error: EngineError) {
        if self.sender.blocking_send(Err(error)).is_err() {
            tracing::debug!("the reader of the archive left");
        }
    }

    fn send(&mut self) -> io::Result<()> {
        let piece = std::mem::take(&mut self.piece);
        self.sender
            .blocking_send(Ok(piece.into()))
            .map_err(|_closed| io::ErrorKind::BrokenPipe.into())
    }
}

impl io::Write for ArchiveWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(PIECE - self.piece.len());
        self.piece.extend_from_slice(&bytes[..taken]);
        if self.piece.len() == PIECE {
            self.send()?;
        }
        Ok(taken)
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() { Ok(()) } else { self.send() }
    }
}
