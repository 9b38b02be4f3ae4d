//! How fast a space fills, and when it is full.

use std::time::Instant;

use crate::thin_pool::Space;

/// After so many seconds the past counts for a third.
const MEMORY: f64 = 300.0;
/// Two looks that are closer say nothing of the rate.
const APART: f64 = 1.0;

/// Bytes a second, the last minutes counting most.
#[derive(Debug, Default)]
pub(super) struct Rate {
    last: Option<(Instant, u64)>,
    per_second: f64,
}

impl Rate {
    /// Takes note of how much is in use. Gives the seconds until nothing is left, if it fills.
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a forecast; what is out of range ends at the type's ends"
    )]
    pub(super) fn note(&mut self, now: Instant, space: &Space) -> Option<u64> {
        match self.last {
            None => self.last = Some((now, space.used)),
            Some((at, before)) => {
                let passed = now.saturating_duration_since(at).as_secs_f64();
                if passed >= APART {
                    let rate = (space.used as f64 - before as f64) / passed;
                    let weight = 1.0 - (-passed / MEMORY).exp();
                    self.per_second += weight * (rate - self.per_second);
                    self.last = Some((now, space.used));
                }
            }
        }
        (self.per_second >= 1.0).then(|| (space.room as f64 / self.per_second) as u64)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_steady_rate_is_found_and_a_pause_lets_it_fade() {
        let begun = Instant::now();
        let mut rate = Rate::default();
        let mut note = |seconds: u64, used: u64| {
            let space =
                Space { used, total: 2_000_000, room: 2_000_000 - used, seconds_to_full: None };
            rate.note(begun + Duration::from_secs(seconds), &space)
        };
        assert_eq!(note(0, 0), None, "one look says nothing");
        for minute in 1..=60 {
            note(minute * 60, minute * 6000);
        }
        // 100 bytes a second, and 1 640 000 bytes are left.
        let found = note(3600, 360_000).expect("it fills");
        assert!((16_300..16_500).contains(&found), "{found}");
        let later = note(7200, 360_000);
        assert_eq!(later, None, "it has not grown for an hour");
        assert_eq!(note(7260, 300_000), None, "it gets emptier");
    }

    #[test]
    fn looks_that_are_too_close_are_one() {
        let begun = Instant::now();
        let mut rate = Rate::default();
        let space = |used| Space { used, total: 1000, room: 1000 - used, seconds_to_full: None };
        rate.note(begun, &space(0));
        assert_eq!(rate.note(begun + Duration::from_millis(1), &space(900)), None);
        let found = rate.note(begun + Duration::from_mins(5), &space(900));
        // 3 bytes a second, of which two thirds count.
        assert_eq!(found, Some(52));
    }
}
