//! What goes to and from clients piece by piece.

use std::io::Read;

use berth_api::image::ProgressMessage;
use tokio::sync::mpsc;

use crate::error::EngineError;

/// A request's archive, read as it comes in.
pub type Archive = Box<dyn Read + Send>;

/// Messages of an operation that is under way, until it ends.
pub type Messages = mpsc::Receiver<ProgressMessage>;

/// How many messages may wait for a slow reader.
const MESSAGES_AHEAD: usize = 64;

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
