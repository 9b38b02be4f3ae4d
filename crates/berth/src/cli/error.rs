//! Why a command failed, and with which exit status.

use std::io;

use berth_client::ClientError;
use berth_types::kind::chain;

/// A message for stderr and an exit status.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CliError {
    pub(super) status: u8,
    pub(super) message: String,
}

impl CliError {
    /// An ordinary failure.
    pub(super) fn new(message: impl Into<String>) -> Self {
        Self { status: 1, message: message.into() }
    }

    /// The same with another exit status.
    #[must_use]
    pub(super) fn with_status(self, status: u8) -> Self {
        Self { status, ..self }
    }
}

impl From<ClientError> for CliError {
    fn from(error: ClientError) -> Self {
        Self::new(chain(&error))
    }
}

impl From<io::Error> for CliError {
    fn from(error: io::Error) -> Self {
        // A closed pipe (`berth ps | head -1`) is not worth a message.
        let quiet = error.kind() == io::ErrorKind::BrokenPipe;
        Self::new(if quiet { String::new() } else { error.to_string() })
    }
}

impl From<serde_json::Error> for CliError {
    fn from(error: serde_json::Error) -> Self {
        Self::new(error.to_string())
    }
}

/// Runs `act` for every name; goes on after a failure, which decides the exit status.
pub(super) async fn each<F>(names: &[String], mut act: F) -> Result<u8, CliError>
where
    F: AsyncFnMut(&str) -> Result<(), CliError>,
{
    let mut status = 0;
    for name in names {
        if let Err(error) = act(name).await {
            super::ui::error(&error.message);
            status = error.status;
        }
    }
    Ok(status)
}
