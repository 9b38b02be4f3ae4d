//! `storage backup` and `storage restore`.

use std::path::Path;

use berth_client::{Body, Client, Query};
use berth_engine::storage::{Restored, restore_backup};
use hyper::Method;
use serde_json::{Value, json};

use super::check::counted;
use super::progress::Shown;
use crate::cli::containers::size_text;
use crate::cli::error::CliError;
use crate::cli::{messages, ui};

/// What `storage backup` is asked for.
pub(super) struct Asked {
    pub(super) dest: String,
    pub(super) volumes: bool,
    pub(super) pause: bool,
    pub(super) as_json: bool,
}

pub(super) async fn backup(client: &Client, asked: Asked) -> Result<u8, CliError> {
    let dest = std::path::absolute(&asked.dest)?;
    let text = |flag: bool| if flag { "1" } else { "0" };
    let query = Query::new()
        .with("dest", dest.to_string_lossy())
        .with("volumes", text(asked.volumes))
        .with("pause", text(asked.pause));
    let path = ["berth", "storage", "backup"];
    let stream = client.stream(Method::POST, &path, &query, Body::Empty).await?;
    let mut sums = Value::Null;
    let mut progress = Shown::new("copying");
    messages::each(stream, |message| {
        if !asked.as_json {
            progress.show(&message["progressDetail"]);
        }
        if let Some(made) = message["aux"].get("Backup") {
            sums = made.clone();
        }
        Ok(())
    })
    .await?;
    progress.end();
    let line = if asked.as_json { json!({ "Backup": sums }).to_string() } else { made(&sums) };
    ui::line(&line)?;
    Ok(0)
}

/// What was copied, in a sentence.
fn made(sums: &Value) -> String {
    let number = |key: &str| sums[key].as_u64().unwrap_or_default();
    format!(
        "{}: {}, {} and {} copied to {} ({})",
        sums["Driver"].as_str().unwrap_or_default(),
        counted(number("Layers"), "image layer", "image layers"),
        counted(number("Containers"), "container", "containers"),
        counted(number("Volumes"), "volume", "volumes"),
        sums["Path"].as_str().unwrap_or_default(),
        size_text(&sums["Bytes"]),
    )
}

/// Needs no daemon: none may use the data root meanwhile.
pub(super) fn restore(source: &Path, root: &Path, as_json: bool) -> Result<u8, CliError> {
    let mut progress = Shown::new("copying layers");
    let restored = restore_backup(source, root, &mut |done, total| {
        if !as_json {
            progress.show(&json!({ "current": done, "total": total }));
        }
    });
    progress.end();
    let restored = restored.map_err(|error| CliError::new(berth_types::kind::chain(&error)))?;
    let line = if as_json { as_object(&restored) } else { told(&restored) };
    ui::line(&line)?;
    Ok(0)
}

fn as_object(restored: &Restored) -> String {
    let Restored { driver, created, layers, containers, volumes, path } = restored;
    json!({ "Restored": {
        "Driver": driver, "Created": created, "Layers": layers, "Containers": containers,
        "Volumes": volumes, "Path": path,
    }})
    .to_string()
}

fn told(restored: &Restored) -> String {
    let Restored { driver, created, layers, containers, volumes, path } = restored;
    let rest = if *volumes { "" } else { ", volumes without their content" };
    format!(
        "{driver}: {} and {} of {created} restored in {}{rest}",
        counted(*layers, "image layer", "image layers"),
        counted(*containers, "container", "containers"),
        path.display(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_copied_is_a_sentence() {
        let sums = json!({
            "Driver": "vfs", "Path": "/mnt/b", "Layers": 2, "Containers": 1, "Volumes": 0,
            "Bytes": 1500,
        });
        let expected = "vfs: 2 image layers, 1 container and no volumes copied to /mnt/b (1.5kB)";
        assert_eq!(made(&sums), expected);
    }

    #[test]
    fn what_was_restored_is_a_sentence() {
        let mut restored = Restored {
            driver: "vfs".to_owned(),
            created: "2026-01-02T03:04:05Z".to_owned(),
            layers: 1,
            containers: 2,
            volumes: true,
            path: "/data".into(),
        };
        let expected =
            "vfs: 1 image layer and 2 containers of 2026-01-02T03:04:05Z restored in /data";
        assert_eq!(told(&restored), expected);
        restored.volumes = false;
        let without = format!("{expected}, volumes without their content");
        assert_eq!(told(&restored), without);
    }
}
