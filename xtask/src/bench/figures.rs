//! What was measured, and the table of it.

use std::time::Duration;

use crate::ui;

/// What a row's numbers are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Unit {
    Milliseconds,
    Mebibytes,
}

#[derive(Debug)]
struct Row {
    what: String,
    unit: Unit,
    /// The samples of each engine.
    samples: Vec<Vec<f64>>,
    /// Why there are none.
    skipped: Option<String>,
}

/// What was measured.
#[derive(Debug)]
pub(super) struct Figures {
    engines: Vec<String>,
    rows: Vec<Row>,
}

impl Figures {
    pub(super) fn new(engines: Vec<String>) -> Self {
        Self { engines, rows: Vec::new() }
    }

    /// Adds a sample of the engine with this number.
    pub(super) fn add(&mut self, what: &str, unit: Unit, engine: usize, sample: f64) {
        self.row(what, unit).samples[engine].push(sample);
    }

    pub(super) fn add_time(&mut self, what: &str, engine: usize, time: Duration) {
        self.add(what, Unit::Milliseconds, engine, time.as_secs_f64() * 1e3);
    }

    /// Notes why a row is not there for an engine.
    pub(super) fn skip(&mut self, what: &str, why: &str) {
        self.row(what, Unit::Milliseconds).skipped = Some(why.to_owned());
    }

    fn row(&mut self, what: &str, unit: Unit) -> &mut Row {
        let at = self.rows.iter().position(|row| row.what == what).unwrap_or(self.rows.len());
        if at == self.rows.len() {
            let samples = vec![Vec::new(); self.engines.len()];
            self.rows.push(Row { what: what.to_owned(), unit, samples, skipped: None });
        }
        &mut self.rows[at]
    }

    /// Medians, with the range of the first engine's samples, and its ratio to each other engine.
    pub(super) fn print(&self) {
        ui::table(&self.table());
        for row in &self.rows {
            if let Some(why) = &row.skipped {
                ui::line(&format!("{}: {why}", row.what));
            }
        }
    }

    fn table(&self) -> Vec<Vec<String>> {
        let mut head = vec!["median".to_owned(), String::new()];
        head.extend(self.engines.iter().cloned());
        head.extend(
            self.engines.iter().skip(1).map(|other| format!("{}/{other}", self.engines[0])),
        );
        head.push("runs".to_owned());
        let mut table = vec![head];
        for row in self.rows.iter().filter(|row| row.samples.iter().any(|one| !one.is_empty())) {
            let medians: Vec<Option<f64>> = row.samples.iter().map(|one| median(one)).collect();
            let unit = match row.unit {
                Unit::Milliseconds => "ms",
                Unit::Mebibytes => "MiB",
            };
            let mut cells = vec![row.what.clone(), unit.to_owned()];
            let number = |value: &Option<f64>| value.map_or("–".to_owned(), short);
            cells.extend(medians.iter().map(number));
            cells.extend(medians.iter().skip(1).map(|other| match (medians[0], other) {
                (Some(own), Some(other)) if *other > 0.0 => format!("{:.2}", own / other),
                _ => "–".to_owned(),
            }));
            cells.push(row.samples.iter().map(Vec::len).max().unwrap_or(0).to_string());
            table.push(cells);
        }
        table
    }
}

/// Three digits or so.
fn short(value: f64) -> String {
    if value >= 100.0 {
        format!("{value:.0}")
    } else if value >= 10.0 {
        format!("{value:.1}")
    } else {
        format!("{value:.2}")
    }
}

fn median(samples: &[f64]) -> Option<f64> {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    match sorted.len() {
        0 => None,
        length if length % 2 == 1 => Some(sorted[middle]),
        _ => Some(f64::midpoint(sorted[middle - 1], sorted[middle])),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_shows_medians_and_ratios() {
        let mut figures = Figures::new(vec!["a".to_owned(), "b".to_owned()]);
        for (engine, sample) in [(0, 1.0), (1, 4.0), (0, 3.0), (1, 8.0), (0, 2.0)] {
            figures.add("run", Unit::Milliseconds, engine, sample);
        }
        figures.add("memory", Unit::Mebibytes, 0, 12.5);
        figures.skip("bridge", "none here");
        let rows = [
            ["median", "", "a", "b", "a/b", "runs"],
            ["run", "ms", "2.00", "6.00", "0.33", "3"],
            ["memory", "MiB", "12.5", "–", "–", "1"],
        ];
        assert_eq!(figures.table(), rows);
    }
}
