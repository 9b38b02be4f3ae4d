//! Commands that change what containers do: stop, restart, kill, rm, wait, rename, prune.

use std::io::{BufRead as _, Write as _};

use berth_client::{Body, Client, Query};
use serde_json::Value;

use super::args::{ContainerArgs, ContainerCommand, KillArgs, Names, RenameArgs, RmArgs, StopArgs};
use super::containers::{filters, size_text};
use super::error::{CliError, each};
use super::ui;

/// `stop` and `restart` differ in nothing but the name.
pub(super) async fn stop(client: &Client, verb: &str, args: StopArgs) -> Result<u8, CliError> {
    let query = Query::new()
        .optional("t", args.timeout.map(|seconds| seconds.to_string()))
        .optional("signal", args.signal.as_deref());
    each(&args.names, async |name| {
        client.post_empty(&["containers", name, verb], &query, Body::Empty).await?;
        Ok(ui::line(name)?)
    })
    .await
}

pub(super) async fn kill(client: &Client, args: KillArgs) -> Result<u8, CliError> {
    let query = Query::new().optional("signal", args.signal.as_deref());
    each(&args.names, async |name| {
        client.post_empty(&["containers", name, "kill"], &query, Body::Empty).await?;
        Ok(ui::line(name)?)
    })
    .await
}

pub(super) async fn rm(client: &Client, args: RmArgs) -> Result<u8, CliError> {
    let query =
        Query::new().flag("v", args.volumes).flag("force", args.force).flag("link", args.link);
    each(&args.names, async |name| {
        match client.delete(&["containers", name.trim_start_matches('/')], &query).await {
            Ok(_) => Ok(ui::line(name)?),
            // Docker prints the message and still succeeds.
            Err(error) if args.force && error.is_not_found() => {
                ui::error(&error.to_string());
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    })
    .await
}

pub(super) async fn wait(client: &Client, args: Names) -> Result<u8, CliError> {
    each(&args.names, async |name| {
        let answer: Value =
            client.post(&["containers", name, "wait"], &Query::new(), Body::Empty).await?;
        if let Some(message) = answer["Error"]["Message"].as_str().filter(|text| !text.is_empty()) {
            return Err(CliError::new(message));
        }
        Ok(ui::line(&answer["StatusCode"].to_string())?)
    })
    .await
}

pub(super) async fn rename(client: &Client, args: RenameArgs) -> Result<u8, CliError> {
    let query = Query::new().with("name", &args.new_name);
    client.post_empty(&["containers", &args.container, "rename"], &query, Body::Empty).await?;
    Ok(0)
}

const PRUNE_WARNING: &str =
    "WARNING! This will remove all stopped containers.\nAre you sure you want to continue? [y/N] ";

pub(super) async fn container(client: &Client, args: ContainerArgs) -> Result<u8, CliError> {
    let ContainerCommand::Prune { filter, force } = args.command;
    let query = Query::new().optional("filters", filters(&filter)?);
    if !force && !confirm(PRUNE_WARNING)? {
        return Err(CliError::new("container prune has been cancelled"));
    }
    let answer: Value = client.post(&["containers", "prune"], &query, Body::Empty).await?;
    let deleted = answer["ContainersDeleted"].as_array().map(Vec::as_slice).unwrap_or_default();
    if !deleted.is_empty() {
        ui::line("Deleted Containers:")?;
        for id in deleted {
            ui::line(id.as_str().unwrap_or_default())?;
        }
        ui::line("")?;
    }
    ui::line(&format!("Total reclaimed space: {}", size_text(&answer["SpaceReclaimed"])))?;
    Ok(0)
}

/// Asks; anything but `y` is no.
fn confirm(question: &str) -> Result<bool, CliError> {
    ui::text(question)?;
    std::io::stdout().flush()?;
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(answer.trim().eq_ignore_ascii_case("y"))
}
