//! What came of the tests, counted over all tiers.

use std::path::Path;

use anyhow::{Context as _, Result};

use crate::ui;

/// What came of a run.
#[derive(Debug, Default)]
pub(super) struct Total {
    pub(super) passed: u64,
    pub(super) failed: Vec<String>,
    pub(super) skipped: Vec<String>,
}

impl Total {
    /// The programs in `conformance/` report in the same plain form: a line each that begins with
    /// `ok `, `FAILED ` or `skipped `.
    pub(super) fn take_report(&mut self, text: &str) {
        for line in text.lines() {
            if line.starts_with("ok ") {
                self.passed += 1;
            } else if let Some(name) = line.strip_prefix("FAILED ") {
                self.failed.push(name.to_owned());
            } else if let Some(name) = line.strip_prefix("skipped ") {
                self.skipped.push(name.to_owned());
            }
        }
    }

    /// Says what failed and what was skipped; fails if a test failed or a skip is not allowed.
    pub(super) fn finish(&self, allowed: Option<&Path>) -> Result<()> {
        ui::step("total");
        let mut skipped = self.skipped.clone();
        skipped.sort();
        skipped.dedup();
        for name in &skipped {
            ui::line(&format!("skipped: {name}"));
        }
        for name in &self.failed {
            ui::line(&format!("FAILED: {name}"));
        }
        let mut unexpected = Vec::new();
        if let Some(file) = allowed {
            let text = std::fs::read_to_string(file)
                .with_context(|| format!("cannot read {}", file.display()))?;
            let known: Vec<&str> = text
                .lines()
                .filter(|line| !line.is_empty() && !line.starts_with('#'))
                .filter_map(|line| line.split_once(" — ").map(|(name, _reason)| name.trim()))
                .collect();
            unexpected = skipped
                .iter()
                .filter(|skip| !known.iter().any(|name| skip.split(':').next() == Some(name)))
                .cloned()
                .collect();
        }
        for name in &unexpected {
            ui::line(&format!("skipped without leave: {name}"));
        }
        let failed = self.failed.len() + unexpected.len();
        ui::line(&format!("{} passed, {failed} failed, {} skipped", self.passed, skipped.len()));
        if failed > 0 {
            // The total stays the last line.
            return Err(crate::Told.into());
        }
        Ok(())
    }
}
