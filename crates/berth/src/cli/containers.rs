//! Looking at containers: ps, top, diff.

use std::time::Duration;

use berth_client::{Client, Query};
use berth_types::{Timestamp, duration, size};
use serde_json::{Map, Value, json};

use super::args::{OneContainer, PsArgs, TopArgs};
use super::error::CliError;
use super::table::{Column, Layout, align, ellipsis};
use super::ui;

const COLUMNS: &[Column] = &[
    ("Command", "COMMAND"),
    ("CreatedAt", "CREATED AT"),
    ("ID", "CONTAINER ID"),
    ("Image", "IMAGE"),
    ("Labels", "LABELS"),
    ("LocalVolumes", "LOCAL VOLUMES"),
    ("Mounts", "MOUNTS"),
    ("Names", "NAMES"),
    ("Networks", "NETWORKS"),
    ("Platform", "PLATFORM"),
    ("Ports", "PORTS"),
    ("RunningFor", "CREATED"),
    ("Size", "SIZE"),
    ("State", "STATE"),
    ("Status", "STATUS"),
];

const DEFAULT: &str =
    "{{.ID}}\t{{.Image}}\t{{.Command}}\t{{.RunningFor}}\t{{.Status}}\t{{.Ports}}\t{{.Names}}";

pub(super) async fn ps(client: &Client, args: PsArgs) -> Result<u8, CliError> {
    let last = if args.latest { 1 } else { args.last };
    let wants_size = args.size || args.format.as_deref().is_some_and(|text| text.contains(".Size"));
    let query = Query::new()
        .flag("all", args.all || last > 0)
        .flag("size", wants_size)
        .optional("limit", (last > 0).then(|| last.to_string()))
        .optional("filters", filters(&args.filter)?);
    let containers: Vec<Value> = client.get(&["containers", "json"], &query).await?;
    if args.quiet && args.format.is_none() {
        for container in &containers {
            let id = container["Id"].as_str().unwrap_or_default();
            ui::line(if args.no_trunc { id } else { short_id(id) })?;
        }
        return Ok(0);
    }
    let now = Timestamp::now();
    let rows: Vec<Value> =
        containers.iter().map(|container| row(container, now, !args.no_trunc)).collect();
    let with_size = format!("{DEFAULT}\t{{{{.Size}}}}");
    let default = if args.size { &with_size } else { DEFAULT };
    Layout { format: args.format.as_deref(), default, columns: COLUMNS }.print(&rows)?;
    Ok(0)
}

