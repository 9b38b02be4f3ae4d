//! What goes to and from clients piece by piece.

use std::io::Read;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_api::image::ProgressMessage;
use tokio::sync::mpsc;

use crate::error::EngineError;

/// A request's archive, read as it comes in.
pub type Archive = Box<dyn Read + Send>;

/// Messages of an operation that is under way, until it ends.
pub type Messages = mpsc::Receiver<ProgressMessage>;

/// How many messages may wait for a slow reader.
const MESSAGES_AHEAD: usize = 64;

/// Sends messages from a blocking thread, or an async one.
#[derive(Debug, Clone)]
pub(crate) struct MessageSender {
    sender: mpsc::Sender<ProgressMessage>,
    has_told: Arc<AtomicBool>,
    /// Nothing follows: the failure was told.
    has_failed: Arc<Mutex<bool>>,
}

pub(crate) fn messages() -> (MessageSender, Messages) {
    let (sender, receiver) = mpsc::channel(MESSAGES_AHEAD);
    (MessageSender { sender, has_told: Arc::default(), has_failed: Arc::default() }, receiver)
}

impl MessageSender {
    /// Sends a message; whether somebody still reads. Most operations go on when nobody does.
    pub(crate) fn send(&self, message: ProgressMessage) -> bool {
        let sent = self.sender.blocking_send(message);
        if sent.is_err() {
            tracing::trace!("the reader of the progress left");
        }
        sent.is_ok()
    }

    /// Whether nobody reads any more.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.is_closed()
    }

    /// Sends a message if there is room: progress that a slow reader may miss.
    pub(crate) fn try_send(&self, message: ProgressMessage) {
        // Held while it is sent, which does not wait.
        let has_failed = self.failed();
        if *has_failed || self.sender.try_send(message).is_err() {
            tracing::trace!("progress left out");
        }
    }

    /// Sends a message from an async thread, in its turn.
    pub(crate) async fn tell(&self, message: ProgressMessage) {
        self.has_told.store(true, Ordering::Release);
        if self.sender.send(message).await.is_err() {
            tracing::trace!("the reader of the progress left");
        }
    }

    /// Sends from an async thread why the operation failed. Threads that still work on it tell no
    /// more.
    pub(crate) async fn tell_failure(&self, error: &EngineError) {
        let text = berth_types::kind::chain(error);
        tracing::debug!(error = text, "operation failed");
        *self.failed() = true;
        self.tell(ProgressMessage::error(text)).await;
    }

    /// Whether [`tell`](Self::tell) was called.
    pub(crate) fn has_told(&self) -> bool {
        self.has_told.load(Ordering::Acquire)
    }

    /// Waits until nobody reads any more.
    pub(crate) async fn closed(&self) {
        self.sender.closed().await;
    }

    /// Sends why the operation failed.
    pub(crate) fn fail(&self, error: &EngineError) {
        let text = berth_types::kind::chain(error);
        tracing::debug!(error = text, "operation failed");
        self.send(ProgressMessage::error(text));
    }

    fn failed(&self) -> MutexGuard<'_, bool> {
        // One assignment, so a panic elsewhere leaves it whole.
        self.has_failed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
