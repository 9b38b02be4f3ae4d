//! What a build says while it goes on.

use std::sync::{Arc, Mutex, PoisonError};

use berth_api::image::{ProgressError, ProgressMessage};
use berth_types::kind::chain;
use serde_json::json;
use tokio::sync::{Notify, mpsc};

use super::error::BuildError;
use crate::error::EngineError;
use crate::images::Messages;

/// How many messages may wait for a slow reader.
const AHEAD: usize = 64;
/// Docker prints what goes to stderr in red.
const RED: &str = "\u{1b}[91m";
const PLAIN: &str = "\u{1b}[0m";

/// The messages of a build. Clones go to the same reader.
#[derive(Debug, Clone)]
pub(crate) struct Output {
    sender: mpsc::Sender<ProgressMessage>,
    /// With `-q`: what is only said if the build fails.
    held: Option<Arc<Mutex<Vec<ProgressMessage>>>>,
    cancel: Arc<Notify>,
}

impl Output {
    pub(crate) fn new(quiet: bool, cancel: Arc<Notify>) -> (Self, Messages) {
        let (sender, messages) = mpsc::channel(AHEAD);
        let held = quiet.then(Arc::default);
        (Self { sender, held, cancel }, messages)
    }

    /// Text as it is. Fails when nobody reads any more: then the build need not go on.
    pub(crate) async fn stdout(&self, text: impl Into<String>) -> Result<(), EngineError> {
        self.say(ProgressMessage::stream(text)).await
    }

    /// Text of stderr.
    pub(crate) async fn stderr(&self, text: &str) -> Result<(), EngineError> {
        self.say(ProgressMessage::stream(format!("{RED}{text}{PLAIN}"))).await
    }

    /// A line.
    pub(crate) async fn line(&self, text: &str) -> Result<(), EngineError> {
        self.stdout(format!("{text}\n")).await
    }

    /// The image that a stage ended with.
    pub(crate) async fn image(&self, id: &str) -> Result<(), EngineError> {
        let aux = Some(json!({ "ID": id }));
        self.say(ProgressMessage { aux, ..ProgressMessage::default() }).await
    }

    /// A message as any other: held back by `-q`.
    pub(super) async fn say(&self, message: ProgressMessage) -> Result<(), EngineError> {
        if let Some(held) = &self.held {
            held.lock().unwrap_or_else(PoisonError::into_inner).push(message);
            return Ok(());
        }
        self.send(message).await
    }

    /// A message that `-q` does not hold back.
    pub(crate) async fn send(&self, message: ProgressMessage) -> Result<(), EngineError> {
        let closed = |_message| EngineError::from(BuildError::Cancelled);
        self.sender.send(message).await.map_err(closed)
    }

    /// Says why the build failed, and with `-q` everything before it.
    pub(crate) async fn fail(&self, error: &EngineError) {
        let held = self
            .held
            .as_ref()
            .map(|held| std::mem::take(&mut *held.lock().unwrap_or_else(PoisonError::into_inner)));
        let text = chain(error);
        tracing::debug!(error = text, "build failed");
        let code = match error {
            EngineError::Build(BuildError::Command { code, .. }) => Some(*code),
            _ => None,
        };
        let detail = ProgressError { code, message: text.clone() };
        let last = ProgressMessage {
            error_detail: Some(detail),
            error: Some(text),
            ..ProgressMessage::default()
        };
        for message in held.into_iter().flatten().chain([last]) {
            if self.sender.send(message).await.is_err() {
                tracing::trace!("the reader of the build left");
                return;
            }
        }
    }

    /// Whether the build is not wanted any more.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.sender.is_closed()
    }

    /// Returns when the build is not wanted any more.
    pub(crate) async fn cancelled(&self) {
        tokio::select! {
            () = self.sender.closed() => {}
            () = self.cancel.notified() => {}
        }
    }
}
