//! `volume …` and `system df`.

use berth_client::{Body, Client, Query};
use serde_json::{Value, json};

use super::args::{SystemArgs, SystemCommand, VolumeArgs, VolumeCommand};
use super::containers::{filters, size_text};
use super::create::pairs;
use super::error::{CliError, each};
use super::table::{Column, Layout};
use super::{inspect, ui};

const VOLUME_COLUMNS: &[Column] = &[
    ("Availability", "AVAILABILITY"),
    ("Driver", "DRIVER"),
    ("Group", "GROUP"),
    ("Labels", "LABELS"),
    ("Links", "LINKS"),
    ("Mountpoint", "MOUNTPOINT"),
    ("Name", "VOLUME NAME"),
    ("Scope", "SCOPE"),
    ("Size", "SIZE"),
    ("Status", "STATUS"),
];

pub(super) async fn volume(client: &Client, args: VolumeArgs) -> Result<u8, CliError> {
    match args.command {
        VolumeCommand::Create { driver, label, opt, name } => {
            let body = json!({
                "Name": name.unwrap_or_default(),
                "Driver": driver,
                "DriverOpts": pairs(&opt),
                "Labels": pairs(&label),
            });
            let path = ["volumes", "create"];
            let made: Value = client.post(&path, &Query::new(), Body::json(&body)?).await?;
            ui::line(made["Name"].as_str().unwrap_or_default())?;
            Ok(0)
        }
        VolumeCommand::Ls { filter, format, quiet } => {
            list(client, &filter, format.as_deref(), quiet).await
        }
        VolumeCommand::Inspect { format, names } => {
            let mut found: Vec<Value> = Vec::new();
            let status = each(&names, async |name| {
                found.push(client.get(&["volumes", name], &Query::new()).await?);
                Ok(())
            })
            .await?;
            inspect::print(&found, format.as_deref())?;
            Ok(status)
        }
        VolumeCommand::Rm { force, names } => {
            let query = Query::new().flag("force", force);
            each(&names, async |name| {
                client.delete(&["volumes", name], &query).await?;
                Ok(ui::line(name)?)
            })
            .await
        }
    }
}

async fn list(
    client: &Client,
    filter: &[String],
    format: Option<&str>,
    quiet: bool,
) -> Result<u8, CliError> {
    let query = Query::new().optional("filters", filters(filter)?);
    let answer: Value = client.get(&["volumes"], &query).await?;
    let mut volumes = answer["Volumes"].as_array().cloned().unwrap_or_default();
    volumes.sort_by(|a, b| a["Name"].as_str().cmp(&b["Name"].as_str()));
    let rows: Vec<Value> = volumes.iter().map(volume_row).collect();
    let format = format.or(quiet.then_some("{{.Name}}"));
    let default = "{{.Driver}}\t{{.Name}}";
    Layout { format, default, columns: VOLUME_COLUMNS }.print(&rows)?;
    Ok(0)
}

fn volume_row(volume: &Value) -> Value {
    let labels = volume["Labels"].as_object().into_iter().flatten();
    let labels: Vec<String> = labels
        .map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default()))
        .collect();
    json!({
        "Availability": "N/A",
        "Driver": volume["Driver"],
        "Group": "N/A",
        "Labels": labels.join(","),
        "Links": "N/A",
        "Mountpoint": volume["Mountpoint"],
        "Name": volume["Name"],
        "Scope": volume["Scope"],
        "Size": "N/A",
        "Status": "N/A",
    })
}

const DF_COLUMNS: &[Column] = &[
    ("Active", "ACTIVE"),
    ("Reclaimable", "RECLAIMABLE"),
    ("Size", "SIZE"),
    ("TotalCount", "TOTAL"),
    ("Type", "TYPE"),
];

pub(super) async fn system(client: &Client, args: SystemArgs) -> Result<u8, CliError> {
    let SystemCommand::Df { format } = args.command;
    let usage: Value = client.get(&["system", "df"], &Query::new()).await?;
    let default = "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}";
    Layout { format: format.as_deref(), default, columns: DF_COLUMNS }.print(&df_rows(&usage))?;
    Ok(0)
}

