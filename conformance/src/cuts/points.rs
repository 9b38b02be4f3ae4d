//! Where the power is cut.

use std::fmt;

use anyhow::{Context as _, Result, ensure};
use testkit::writelog::WriteLog;

use super::MARKS_AT;
use super::expected::Expected;
use crate::kill::random::Random;

/// After so many entries of the record, with this seed for what had not been flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Point {
    pub(super) entries: usize,
    pub(super) seed: u64,
}

impl Point {
    pub(super) fn parse(text: &str) -> Result<Self> {
        let parts = text.split_once(':').and_then(|(entries, seed)| {
            Some(Self { entries: entries.parse().ok()?, seed: seed.parse().ok()? })
        });
        parts.with_context(|| format!("not POINT:SEED: {text:?}"))
    }
}

impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.entries, self.seed)
    }
}

/// A record, and what was marked when.
#[derive(Debug)]
pub(super) struct Record {
    log: WriteLog,
    marks: Vec<(usize, Expected)>,
}

impl Record {
    pub(super) fn open(log: WriteLog) -> Result<Self> {
        let marks = log.marks(MARKS_AT)?;
        let marks = marks.into_iter().map(|(at, mark)| Ok((at, Expected::parse(&mark)?)));
        let marks = marks.collect::<Result<Vec<_>>>()?;
        ensure!(marks.len() > 1, "nothing was marked in the record");
        Ok(Self { log, marks })
    }

    pub(super) fn log(&self) -> &WriteLog {
        &self.log
    }

    /// How many operations were acknowledged.
    pub(super) fn acknowledged(&self) -> usize {
        self.marks.iter().filter(|(_, mark)| mark.is_settled()).count()
    }

    /// What was marked last before the point.
    pub(super) fn expected(&self, point: Point) -> Result<&Expected> {
        let before = self.marks.iter().rfind(|(at, _)| *at < point.entries);
        Ok(&before.context("there is nothing to expect so early")?.1)
    }

    /// Points between the first mark and the end: a third right after something was acknowledged,
    /// a third right before a flush, where most is uncertain, and the rest anywhere.
    pub(super) fn choose(&self, count: usize, seed: u64) -> Vec<Point> {
        let mut random = Random::new(seed);
        let first = self.marks[0].0 + 1;
        let (end, _) = self.log.counts();
        let acknowledged: Vec<usize> =
            self.marks.iter().filter(|(_, mark)| mark.is_settled()).map(|(at, _)| at + 1).collect();
        let mut flushes = self.log.flushes();
        flushes.retain(|at| *at >= first);
        let any: Vec<usize> = (first..=end).collect();
        let mut points: Vec<Point> = (0..count)
            .map(|number| {
                let from = match number % 3 {
                    0 => &acknowledged,
                    1 if !flushes.is_empty() => &flushes,
                    _ => &any,
                };
                Point { entries: from[random.below(from.len())], seed: random.next() % 1000 }
            })
            .collect();
        points.sort_by_key(|point| point.entries);
        points
    }
}
