//! Messages of long operations: one JSON object a line, an error among them is the command's.

use serde_json::Value;

use super::error::CliError;
use super::ui;

/// Prints what there is to print.
pub(super) async fn print(stream: berth_client::Stream) -> Result<u8, CliError> {
    each(stream, |message| show(&message)).await?;
    Ok(0)
}

/// Gives each message to `act` as it comes.
pub(super) async fn each(
    mut stream: berth_client::Stream,
    mut act: impl FnMut(Value) -> Result<(), CliError>,
) -> Result<(), CliError> {
    let mut pending = Vec::new();
    loop {
        let bytes = stream.next().await?;
        let ended = bytes.is_none();
        pending.extend_from_slice(&bytes.unwrap_or_default());
        while let Some(end) = pending.iter().position(|byte| *byte == b'\n') {
            let line: Vec<u8> = pending.drain(..=end).collect();
            take(&line, &mut act)?;
        }
        if ended {
            return take(&pending, &mut act);
        }
    }
}

fn take(line: &[u8], act: &mut impl FnMut(Value) -> Result<(), CliError>) -> Result<(), CliError> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(());
    }
    let message: Value = serde_json::from_slice(line)?;
    match message["errorDetail"]["message"].as_str().or(message["error"].as_str()) {
        Some(error) => Err(CliError::new(error)),
        None => act(message),
    }
}

fn show(message: &Value) -> Result<(), CliError> {
    if let Some(text) = message["stream"].as_str() {
        ui::text(text)?;
    } else if let Some(status) = message["status"].as_str()
        && message["progressDetail"].as_object().is_none_or(serde_json::Map::is_empty)
    {
        match message["id"].as_str() {
            Some(id) => ui::line(&format!("{id}: {status}"))?,
            None => ui::line(status)?,
        }
    }
    Ok(())
}
