//! `storage device`.

use berth_client::{Body, Client, Query};
use serde_json::{Value, json};

use super::args::DeviceCommand;
use super::check::short;
use super::extend;
use crate::cli::containers::size_text;
use crate::cli::error::{CliError, each};
use crate::cli::table::{Column, Layout};
use crate::cli::ui;

const COLUMNS: &[Column] = &[
    ("Id", "ID"),
    ("Kind", "KIND"),
    ("Owner", "OF"),
    ("Number", "NUMBER"),
    ("Size", "SIZE"),
    ("Open", "OPEN"),
];
const ALL: [&str; 3] = ["berth", "storage", "devices"];

pub(super) async fn device(client: &Client, command: DeviceCommand) -> Result<u8, CliError> {
    let none = Query::new();
    match command {
        DeviceCommand::Status { json } => {
            let pool: Value = client.get(&["berth", "storage", "pool"], &none).await?;
            ui::text(&if json { format!("{pool}\n") } else { status(&pool) })?;
        }
        DeviceCommand::List { json } => {
            let devices: Vec<Value> = client.get(&ALL, &none).await?;
            if json {
                ui::line(&Value::from(devices).to_string())?;
            } else {
                let default = "{{.Id}}\t{{.Kind}}\t{{.Owner}}\t{{.Number}}\t{{.Size}}\t{{.Open}}";
                let rows: Vec<Value> = devices.iter().map(row).collect();
                Layout { format: None, default, columns: COLUMNS }.print(&rows)?;
            }
        }
        DeviceCommand::Device { json, id } => {
            let device: Value = client.get(&at(&id, &[]), &none).await?;
            ui::text(&if json { format!("{device}\n") } else { details(&device) })?;
        }
        DeviceCommand::Resize { size } => {
            let query = Query::new().with("size", size);
            let path = ["berth", "storage", "extend"];
            let pool: Value = client.post(&path, &query, Body::Empty).await?;
            ui::line(&extend::usage(&pool))?;
        }
        DeviceCommand::Snap { name, id } => {
            let query = Query::new().with("name", name);
            let made: Value = client.post(&at(&id, &["snapshot"]), &query, Body::Empty).await?;
            ui::line(made["Id"].as_str().unwrap_or_default())?;
        }
        DeviceCommand::Remove { ids } => {
            return each(&ids, async |id| {
                client.delete(&at(id, &[]), &none).await?;
                Ok(ui::line(id)?)
            })
            .await;
        }
        DeviceCommand::Mount { id, dir } => {
            let dir = std::path::absolute(dir)?;
            let query = Query::new().with("target", dir.to_string_lossy());
            let mounted: Value = client.post(&at(&id, &["mount"]), &query, Body::Empty).await?;
            let text = |key: &str| mounted[key].as_str().unwrap_or_default().to_owned();
            ui::line(&format!("{} on {}", text("Device"), text("Target")))?;
        }
    }
    Ok(0)
}

