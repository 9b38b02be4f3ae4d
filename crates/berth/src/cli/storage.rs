//! `storage check`.

use berth_client::{Body, Client, Query};
use hyper::Method;
use serde_json::{Value, json};

use super::args::{StorageArgs, StorageCommand};
use super::containers::size_text;
use super::error::CliError;
use super::table::{Column, Layout};
use super::{messages, terminal, ui};

const COLUMNS: &[Column] =
    &[("Kind", "KIND"), ("Of", "OF"), ("Layer", "DIRECTORY"), ("Problem", "PROBLEM")];
const BAR: u64 = 40;

pub(super) async fn storage(client: &Client, args: StorageArgs) -> Result<u8, CliError> {
    let StorageCommand::Check { deep, format } = args.command;
    let as_json = format.is_some();
    let query = Query::new().flag("deep", deep);
    let path = ["berth", "storage", "check"];
    let stream = client.stream(Method::POST, &path, &query, Body::Empty).await?;
    let mut findings = Vec::new();
    let mut checked = Value::Null;
    let mut progress = Shown::default();
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
    let short = |key: &str| {
        let text = finding[key].as_str().unwrap_or_default();
        text.trim_start_matches("sha256:").chars().take(12).collect::<String>()
    };
    json!({
        "Kind": finding["Kind"], "Of": short("Of"), "Layer": short("Layer"),
        "Problem": finding["Problem"],
    })
}

/// What was looked at, in a sentence.
fn closing(checked: &Value) -> String {
    let number = |key: &str| checked[key].as_u64().unwrap_or_default();
    let counted = |count: u64, one: &str, many: &str| match count {
        0 => format!("no {many}"),
        1 => format!("1 {one}"),
        count => format!("{count} {many}"),
    };
    let read = match number("Bytes") {
        0 => String::new(),
        _ => format!(", {} read", size_text(&checked["Bytes"])),
    };
    format!(
        "{}: {} and {} checked{read}, {}",
        checked["Driver"].as_str().unwrap_or_default(),
        counted(number("Layers"), "image layer", "image layers"),
        counted(number("Containers"), "container", "containers"),
        counted(number("Findings"), "problem", "problems"),
    )
}

/// How far the check is: a bar on a terminal, a line every now and then elsewhere.
#[derive(Default)]
struct Shown {
    tenths: u64,
    has_bar: bool,
}

impl Shown {
    fn show(&mut self, detail: &Value) {
        let (Some(done), Some(total)) = (detail["current"].as_u64(), detail["total"].as_u64())
        else {
            return;
        };
        if terminal::stderr_is_terminal() {
            self.has_bar = true;
            ui::progress(&bar(done, total));
            return;
        }
        let tenths = (done * 10).checked_div(total).unwrap_or(10);
        if tenths > self.tenths {
            self.tenths = tenths;
            ui::error(&format!("checking layers: {done} of {total}"));
        }
    }

    fn end(&self) {
        if self.has_bar {
            ui::progress("");
        }
    }
}

fn bar(done: u64, total: u64) -> String {
    let filled = (done.min(total) * BAR).checked_div(total).unwrap_or(BAR);
    let filled = usize::try_from(filled).unwrap_or_default();
    let width = usize::try_from(BAR).unwrap_or_default();
    format!("checking layers [{:<width$}] {done}/{total}", "=".repeat(filled))
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
    fn the_bar_is_as_long_as_what_is_done() {
        let empty = format!("checking layers [{}] 0/4", " ".repeat(40));
        let half = format!("checking layers [{}{}] 2/4", "=".repeat(20), " ".repeat(20));
        let full = format!("checking layers [{}] 0/0", "=".repeat(40));
        for (done, total, expected) in [(0, 4, empty), (2, 4, half), (0, 0, full)] {
            assert_eq!(bar(done, total), expected);
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
