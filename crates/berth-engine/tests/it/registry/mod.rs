//! Pulls and pushes, against registries that do what they are told.

mod again;
mod ask;
mod hostile;
mod mock;
mod pull;
mod push;

use berth_api::image::ProgressMessage;
use berth_engine::registry::{Credentials, PullRequest, PushRequest, Started};
use berth_types::kind::chain;

use crate::kit::Open;

/// What a pull or a push told: each message, or why it failed.
pub(crate) struct Told {
    pub(crate) messages: Vec<ProgressMessage>,
    pub(crate) failure: Option<String>,
}

impl Told {
    async fn all(started: Result<Started, berth_engine::EngineError>) -> Self {
        let Started { first, mut rest } = match started {
            Ok(started) => started,
            Err(error) => return Self { messages: Vec::new(), failure: Some(chain(&error)) },
        };
        let mut told = Self { messages: Vec::new(), failure: None };
        let mut next = first;
        while let Some(message) = next {
            told.failure.clone_from(&message.error);
            told.messages.push(message);
            next = rest.recv().await;
        }
        told
    }

    /// Each line as the CLI prints it, without how far things are.
    pub(crate) fn lines(&self) -> Vec<String> {
        const PASSING: [&str; 5] =
            ["Downloading", "Extracting", "Pushing", "Waiting", "Verifying Checksum"];
        let lines = self.messages.iter().filter_map(|message| {
            let status = message.status.as_deref()?;
            let id = message.id.as_deref().map(|id| format!("{id}: ")).unwrap_or_default();
            (!PASSING.contains(&status)).then(|| format!("{id}{status}"))
        });
        lines.collect()
    }
}

/// Begins a pull, `name` with its tag or digest.
pub(crate) async fn begin_pull(
    open: &Open,
    name: &str,
) -> Result<Started, berth_engine::EngineError> {
    pull_for(open, name, "").await
}

async fn pull_for(
    open: &Open,
    name: &str,
    platform: &str,
) -> Result<Started, berth_engine::EngineError> {
    let request = PullRequest {
        image: name.to_owned(),
        tag: String::new(),
        platform: platform.to_owned(),
        credentials: Credentials::default(),
    };
    open.engine().pull_image(request).await
}

/// Pulls to the end.
pub(crate) fn pull(open: &Open, name: &str) -> Told {
    open.block_on(async { Told::all(begin_pull(open, name).await).await })
}

/// Pushes to the end; without a tag, all.
pub(crate) fn push(open: &Open, name: &str, tag: &str) -> Told {
    push_as(open, name, tag, Credentials::default())
}

/// Pushes to the end, for a client that can say who it is.
fn push_as(open: &Open, name: &str, tag: &str, credentials: Credentials) -> Told {
    let request = PushRequest { image: name.to_owned(), tag: tag.to_owned(), credentials };
    open.block_on(async { Told::all(open.engine().push_image(request).await).await })
}
