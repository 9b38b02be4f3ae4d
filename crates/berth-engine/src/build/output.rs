//! What a build says while it goes on.

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::image::{ProgressError, ProgressMessage};
use berth_types::kind::chain;
use serde_json::json;
use tokio::sync::{mpsc, watch};

use super::error::BuildError;
use super::spool::Spool;
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
    /// Set when somebody calls the build off.
    cancel: watch::Receiver<bool>,
    /// Of a stage: where it speaks until its turn comes, and whether that is still wanted.
    apart: Option<Apart>,
}

#[derive(Debug, Clone)]
struct Apart {
    spool: Arc<Spool>,
    abandoned: watch::Receiver<bool>,
}

impl Output {
    pub(crate) fn new(quiet: bool, cancel: watch::Receiver<bool>) -> (Self, Messages) {
        let (sender, messages) = mpsc::channel(AHEAD);
        let held = quiet.then(Arc::default);
        (Self { sender, held, cancel, apart: None }, messages)
    }

    /// For a stage, whose messages somebody passes on when its turn comes. It is not wanted any
    /// more when the build is not, or when `abandoned` says so.
    pub(super) fn apart(&self, spool: Arc<Spool>, abandoned: watch::Receiver<bool>) -> Self {
        Self { apart: Some(Apart { spool, abandoned }), ..self.clone() }
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

    /// The image that everything was made one layer of.
    pub(crate) async fn squashed(&self, id: &str) -> Result<(), EngineError> {
        let (aux, of) = (Some(json!({ "ID": id })), Some("moby.image.id".to_owned()));
        self.say(ProgressMessage { id: of, aux, ..ProgressMessage::default() }).await
    }

    /// A message as any other: held back by `-q`.
    pub(super) async fn say(&self, message: ProgressMessage) -> Result<(), EngineError> {
        if let Some(apart) = &self.apart {
            let pushed = apart.spool.push(&message);
            return pushed.map_err(EngineError::io("keep what is said in", Path::new("tmp")));
        }
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
        let is_abandoned = self.apart.as_ref().is_some_and(|apart| *apart.abandoned.borrow());
        self.sender.is_closed() || *self.cancel.borrow() || is_abandoned
    }

    /// Returns when the build is not wanted any more.
    pub(crate) async fn cancelled(&self) {
        let abandoned = async {
            match &self.apart {
                Some(apart) => is_set(apart.abandoned.clone()).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = self.sender.closed() => {}
            () = is_set(self.cancel.clone()) => {}
            () = abandoned => {}
        }
    }
}

/// Returns when somebody sets it, never when nobody can any more.
async fn is_set(mut flag: watch::Receiver<bool>) {
    if flag.wait_for(|set| *set).await.is_err() {
        std::future::pending::<()>().await;
    }
}
