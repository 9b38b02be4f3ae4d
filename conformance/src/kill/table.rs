//! Where the kills fell.

use std::collections::BTreeMap;
use std::time::Duration;

use super::STEPS;
use super::strike::{Blow, Place};
use super::trial::Op;

/// Counts for each operation.
#[derive(Debug, Default)]
pub(super) struct Table(BTreeMap<Op, Row>);

#[derive(Debug, Default)]
struct Row {
    in_flight: u32,
    /// Those of them whose answer was on its way, so that the client got it.
    answered: u32,
    after: u32,
    steps: [u32; STEPS.len()],
    /// The earliest and the latest moment of those in flight.
    span: Option<(Duration, Duration)>,
}

impl Table {
    /// Counts a kill that was aimed at `step`, or anywhere.
    pub(super) fn note(&mut self, op: Op, step: Option<&str>, blow: &Blow) {
        let row = self.0.entry(op).or_default();
        match blow.place {
            Place::InFlight => {
                row.in_flight += 1;
                row.answered += u32::from(blow.answer.is_some());
                let (first, last) = row.span.unwrap_or((blow.offset, blow.offset));
                row.span = Some((first.min(blow.offset), last.max(blow.offset)));
            }
            Place::AtStep => {
                if let Some(at) = STEPS.iter().position(|name| Some(*name) == step) {
                    row.steps[at] += 1;
                }
            }
            Place::AfterAnswer => row.after += 1,
        }
    }

    /// The table, and how long the daemon took to come up again.
    pub(super) fn lines(&self, starts: &[Duration]) -> Vec<String> {
        let mut rows: Vec<Vec<String>> = Vec::new();
        let mut head = vec!["op", "in flight", "from ms", "to ms", "answered", "after answer"];
        head.extend(STEPS);
        rows.push(head.into_iter().map(str::to_owned).collect());
        for (op, row) in &self.0 {
            let (first, last) = row.span.unwrap_or_default();
            let mut cells = vec![
                op.name().to_owned(),
                row.in_flight.to_string(),
                milliseconds(first),
                milliseconds(last),
                row.answered.to_string(),
                row.after.to_string(),
            ];
            cells.extend(row.steps.map(|count| count.to_string()));
            rows.push(cells);
        }
        let mut lines = aligned(&rows);
        let mut starts = starts.to_vec();
        starts.sort();
        if let (Some(median), Some(longest)) = (starts.get(starts.len() / 2), starts.last()) {
            lines.push(format!(
                "{} restarts, median {} ms, longest {} ms",
                starts.len(),
                milliseconds(*median),
                milliseconds(*longest)
            ));
        }
        lines
    }
}

fn milliseconds(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

/// Columns as wide as their widest cell, numbers to the right.
fn aligned(rows: &[Vec<String>]) -> Vec<String> {
    let columns = rows.first().map_or(0, Vec::len);
    let width = |column: usize| rows.iter().map(|row| row[column].len()).max().unwrap_or(0);
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let cell = |(column, cell): (usize, &String)| {
        let width = widths[column];
        if column == 0 { format!("{cell:<width$}") } else { format!("{cell:>width$}") }
    };
    let line = |row: &Vec<String>| row.iter().enumerate().map(cell).collect::<Vec<_>>().join("  ");
    rows.iter().map(line).collect()
}
