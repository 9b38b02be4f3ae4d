//! `storage info`.

use std::fmt::Write as _;

use berth_client::{Client, Query};
use serde_json::{Value, json};

use super::check::counted;
use crate::cli::containers::size_text;
use crate::cli::error::CliError;
use crate::cli::table::{Column, Layout};
use crate::cli::{template, ui};

const COLUMNS: &[Column] =
    &[("Kind", "KIND"), ("Count", "COUNT"), ("Size", "SIZE"), ("Allocated", "ALLOCATED")];

pub(super) async fn info(client: &Client, format: Option<&str>) -> Result<u8, CliError> {
    let info: Value = client.get(&["berth", "storage", "info"], &Query::new()).await?;
    match format.map(str::trim) {
        Some("json") => ui::line(&serde_json::to_string(&info)?)?,
        Some(format) => ui::line(&template::render(format, &info)?)?,
        None => {
            ui::text(&head(&info))?;
            let default = "{{.Kind}}\t{{.Count}}\t{{.Size}}\t{{.Allocated}}";
            Layout { format: None, default, columns: COLUMNS }.print(&rows(&info))?;
            ui::line(&age(&info))?;
        }
    }
    Ok(0)
}

fn head(info: &Value) -> String {
    let mut text = String::new();
    let mut line = |line: String| writeln!(text, "{line}").expect("writing to memory");
    line(format!("Storage Driver: {}", info["Driver"].as_str().unwrap_or_default()));
    for pair in info["DriverStatus"].as_array().into_iter().flatten() {
        let part = |at: usize| pair[at].as_str().unwrap_or_default();
        line(format!(" {}: {}", part(0), part(1)));
    }
    line(format!("Data Root: {}", info["DataRoot"].as_str().unwrap_or_default()));
    let fs = &info["FileSystem"];
    let number = |key: &str| fs[key].as_u64().unwrap_or_default();
    line(format!(
        " File System: {}, {} of {} free, {} of {} inodes free",
        fs["Type"].as_str().unwrap_or_default(),
        size_text(&fs["BytesFree"]),
        size_text(&fs["BytesTotal"]),
        number("InodesFree"),
        number("InodesTotal"),
    ));
    for hidden in info["Hidden"].as_array().into_iter().flatten() {
        let number = |key: &str| hidden[key].as_u64().unwrap_or_default();
        line(format!(
            " Hidden of {}: {}, {}, {}",
            hidden["Driver"].as_str().unwrap_or_default(),
            counted(number("Images"), "image", "images"),
            counted(number("Layers"), "layer", "layers"),
            counted(number("Containers"), "container", "containers"),
        ));
    }
    if let Some(problems) = info["Problems"].as_u64().filter(|problems| *problems > 0) {
        line(format!(" Problems: {problems} (berth storage check)"));
    }
    text
}

fn rows(info: &Value) -> Vec<Value> {
    let shown = |bytes: &Value| if bytes.is_null() { "-".to_owned() } else { size_text(bytes) };
    let row = |kind: &str, key: &str, count: &str| {
        let of = &info[key];
        let (size, allocated) = (shown(&of["Size"]), shown(&of["Allocated"]));
        json!({ "Kind": kind, "Count": of[count], "Size": size, "Allocated": allocated })
    };
    vec![
        row("Images", "Images", "Count"),
        row("Containers", "Containers", "Count"),
        row("Volumes", "Volumes", "Count"),
    ]
}

/// How old the allocated bytes are.
fn age(info: &Value) -> String {
    let under_way = info["Measuring"] == true;
    let again = if under_way { "; being measured again" } else { "" };
    match info["Measured"]["AgeSeconds"].as_u64() {
        Some(0) => "Allocated bytes: just measured".to_owned(),
        Some(seconds) => {
            let seconds = counted(seconds, "second", "seconds");
            format!("Allocated bytes: measured {seconds} ago{again}")
        }
        None if under_way => "Allocated bytes: being measured".to_owned(),
        None => "Allocated bytes: not measured".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_is_shown_that_there_is() {
        let info = json!({
            "Driver": "overlay2", "DriverStatus": [["Backing Filesystem", "extfs"]],
            "DataRoot": "/data",
            "FileSystem": {
                "Type": "ext4", "BytesTotal": 2000, "BytesFree": 1000,
                "InodesTotal": 20, "InodesFree": 10,
            },
            "Images": { "Count": 3, "Layers": 5, "Size": 1500, "Allocated": 4096 },
            "Containers": { "Count": 1, "Size": 0, "Allocated": null },
            "Volumes": { "Count": 0, "Size": null, "Allocated": 0 },
            "Hidden": [{ "Driver": "vfs", "Images": 1, "Layers": 2, "Containers": 0 }],
            "Problems": 2,
        });
        let expected = "Storage Driver: overlay2\n Backing Filesystem: extfs\nData Root: /data\n \
             File System: ext4, 1kB of 2kB free, 10 of 20 inodes free\n \
             Hidden of vfs: 1 image, 2 layers, no containers\n \
             Problems: 2 (berth storage check)\n";
        assert_eq!(head(&info), expected);
        let expected = [
            json!({ "Kind": "Images", "Count": 3, "Size": "1.5kB", "Allocated": "4.1kB" }),
            json!({ "Kind": "Containers", "Count": 1, "Size": "0B", "Allocated": "-" }),
            json!({ "Kind": "Volumes", "Count": 0, "Size": "-", "Allocated": "0B" }),
        ];
        assert_eq!(rows(&info), expected);
    }

    #[test]
    fn the_age_of_a_measurement_is_said() {
        #[rustfmt::skip]
        let table = [
            (json!({ "Measured": { "AgeSeconds": 0 }, "Measuring": false }),  "just measured"),
            (json!({ "Measured": { "AgeSeconds": 1 }, "Measuring": false }),  "measured 1 second ago"),
            (json!({ "Measured": { "AgeSeconds": 90 }, "Measuring": true }),  "measured 90 seconds ago; being measured again"),
            (json!({ "Measured": null, "Measuring": true }),                  "being measured"),
            (json!({ "Measured": null, "Measuring": false }),                 "not measured"),
        ];
        for (info, expected) in table {
            assert_eq!(age(&info), format!("Allocated bytes: {expected}"));
        }
    }
}
