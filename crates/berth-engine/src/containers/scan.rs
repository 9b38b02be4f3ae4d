//! What running containers have written, for lists that must not wait for a walk through a large tree.
//!
//! Each container has a [`Scan`]: the last measurement, and whether one is under way. Whoever asks
//! starts one in the background, waits for it for a moment (most trees take milliseconds, and then the
//! answer is exact), and takes the last one otherwise. A walk that takes long is repeated less often.

use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;

use super::registry::Container;
use crate::blocking::blocking;
use crate::engine::Engine;

/// How long one list waits for all measurements together.
pub(crate) const MOMENT: Duration = Duration::from_millis(250);
/// The oldest that a measurement gets while somebody asks, the time of a walk left aside.
const OLDEST: Duration = Duration::from_secs(10);
/// A walk is repeated after so many times its own length.
const REST: u32 = 10;

/// Walks at the same time. More would not be faster; and when a disk hangs, those that hang on it must
/// not be all the threads that there are.
const AT_ONCE: usize = 4;

/// Leave to walk.
#[derive(Debug)]
pub(crate) struct Scans(pub(super) Semaphore);

impl Default for Scans {
    fn default() -> Self {
        Self(Semaphore::new(AT_ONCE))
    }
}

/// The measurements of one container.
#[derive(Debug, Default)]
pub(crate) struct Scan {
    known: Mutex<Known>,
    done: Condvar,
}

#[derive(Debug, Default)]
struct Known {
    size: Option<i64>,
    /// When the last walk ended, and how long it took.
    last: Option<(Instant, Duration)>,
    under_way: bool,
    /// Something was written from outside since the last walk began.
    outdated: bool,
}

impl Scan {
    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change is one assignment, so a panic elsewhere leaves it whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the caller has to measure now; it must [`finish`](Self::finish) then.
    fn begin(&self, now: Instant) -> bool {
        let mut known = self.known();
        let rests = known.last.is_some_and(|(at, took)| {
            now.saturating_duration_since(at) < (took * REST).min(OLDEST)
        });
        if known.under_way || (rests && !known.outdated) {
            return false;
        }
        known.under_way = true;
        known.outdated = false;
        true
    }

    /// A measurement has ended, `None` without a result.
    fn finish(&self, size: Option<i64>, took: Duration, now: Instant) {
        let mut known = self.known();
        known.under_way = false;
        known.last = Some((now, took));
        known.size = size.or(known.size);
        drop(known);
        self.done.notify_all();
    }

    /// The last measurement of this run.
    pub(crate) fn last(&self) -> Option<i64> {
        self.known().size
    }

    /// What is known by `deadline`, or earlier when nothing is under way.
    fn wait(&self, deadline: Instant) -> Option<i64> {
        let mut known = self.known();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if !known.under_way || left.is_zero() {
                return known.size;
            }
            let waited = self.done.wait_timeout(known, left);
            known = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }

    /// Forgets everything: the container runs anew.
    pub(crate) fn reset(&self, size: Option<i64>) {
        *self.known() = Known { size, ..Known::default() };
    }

    /// The next one who asks measures.
    pub(crate) fn outdate(&self) {
        self.known().outdated = true;
    }
}

/// Starts measuring what a running container has written, unless that has just been done.
pub(crate) fn kick(engine: &Engine, container: &Arc<Container>) {
    if !container.scan.begin(Instant::now()) {
        return;
    }
    let (engine, container) = (engine.clone(), Arc::clone(container));
    tokio::spawn(async move {
        // Never closed; without leave the walk would still be right.
        let scans = engine.clone();
        let permit = scans.containers().scans.0.acquire().await;
        blocking(move || measure(&engine, &container)).await;
        drop(permit);
    });
}

fn measure(engine: &Engine, container: &Container) {
    let mut walk = Walk::new(&container.scan);
    let measured =
        engine.try_with_layer(container, |reach| engine.layers().measure_rw(container.id(), reach));
    match measured {
        Some(Ok(size)) => walk.size = Some(i64::try_from(size).unwrap_or(i64::MAX)),
        // Somebody starts or removes it.
        None => {}
        // Most likely removed meanwhile.
        Some(Err(error)) => {
            let error = berth_types::kind::chain(&error);
            tracing::debug!(container = %container.id(), error, "not measured");
        }
    }
}

/// A measurement under way. It ends with this, also when the walk panics: whoever waits for it is
/// told, and the next one who asks measures again.
struct Walk<'a> {
    scan: &'a Scan,
    begun: Instant,
    size: Option<i64>,
}

impl<'a> Walk<'a> {
    fn new(scan: &'a Scan) -> Self {
        Self { scan, begun: Instant::now(), size: None }
    }
}

impl Drop for Walk<'_> {
    fn drop(&mut self) {
        self.scan.finish(self.size, self.begun.elapsed(), Instant::now());
    }
}

/// What a running container has written, as far as it is known by `deadline`; nothing is 0.
pub(crate) fn written(engine: &Engine, container: &Arc<Container>, deadline: Instant) -> i64 {
    kick(engine, container);
    container.scan.wait(deadline).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MILLISECOND: Duration = Duration::from_millis(1);

    #[test]
    fn walks_are_repeated_the_less_often_the_longer_they_take() {
        #[rustfmt::skip]
        let table = [
            // took, asked again after, measured again
            (MILLISECOND,            MILLISECOND * 9,        false),
            (MILLISECOND,            MILLISECOND * 10,       true),
            (Duration::from_secs(5), Duration::from_secs(9), false),
            (Duration::from_secs(5), OLDEST,                 true),
        ];
        for (took, after, expected) in table {
            let (scan, now) = (Scan::default(), Instant::now());
            assert!(scan.begin(now));
            assert!(!scan.begin(now), "one at a time");
            scan.finish(Some(7), took, now);
            assert_eq!(scan.begin(now + after), expected, "{took:?} {after:?}");
        }
    }

    #[test]
    fn the_last_measurement_stands_until_there_is_another() {
        let (scan, now) = (Scan::default(), Instant::now());
        assert_eq!(scan.wait(now), None);
        assert!(scan.begin(now));
        scan.finish(Some(7), MILLISECOND, now);
        assert_eq!(scan.wait(now), Some(7));
        scan.outdate();
        assert!(scan.begin(now), "written to from outside");
        assert_eq!(scan.wait(now), Some(7), "nobody waits beyond his deadline");
        scan.finish(None, MILLISECOND, now);
        assert_eq!(scan.wait(now + MOMENT), Some(7), "a failure is no size");
        scan.reset(Some(3));
        assert_eq!(scan.wait(now), Some(3));
        assert!(scan.begin(now));
    }

    #[test]
    fn a_walk_that_panics_is_over() {
        let (scan, now) = (Scan::default(), Instant::now());
        assert!(scan.begin(now));
        let walked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _walk = Walk::new(&scan);
            panic!("a bug in the walk");
        }));
        assert!(walked.is_err());
        assert_eq!(scan.wait(now + Duration::from_hours(1)), None, "nobody waits for it");
        assert!(scan.begin(now + OLDEST * 2), "and it is measured again");
    }

    #[test]
    fn whoever_waits_hears_of_the_end() {
        let scan = Arc::new(Scan::default());
        assert!(scan.begin(Instant::now()));
        let waiting = {
            let scan = Arc::clone(&scan);
            std::thread::spawn(move || scan.wait(Instant::now() + Duration::from_mins(1)))
        };
        scan.finish(Some(9), MILLISECOND, Instant::now());
        assert_eq!(waiting.join().unwrap(), Some(9));
    }
}