fn df_rows(usage: &Value) -> Vec<Value> {
    let list = |name: &str| usage[name].as_array().cloned().unwrap_or_default();
    let number = |object: &Value, path: &str| {
        object.pointer(path).and_then(Value::as_i64).unwrap_or_default()
    };
    let sum = |objects: &[&Value], path: &str| -> i64 {
        objects.iter().map(|object| number(object, path).max(0)).sum()
    };
    let images = list("Images");
    let used: Vec<&Value> =
        images.iter().filter(|image| number(image, "/Containers") > 0).collect();
    let kept: i64 = images
        .iter()
        .filter(|image| number(image, "/Containers") != 0)
        .map(|image| number(image, "/Size") - number(image, "/SharedSize").max(0))
        .sum();
    let layers = number(usage, "/LayersSize");
    let containers = list("Containers");
    let is_active = |container: &Value| {
        matches!(container["State"].as_str(), Some("running" | "paused" | "restarting"))
    };
    let (active, idle): (Vec<&Value>, Vec<&Value>) =
        containers.iter().partition(|container| is_active(container));
    let volumes = list("Volumes");
    let (linked, free): (Vec<&Value>, Vec<&Value>) =
        volumes.iter().partition(|volume| number(volume, "/UsageData/RefCount") > 0);
    let written = sum(&active, "/SizeRw") + sum(&idle, "/SizeRw");
    let volume_size = sum(&linked, "/UsageData/Size") + sum(&free, "/UsageData/Size");
    let cache = list("BuildCache");
    let (in_use, unused): (Vec<&Value>, Vec<&Value>) =
        cache.iter().partition(|record| record["InUse"] == true);
    let cached = sum(&in_use, "/Size") + sum(&unused, "/Size");
    vec![
        df_row("Images", images.len(), used.len(), layers, layers - kept, Percent::Shown),
        df_row(
            "Containers",
            containers.len(),
            active.len(),
            written,
            sum(&idle, "/SizeRw"),
            Percent::Shown,
        ),
        df_row(
            "Local Volumes",
            volumes.len(),
            linked.len(),
            volume_size,
            sum(&free, "/UsageData/Size"),
            Percent::Shown,
        ),
        df_row(
            "Build Cache",
            cache.len(),
            in_use.len(),
            cached,
            sum(&unused, "/Size"),
            Percent::Hidden,
        ),
    ]
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Percent {
    Shown,
    Hidden,
}

fn df_row(
    kind: &str,
    total: usize,
    active: usize,
    size: i64,
    reclaimable: i64,
    percent: Percent,
) -> Value {
    let reclaimable = reclaimable.max(0);
    let mut text = size_text(&json!(reclaimable));
    if percent == Percent::Shown && size > 0 {
        text = format!("{text} ({}%)", reclaimable * 100 / size);
    }
    json!({
        "Active": active.to_string(),
        "Reclaimable": text,
        "Size": size_text(&json!(size)),
        "TotalCount": total.to_string(),
        "Type": kind,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn df_counts_as_docker_does() {
        let usage = json!({
            "LayersSize": 1000,
            "Images": [{"Containers": 1, "Size": 600, "SharedSize": 100}, {"Containers": 0, "Size": 500, "SharedSize": 100}],
            "Containers": [{"State": "running", "SizeRw": 10}, {"State": "exited", "SizeRw": 30}, {"State": "created"}],
            "Volumes": [{"UsageData": {"RefCount": 0, "Size": 7}}, {"UsageData": {"RefCount": 1, "Size": -1}}],
            "BuildCache": null,
        });
        let shown: Vec<String> = df_rows(&usage)
            .iter()
            .map(|row| {
                let text = |name: &str| row[name].as_str().unwrap().to_owned();
                ["Type", "TotalCount", "Active", "Size", "Reclaimable"].map(text).join("|")
            })
            .collect();
        assert_eq!(
            shown,
            [
                "Images|2|1|1kB|500B (50%)",
                "Containers|3|1|40B|30B (75%)",
                "Local Volumes|2|1|7B|7B (100%)",
                "Build Cache|0|0|0B|0B",
            ]
        );
    }
}