fn row(container: &Value, now: Timestamp, trunc: bool) -> Value {
    let text = |name: &str| container[name].as_str().unwrap_or_default();
    let id = text("Id");
    let command = text("Command");
    let command = if trunc { ellipsis(command, 20) } else { command.to_owned() };
    let created = container["Created"].as_i64().unwrap_or_default();
    let names = container["Names"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names: Vec<&str> = names
        .iter()
        .filter_map(Value::as_str)
        .map(|name| name.trim_start_matches('/'))
        .filter(|name| !trunc || !name.contains('/'))
        .collect();
    let image = text("Image");
    let image = match image.strip_prefix("sha256:") {
        Some(hex) if trunc => hex.get(..12).unwrap_or(hex),
        _ => image,
    };
    let (mounts, local) = mounts(container, trunc);
    let networks = container.pointer("/NetworkSettings/Networks").and_then(Value::as_object);
    let networks: Vec<&str> =
        networks.map(|all| all.keys().map(String::as_str).collect()).unwrap_or_default();
    json!({
        "Command": format!("{command:?}"),
        "CreatedAt": local_time(created),
        "ID": if trunc { short_id(id) } else { id },
        "Image": image,
        "Labels": labels(&container["Labels"]),
        "LocalVolumes": local.to_string(),
        "Mounts": mounts,
        "Names": names.join(","),
        "Networks": networks.join(","),
        "Platform": null,
        "Ports": ports(&container["Ports"]),
        "RunningFor": ago(created, now),
        "Size": sizes(container),
        "State": text("State"),
        "Status": text("Status"),
    })
}

fn mounts(container: &Value, trunc: bool) -> (String, usize) {
    let all = container["Mounts"].as_array().map(Vec::as_slice).unwrap_or_default();
    let local = all.iter().filter(|mount| mount["Driver"] == "local").count();
    let names: Vec<String> = all
        .iter()
        .map(|mount| {
            let name = mount["Name"].as_str().filter(|name| !name.is_empty());
            let name = name.or(mount["Source"].as_str()).unwrap_or_default();
            if trunc { ellipsis(name, 15) } else { name.to_owned() }
        })
        .collect();
    (names.join(","), local)
}

/// `2B (virtual 5.59MB)`.
fn sizes(container: &Value) -> String {
    let written = size_text(&container["SizeRw"]);
    match container["SizeRootFs"].as_i64() {
        Some(total @ 1..) => format!("{written} (virtual {})", size_text(&json!(total))),
        _ => written,
    }
}

/// Bytes as the tables show them; absent is nothing.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
pub(super) fn size_text(bytes: &Value) -> String {
    size::human_short(bytes.as_i64().unwrap_or_default() as f64)
}

/// `0.0.0.0:80->80/tcp, 443/tcp`.
fn ports(ports: &Value) -> String {
    let mut all: Vec<(u64, String)> = ports
        .as_array()
        .map(Vec::as_slice)
        .unwrap_or_default()
        .iter()
        .map(|port| {
            let private = port["PrivatePort"].as_u64().unwrap_or_default();
            let kind = port["Type"].as_str().unwrap_or("tcp");
            let text = match (port["PublicPort"].as_u64(), port["IP"].as_str()) {
                (Some(public @ 1..), Some(ip)) if ip.contains(':') => {
                    format!("[{ip}]:{public}->{private}/{kind}")
                }
                (Some(public @ 1..), Some(ip)) => format!("{ip}:{public}->{private}/{kind}"),
                _ => format!("{private}/{kind}"),
            };
            (private, text)
        })
        .collect();
    all.sort();
    all.into_iter().map(|(_, text)| text).collect::<Vec<_>>().join(", ")
}

fn labels(labels: &Value) -> String {
    let pairs = labels.as_object().into_iter().flatten();
    let pairs: Vec<String> =
        pairs.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect();
    pairs.join(",")
}

/// The first 12 digits.
pub(super) fn short_id(id: &str) -> &str {
    let hex = id.strip_prefix("sha256:").unwrap_or(id);
    hex.get(..12).unwrap_or(hex)
}

/// `3 weeks ago`.
pub(super) fn ago(created: i64, now: Timestamp) -> String {
    let seconds = u64::try_from(now.unix() - created).unwrap_or_default();
    format!("{} ago", duration::human(Duration::from_secs(seconds)))
}

/// A time as Go prints it: `2026-01-02 03:04:05 +0000 UTC`.
pub(super) fn local_time(seconds: i64) -> String {
    let Ok(time) = jiff::Timestamp::from_second(seconds) else { return String::new() };
    let zoned = time.to_zoned(jiff::tz::TimeZone::system());
    zoned.strftime("%Y-%m-%d %H:%M:%S %z %Z").to_string()
}

/// `key=value` filters as the API takes them.
pub(super) fn filters(texts: &[String]) -> Result<Option<String>, CliError> {
    if texts.is_empty() {
        return Ok(None);
    }
    let mut filters: Map<String, Value> = Map::new();
    for text in texts {
        let (key, value) = text.split_once('=').ok_or_else(|| {
            CliError::new(format!(
                "invalid argument \"{text}\" for \"-f, --filter\" flag: invalid filter '{text}'"
            ))
        })?;
        let key = key.trim().to_lowercase();
        filters.entry(key).or_insert_with(|| json!({}))[value.trim()] = json!(true);
    }
    Ok(Some(serde_json::to_string(&filters)?))
}

pub(super) async fn top(client: &Client, args: TopArgs) -> Result<u8, CliError> {
    let options = args.options.join(" ");
    let query = Query::new().optional("ps_args", (!options.is_empty()).then_some(options));
    let answer: Value = client.get(&["containers", &args.container, "top"], &query).await?;
    let join = |cells: &Value| {
        let cells = cells.as_array().map(Vec::as_slice).unwrap_or_default();
        cells.iter().filter_map(Value::as_str).collect::<Vec<_>>().join("\t")
    };
    let mut lines = vec![join(&answer["Titles"])];
    lines.extend(answer["Processes"].as_array().into_iter().flatten().map(join));
    ui::text(&align(&lines))?;
    Ok(0)
}

pub(super) async fn diff(client: &Client, args: OneContainer) -> Result<u8, CliError> {
    let path = ["containers", args.container.as_str(), "changes"];
    let changes: Option<Vec<Value>> = client.get(&path, &Query::new()).await?;
    for change in changes.unwrap_or_default() {
        let kind = match change["Kind"].as_i64() {
            Some(0) => 'C',
            Some(1) => 'A',
            _ => 'D',
        };
        ui::line(&format!("{kind} {}", change["Path"].as_str().unwrap_or_default()))?;
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_of_ps_is_dockers() {
        let container = json!({
            "Id": "0123456789abcdef".repeat(4), "Names": ["/web", "/other/link"], "Image": "debian:12",
            "Command": "sh -c 'sleep 1000; echo done'", "Created": 1_700_000_000, "State": "running",
            "Status": "Up 2 minutes", "SizeRw": 2, "SizeRootFs": 5_590_000, "Labels": {"a": "b"},
            "Ports": [{"PrivatePort": 443, "Type": "tcp"},
                      {"IP": "0.0.0.0", "PrivatePort": 80, "PublicPort": 8080, "Type": "tcp"}],
            "Mounts": [{"Type": "volume", "Name": "data", "Driver": "local"}],
            "NetworkSettings": {"Networks": {"bridge": {}}},
        });
        let now = Timestamp::from_unix(1_700_000_000 + 180, 0).unwrap();
        let got = row(&container, now, true);
        let expected = [
            ("ID", "0123456789ab"),
            ("Command", "\"sh -c 'sleep 1000; …\""),
            ("RunningFor", "3 minutes ago"),
            ("Names", "web"),
            ("Ports", "0.0.0.0:8080->80/tcp, 443/tcp"),
            ("Size", "2B (virtual 5.59MB)"),
            ("Labels", "a=b"),
            ("Mounts", "data"),
            ("LocalVolumes", "1"),
            ("Networks", "bridge"),
        ];
        for (field, text) in expected {
            assert_eq!(got[field], json!(text), "{field}");
        }
        let fields: Vec<_> = got.as_object().unwrap().keys().map(String::as_str).collect();
        let columns: Vec<_> = COLUMNS.iter().map(|(name, _)| *name).collect();
        assert_eq!(fields, columns);
    }

    #[test]
    fn filters_are_sent_as_sets() {
        let texts = ["label=a=b", "label=c", "Status=running"].map(str::to_owned);
        let expected = r#"{"label":{"a=b":true,"c":true},"status":{"running":true}}"#;
        assert_eq!(filters(&texts), Ok(Some(expected.to_owned())));
        assert!(filters(&["x".to_owned()]).is_err());
    }
}
