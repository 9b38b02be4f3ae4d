//! Rules about the sources that no compiler knows.
//!
//! * A crate depends on crates of lower layers only.
//! * A file has at most 800 lines of product code.
//! * No unfinished marks, no panicking stubs.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::{run, ui};

/// Each crate's layer. A crate may depend on lower numbers only.
const LAYERS: &[(&str, u32)] = &[
    ("berth-types", 0),
    ("berth-sys", 1),
    ("berth-api", 1),
    ("berth-build", 2),
    ("berth-fs", 2),
    ("berth-db", 2),
    ("berth-storage", 3),
    ("berth-shim-proto", 3),
    ("berth-layers", 4),
    ("berth-volumes", 4),
    ("berth-networks", 4),
    ("berth-logs", 4),
    ("berth-runtime", 4),
    ("berth-registry", 4),
    ("berth-images", 5),
    ("berth-engine", 7),
    ("berth-http", 8),
    ("berth-client", 8),
    ("berth", 9),
    ("berth-shim", 9),
    ("berth-fuzz", TOOLS),
    ("conformance", TOOLS),
    ("xtask", TOOLS),
];

/// The layer of what is not part of the product.
const TOOLS: u32 = 10;

/// Crates that tests of every layer may use, and tools.
const FOR_TESTS: &[&str] = &["testkit"];

/// The most lines of product code in a file.
const LONGEST_FILE: usize = 800;

/// Files that are long because they are tables. The list only shrinks.
const TABLES: &[&str] = &[];

/// Marks of unfinished work. Written in two parts, so that this file does not contain them.
const MARKS: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("XX", "X:"), ("todo", "!("), ("unimplemented", "!(")];

/// Checks every rule and says all that is wrong.
pub(crate) fn run() -> Result<()> {
    let mut wrong = Vec::new();
    layers(&mut wrong)?;
    for file in sources()? {
        let text = std::fs::read_to_string(&file)?;
        let shown = file.strip_prefix(run::workspace()).unwrap_or(&file).to_owned();
        long_file(&shown, &text, &mut wrong);
        marks(&shown, &text, &mut wrong);
    }
    if wrong.is_empty() {
        return Ok(());
    }
    for line in &wrong {
        ui::line(line);
    }
    bail!("tidy: {} rules broken", wrong.len());
}

fn layers(wrong: &mut Vec<String>) -> Result<()> {
    let text = run::output(run::cargo().args(["metadata", "--format-version", "1", "--no-deps"]))?;
    let metadata: Value = serde_json::from_str(&text).context("cargo metadata is JSON")?;
    let layer: BTreeMap<&str, u32> = LAYERS.iter().copied().collect();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        if FOR_TESTS.contains(&name) {
            continue;
        }
        let Some(own) = layer.get(name) else {
            wrong.push(format!("{name}: has no layer in xtask/src/tidy.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let other = dependency["name"].as_str().unwrap_or_default();
            let is_dev = dependency["kind"].as_str() == Some("dev");
            if FOR_TESTS.contains(&other) && !is_dev && *own < TOOLS {
                wrong.push(format!("{name}: {other} is for tests only"));
            }
            let Some(below) = layer.get(other) else { continue };
            if below >= own && !(is_dev && other == name) {
                wrong.push(format!("{name} (layer {own}) depends on {other} (layer {below})"));
            }
        }
    }
    Ok(())
}

fn long_file(file: &Path, text: &str, wrong: &mut Vec<String>) {
    let shown = file.display().to_string();
    let is_test = shown.contains("/tests/") || shown.ends_with("tests.rs");
    if is_test || TABLES.contains(&shown.as_str()) {
        return;
    }
    let product = text
        .lines()
        .take_while(|line| line.trim() != "#[cfg(test)]" || line.starts_with(' '))
        .count();
    if product > LONGEST_FILE {
        wrong.push(format!("{shown}: {product} lines of product code, at most {LONGEST_FILE}"));
    }
}

fn marks(file: &Path, text: &str, wrong: &mut Vec<String>) {
    for (number, line) in text.lines().enumerate() {
        for (first, second) in MARKS {
            let mark = format!("{first}{second}");
            let starts_word =
                |at: usize| !line[..at].chars().next_back().is_some_and(char::is_alphanumeric);
            if line.match_indices(&mark).any(|(at, _)| starts_word(at)) {
                wrong.push(format!("{}:{}: {mark}", file.display(), number + 1));
            }
        }
    }
}

fn sources() -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    let mut dirs: Vec<PathBuf> =
        ["crates", "xtask", "fuzz", "conformance"].map(|dir| run::workspace().join(dir)).to_vec();
    while let Some(dir) = dirs.pop() {
        let Ok(entries) = std::fs::read_dir(&dir) else { continue };
        for entry in entries {
            let path = entry?.path();
            if path.is_dir() {
                if path.file_name().is_none_or(|name| name != "target") {
                    dirs.push(path);
                }
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                files.push(path);
            }
        }
    }
    files.sort();
    Ok(files)
}
