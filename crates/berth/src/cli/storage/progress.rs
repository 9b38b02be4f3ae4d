//! How far a long operation is.

use serde_json::Value;

use crate::cli::{terminal, ui};

const BAR: u64 = 40;

/// How far something is: a bar on a terminal, a line every now and then elsewhere.
pub(super) struct Shown {
    what: String,
    tenths: u64,
    has_bar: bool,
}

impl Shown {
    /// `what` is being done.
    pub(super) fn new(what: &str) -> Self {
        Self { what: what.to_owned(), tenths: 0, has_bar: false }
    }

    pub(super) fn show(&mut self, detail: &Value) {
        let (Some(done), Some(total)) = (detail["current"].as_u64(), detail["total"].as_u64())
        else {
            return;
        };
        if terminal::stderr_is_terminal() {
            self.has_bar = true;
            ui::progress(&bar(&self.what, done, total));
            return;
        }
        let tenths = (done * 10).checked_div(total).unwrap_or(10);
        if tenths > self.tenths {
            self.tenths = tenths;
            ui::error(&format!("{}: {done} of {total}", self.what));
        }
    }

    pub(super) fn end(&self) {
        if self.has_bar {
            ui::progress("");
        }
    }
}

fn bar(what: &str, done: u64, total: u64) -> String {
    let filled = (done.min(total) * BAR).checked_div(total).unwrap_or(BAR);
    let filled = usize::try_from(filled).unwrap_or_default();
    let width = usize::try_from(BAR).unwrap_or_default();
    format!("{what} [{:<width$}] {done}/{total}", "=".repeat(filled))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bar_is_as_long_as_what_is_done() {
        let empty = format!("checking layers [{}] 0/4", " ".repeat(40));
        let half = format!("checking layers [{}{}] 2/4", "=".repeat(20), " ".repeat(20));
        let full = format!("checking layers [{}] 0/0", "=".repeat(40));
        for (done, total, expected) in [(0, 4, empty), (2, 4, half), (0, 0, full)] {
            assert_eq!(bar("checking layers", done, total), expected);
        }
    }
}
