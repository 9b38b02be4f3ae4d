//! `storage check`.

use berth_client::{Body, Client, Query};
use hyper::Method;
use serde_json::{Value, json};

use super::progress::Shown;
use crate::cli::containers::size_text;
use crate::cli::error::CliError;
use crate::cli::table::{Column, Layout};
use crate::cli::{messages, ui};

const COLUMNS: &[Column] =
    &[("Kind", "KIND"), ("Of", "OF"), ("Layer", "DIRECTORY"), ("Problem", "PROBLEM")];

pub(super) async fn check(client: &Client, deep: bool, as_json: bool) -> Result<u8, CliError> {
    let query = Query::new().flag("deep", deep);
    let path = ["berth", "storage", "check"];
    let stream = client.stream(Method::POST, &path, &query, Body::Empty).await?;
    let mut findings = Vec::new();
    let mut checked = Value::Null;
    let mut progress = Shown::new("checking layers");
    messages::each(stream, |message| {
        if as_json {
            if !message["aux"].is_null() {
                ui::line(&message["aux"].to_string())?;
            }
        } else {
            progress.show(&message["progressDetail"]);
        }
        if let Some(finding) = message["aux"].get("Finding") {
            findings.push(finding.clone());
        }
        if let Some(sums) = message["aux"].get("Checked") {
            checked = sums.clone();
        }
        Ok(())
    })
    .await?;
    progress.end();
    if !as_json {
        print(&findings, &checked)?;
    }
    Ok(u8::from(!findings.is_empty()))
}

fn print(findings: &[Value], checked: &Value) -> Result<(), CliError> {
    if !findings.is_empty() {
        let rows: Vec<Value> = findings.iter().map(row).collect();
        let default = "{{.Kind}}\t{{.Of}}\t{{.Layer}}\t{{.Problem}}";
        Layout { format: None, default, columns: COLUMNS }.print(&rows)?;
    }
    Ok(ui::line(&closing(checked))?)
}

fn row(finding: &Value) -> Value {
    json!({
        "Kind": finding["Kind"], "Of": short(&finding["Of"]), "Layer": short(&finding["Layer"]),
        "Problem": finding["Problem"],
    })
}

/// The beginning of an id.
pub(super) fn short(id: &Value) -> String {
    let text = id.as_str().unwrap_or_default();
    text.trim_start_matches("sha256:").chars().take(12).collect()
}

/// What was looked at, in a sentence.
fn closing(checked: &Value) -> String {
    let findings = checked["Findings"].as_u64().unwrap_or_default();
    format!("{}, {}", looked_at(checked), counted(findings, "problem", "problems"))
}

/// What was looked at, without what was found.
pub(super) fn looked_at(sums: &Value) -> String {
    let number = |key: &str| sums[key].as_u64().unwrap_or_default();
    let read = match number("Bytes") {
        0 => String::new(),
        _ => format!(", {} read", size_text(&sums["Bytes"])),
    };
    format!(
        "{}: {} and {} checked{read}",
        sums["Driver"].as_str().unwrap_or_default(),
        counted(number("Layers"), "image layer", "image layers"),
        counted(number("Containers"), "container", "containers"),
    )
}

/// A number of things, in words when it is none.
pub(super) fn counted(count: u64, one: &str, many: &str) -> String {
    match count {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_looked_at_is_a_sentence() {
        #[rustfmt::skip]
        let table = [
            (json!({"Driver": "vfs", "Layers": 0, "Containers": 0, "Bytes": 0, "Findings": 0}),
                "vfs: no image layers and no containers checked, no problems"),
            (json!({"Driver": "overlay2", "Layers": 1, "Containers": 2, "Bytes": 1500, "Findings": 1}),
                "overlay2: 1 image layer and 2 containers checked, 1.5kB read, 1 problem"),
        ];
        for (checked, expected) in table {
            assert_eq!(closing(&checked), expected);
        }
    }

    #[test]
    fn findings_fit_a_line() {
        let finding = json!({
            "Kind": "image layer", "Of": format!("sha256:{}", "ab".repeat(32)),
            "Layer": "cd".repeat(32), "Problem": "it is gone",
        });
        let expected = json!({
            "Kind": "image layer", "Of": "abababababab", "Layer": "cdcdcdcdcdcd",
            "Problem": "it is gone",
        });
        assert_eq!(row(&finding), expected);
    }
}
