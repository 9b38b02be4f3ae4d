//! `inspect`: whatever has that name.

use berth_client::{Client, ClientError, Query};
use serde_json::Value;

use super::args::InspectArgs;
use super::error::CliError;
use super::{template, ui};

/// The kinds of object in the order of the search, and where they are asked for.
const KINDS: &[(&str, &[&str])] = &[
    ("container", &["containers", "{}", "json"]),
    ("image", &["images", "{}", "json"]),
    ("network", &["networks", "{}"]),
    ("volume", &["volumes", "{}"]),
];

pub(super) async fn inspect(client: &Client, args: InspectArgs) -> Result<u8, CliError> {
    let query = Query::new().flag("size", args.size);
    let mut found = Vec::new();
    let mut failures = Vec::new();
    for name in &args.names {
        match find(client, name, args.kind.as_deref(), &query).await {
            Ok(object) => found.push(object),
            Err(error) => failures.push(error),
        }
    }
    print(&found, args.format.as_deref())?;
    for failure in &failures {
        ui::error(&failure.message);
    }
    Ok(u8::from(!failures.is_empty()))
}

/// Objects as a JSON list, or one line each from a template.
pub(super) fn print(objects: &[Value], format: Option<&str>) -> Result<(), CliError> {
    match format.map(str::trim) {
        None | Some("") => {
            let mut text = Vec::new();
            let indent = serde_json::ser::PrettyFormatter::with_indent(b"    ");
            let mut serializer = serde_json::Serializer::with_formatter(&mut text, indent);
            serde::Serialize::serialize(objects, &mut serializer)?;
            ui::line(&String::from_utf8_lossy(&text))?;
        }
        Some("json") => ui::line(&serde_json::to_string(objects)?)?,
        Some(template) => {
            for object in objects {
                ui::line(&template::render(template, object)?)?;
            }
        }
    }
    Ok(())
}

async fn find(
    client: &Client,
    name: &str,
    kind: Option<&str>,
    query: &Query,
) -> Result<Value, CliError> {
    for (this, path) in KINDS {
        if kind.is_some_and(|kind| kind != *this) {
            continue;
        }
        let parts: Vec<&str> =
            path.iter().map(|part| if *part == "{}" { name } else { part }).collect();
        let no_query = Query::new();
        let query = if *this == "container" { query } else { &no_query };
        match client.get(&parts, query).await {
            Ok(object) => return Ok(object),
            Err(error) if kind.is_none() && goes_on(&error) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Err(CliError::new(format!("Error: No such object: {name}")))
}

fn goes_on(error: &ClientError) -> bool {
    let text = error.message();
    error.is_not_found()
        || text.contains("not supported")
        || text.contains("invalid reference format")
}
