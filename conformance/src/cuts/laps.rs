//! Where the time of a check goes.

use std::fmt;
use std::time::{Duration, Instant};

/// The time of each part, over all points.
#[derive(Debug)]
pub(super) struct Laps {
    since: Instant,
    parts: Vec<(&'static str, Duration)>,
}

impl Laps {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), parts: Vec::new() }
    }

    /// A point begins.
    pub(super) fn begin(&mut self) {
        self.since = Instant::now();
    }

    /// A part has come to its end, and the next one begins.
    pub(super) fn end(&mut self, part: &'static str) {
        let took = self.since.elapsed();
        self.since = Instant::now();
        match self.parts.iter_mut().find(|(known, _)| *known == part) {
            Some((_, sum)) => *sum += took,
            None => self.parts.push((part, took)),
        }
    }
}

/// Gives each part's seconds.
impl fmt::Display for Laps {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts = self.parts.iter();
        let parts: Vec<String> =
            parts.map(|(part, took)| format!("{part} {:.1}", took.as_secs_f32())).collect();
        f.write_str(&parts.join(", "))
    }
}