fn at<'a>(id: &'a str, rest: &[&'a str]) -> Vec<&'a str> {
    ALL.iter().copied().chain([id]).chain(rest.iter().copied()).collect()
}

/// The lines of Docker's tool, and the level.
fn status(pool: &Value) -> String {
    let text = |key: &str| pool[key].as_str().unwrap_or_default();
    let space = |key: &str| {
        let number = |field: &str| pool[key][field].as_u64().unwrap_or_default();
        let percent = (number("Used") * 1000).checked_div(number("Total")).unwrap_or_default();
        let (used, total) = (number("Used"), number("Total"));
        format!("{used} of {total} ({}.{} %)", percent / 10, percent % 10)
    };
    format!(
        "Pool name: {}\nData Loopback file: {}\nMetadata Loopback file: {}\nSector size: {}\n\
         Data use: {}\nMetadata use: {}\nLevel: {}\n",
        text("Name"),
        text("DataFile"),
        text("MetadataFile"),
        pool["BlockSize"],
        space("Data"),
        space("Metadata"),
        text("Level"),
    )
}

fn row(device: &Value) -> Value {
    let id = device["Id"].as_str().unwrap_or_default();
    let id = if device["Kind"] == "layer" { shortened(id) } else { id.to_owned() };
    let open =
        if device["Active"] == true { device["OpenCount"].to_string() } else { "-".to_owned() };
    json!({
        "Id": id, "Kind": device["Kind"], "Owner": whose(device), "Number": device["Number"],
        "Size": size_text(&device["Size"]), "Open": open,
    })
}

/// The beginning of a layer's id; an init layer is told by its end.
fn shortened(id: &str) -> String {
    let end = if id.ends_with("-init") { "-init" } else { "" };
    let begin: String = id.chars().take(12).collect();
    if end.is_empty() { begin } else { id.to_owned() }
}

fn whose(device: &Value) -> String {
    let kind = device["OwnerKind"].as_str().unwrap_or_default();
    match &*short(&device["Owner"]) {
        "" => kind.to_owned(),
        id => format!("{kind} {id}"),
    }
}

fn details(device: &Value) -> String {
    let text = |key: &str| device[key].as_str().unwrap_or_default();
    let highest = match &device["HighestMappedSector"] {
        Value::Null => "-".to_owned(),
        number => number.to_string(),
    };
    format!(
        "Device: {}\nKind: {}\nOf: {}\nName: {}\nId: {}\nSize: {}\nTransaction Id: {}\n\
         Size in Sectors: {}\nMapped Sectors: {}\nHighest Mapped Sector: {highest}\n",
        text("Id"),
        text("Kind"),
        whose(device),
        text("Name"),
        device["Number"],
        device["Size"],
        device["Transaction"],
        device["SizeInSectors"],
        device["MappedSectors"],
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pool_is_shown_as_by_dockers_tool() {
        let pool = json!({
            "Name": "docker-254:1-7-pool", "BlockSize": 65536, "Level": "warning",
            "DataFile": "/data", "MetadataFile": null,
            "Data": { "Used": 850, "Total": 1000 }, "Metadata": { "Used": 0, "Total": 0 },
        });
        let expected = "Pool name: docker-254:1-7-pool\nData Loopback file: /data\n\
             Metadata Loopback file: \nSector size: 65536\nData use: 850 of 1000 (85.0 %)\n\
             Metadata use: 0 of 0 (0.0 %)\nLevel: warning\n";
        assert_eq!(status(&pool), expected);
    }

    #[test]
    fn a_device_is_a_row_and_has_details() {
        let id = "ab".repeat(32);
        let device = json!({
            "Id": id, "Kind": "layer", "OwnerKind": "container", "Owner": "cd".repeat(32),
            "Name": format!("docker-{id}"), "Number": 7, "Size": 10_737_418_240_u64,
            "SizeInSectors": 20_971_520, "Transaction": 9, "Active": true, "OpenCount": 1,
            "MappedSectors": 4096, "HighestMappedSector": null,
        });
        let expected = json!({
            "Id": "abababababab", "Kind": "layer", "Owner": "container cdcdcdcdcdcd", "Number": 7,
            "Size": "10.7GB", "Open": "1",
        });
        assert_eq!(row(&device), expected);
        let expected = format!(
            "Device: {id}\nKind: layer\nOf: container cdcdcdcdcdcd\nName: docker-{id}\nId: 7\n\
             Size: 10737418240\nTransaction Id: 9\nSize in Sectors: 20971520\n\
             Mapped Sectors: 4096\nHighest Mapped Sector: -\n"
        );
        assert_eq!(details(&device), expected);
        let idle = json!({ "Id": "snapshot-x", "Kind": "snapshot", "Active": false, "Size": 0 });
        assert_eq!((&row(&idle)["Id"], &row(&idle)["Open"]), (&json!("snapshot-x"), &json!("-")));
    }
}
