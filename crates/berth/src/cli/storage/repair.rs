//! `storage repair`.

use berth_client::{Body, Client, Query};
use hyper::Method;
use serde_json::{Value, json};

use super::check::{counted, looked_at, short};
use super::progress::Shown;
use crate::cli::error::CliError;
use crate::cli::table::{Column, Layout};
use crate::cli::{messages, ui};

const COLUMNS: &[Column] = &[
    ("Kind", "KIND"),
    ("Of", "OF"),
    ("Problem", "PROBLEM"),
    ("Remedy", "REMEDY"),
    ("Outcome", "OUTCOME"),
];

pub(super) async fn repair(
    client: &Client,
    deep: bool,
    dry_run: bool,
    as_json: bool,
) -> Result<u8, CliError> {
    let query = Query::new().flag("deep", deep).flag("dry-run", dry_run);
    let path = ["berth", "storage", "repair"];
    let stream = client.stream(Method::POST, &path, &query, Body::Empty).await?;
    let mut repairs = Vec::new();
    let mut sums = Value::Null;
    let mut progress = Shown::new("checking layers");
    messages::each(stream, |message| {
        if !as_json {
            progress.show(&message["progressDetail"]);
        } else if !message["aux"].is_null() {
            ui::line(&message["aux"].to_string())?;
        }
        if let Some(repair) = message["aux"].get("Repair") {
            repairs.push(repair.clone());
        }
        if let Some(repaired) = message["aux"].get("Repaired") {
            sums = repaired.clone();
        }
        Ok(())
    })
    .await?;
    progress.end();
    if !as_json {
        if !repairs.is_empty() {
            let rows: Vec<Value> = repairs.iter().map(row).collect();
            let default = "{{.Kind}}\t{{.Of}}\t{{.Problem}}\t{{.Remedy}}\t{{.Outcome}}";
            Layout { format: None, default, columns: COLUMNS }.print(&rows)?;
        }
        for line in repairs.iter().flat_map(to_do) {
            ui::line(&line)?;
        }
        ui::line(&closing(&sums))?;
    }
    let left = if dry_run { "Findings" } else { "Left" };
    Ok(u8::from(sums[left] != 0))
}

fn row(repair: &Value) -> Value {
    let outcome = match (repair["Outcome"].as_str(), repair["Error"].as_str()) {
        (Some(outcome), Some(error)) => format!("{outcome}: {error}"),
        (outcome, _) => outcome.unwrap_or_default().to_owned(),
    };
    let of = if repair["Of"] == "" { &repair["Layer"] } else { &repair["Of"] };
    json!({
        "Kind": repair["Kind"], "Of": short(of), "Problem": repair["Problem"],
        "Remedy": repair["Remedy"], "Outcome": outcome,
    })
}

/// What was moved where, and what somebody has to do.
fn to_do(repair: &Value) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(moved) = repair["Moved"].as_str() {
        lines.push(format!("{} is kept in {moved}", short(&repair["Layer"])));
    }
    let texts = |value: &Value| -> Vec<String> {
        let list = value.as_array().into_iter().flatten();
        list.filter_map(|text| text.as_str().map(str::to_owned)).collect()
    };
    let images = repair["Images"].as_array().into_iter().flatten();
    let names: Vec<String> = images
        .map(|image| match texts(&image["Names"]) {
            names if names.is_empty() => short(&image["Id"]),
            names => names.join(", "),
        })
        .collect();
    if !names.is_empty() {
        let layer = short(&repair["Of"]);
        lines.push(format!("layer {layer} is part of: {}", names.join("; ")));
        let containers = texts(&repair["Containers"]);
        if !containers.is_empty() {
            lines.push(format!("  which these containers use: {}", containers.join(", ")));
        }
    }
    lines
}

/// What it came to, in a sentence.
fn closing(sums: &Value) -> String {
    let number = |key: &str| sums[key].as_u64().unwrap_or_default();
    let problems = |key: &str| counted(number(key), "problem", "problems");
    let looked_at = looked_at(sums);
    if number("Findings") == 0 {
        return format!("{looked_at}, no problems");
    }
    let verb = if sums["DryRun"] == true { "would be mended" } else { "mended" };
    format!("{looked_at}, {} {verb}, {} left", problems("Mended"), problems("Left"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_came_to_is_a_sentence() {
        let sums = |findings: u64, mended: u64, left: u64, dry_run: bool| {
            json!({
                "Driver": "vfs", "Layers": 2, "Containers": 0, "Bytes": 0,
                "Findings": findings, "Mended": mended, "Left": left, "DryRun": dry_run,
            })
        };
        let looked_at = "vfs: 2 image layers and no containers checked";
        #[rustfmt::skip]
        let table = [
            (sums(0, 0, 0, false), "no problems"),
            (sums(3, 2, 1, false), "2 problems mended, 1 problem left"),
            (sums(1, 1, 0, true),  "1 problem would be mended, no problems left"),
        ];
        for (sums, expected) in table {
            assert_eq!(closing(&sums), format!("{looked_at}, {expected}"));
        }
    }

    #[test]
    fn a_repair_is_a_line_and_what_is_left_to_do() {
        let mut repair = json!({
            "Driver": "vfs", "Layer": "cd".repeat(32), "Kind": "image layer",
            "Of": format!("sha256:{}", "ab".repeat(32)), "Problem": "it is gone",
            "Remedy": "fill it again", "Outcome": "failed", "Error": "no space",
        });
        let expected = json!({
            "Kind": "image layer", "Of": "abababababab", "Problem": "it is gone",
            "Remedy": "fill it again", "Outcome": "failed: no space",
        });
        assert_eq!(row(&repair), expected);
        assert_eq!(to_do(&repair), Vec::<String>::new());
        repair["Moved"] = json!("/lost/one");
        repair["Images"] = json!([
            { "Id": format!("sha256:{}", "12".repeat(32)), "Names": [] },
            { "Id": "sha256:34", "Names": ["web:1", "web:2"] },
        ]);
        repair["Containers"] = json!(["shop"]);
        assert_eq!(
            to_do(&repair),
            [
                "cdcdcdcdcdcd is kept in /lost/one",
                "layer abababababab is part of: 121212121212; web:1, web:2",
                "  which these containers use: shop",
            ]
        );
        repair["Of"] = json!("");
        assert_eq!(row(&repair)["Of"], "cdcdcdcdcdcd");
    }
}
