//! What monitoring systems read: Docker's figures of the engine by Docker's names, and the storage's.
//!
//! Counters live as long as the engine; everything else is looked up when it is asked for.

mod engine;
mod storage;

use std::time::Instant;

use berth_types::kind;
use prometheus_client::encoding::text;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;

use crate::blocking::blocking;
use crate::engine::Engine;

/// The buckets of Docker's histograms, in seconds.
const BUCKETS: [f64; 11] = [0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];

/// Names and values that tell the lines of one figure apart.
type Labels = Vec<(&'static str, String)>;

/// What is counted while the engine runs. Counting never waits.
#[derive(Debug)]
pub(crate) struct Metrics {
    actions: Family<[(&'static str, &'static str); 1], Histogram>,
    builds: Counter,
    /// Held while figures are looked up.
    asked: tokio::sync::Mutex<()>,
}

/// What is done to a container, as far as its time is taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Action {
    Changes,
    Commit,
    Create,
    Delete,
    Start,
}

impl Action {
    const ALL: [Self; 5] = [Self::Changes, Self::Commit, Self::Create, Self::Delete, Self::Start];

    /// Docker's word for it.
    fn name(self) -> &'static str {
        match self {
            Self::Changes => "changes",
            Self::Commit => "commit",
            Self::Create => "create",
            Self::Delete => "delete",
            Self::Start => "start",
        }
    }
}

impl Default for Metrics {
    fn default() -> Self {
        let metrics = Self {
            actions: Family::new_with_constructor(|| Histogram::new(BUCKETS)),
            builds: Counter::default(),
            asked: tokio::sync::Mutex::default(),
        };
        // What has not happened yet is shown too, so that a graph begins at zero.
        for action in Action::ALL {
            metrics.histogram(action, |_| {});
        }
        metrics
    }
}

impl Metrics {
    fn histogram(&self, action: Action, with: impl FnOnce(&Histogram)) {
        with(&self.actions.get_or_create(&[("action", action.name())]));
    }

    /// Takes the time of an action from now on.
    pub(crate) fn begin(&self, action: Action) -> Timer<'_> {
        Timer { metrics: self, action, begun: Instant::now() }
    }

    /// Notes that somebody asked for a build.
    pub(crate) fn note_build(&self) {
        self.builds.inc();
    }

    fn register(&self, into: &mut Registry) {
        into.register(
            "engine_daemon_container_actions_seconds",
            "The number of seconds it takes to process each container action",
            self.actions.clone(),
        );
        into.register(
            "builder_builds_triggered",
            "Number of triggered image builds",
            self.builds.clone(),
        );
    }
}

/// The time of an action that has begun. Dropped, it is not counted: only what succeeded is.
#[derive(Debug)]
#[must_use]
pub(crate) struct Timer<'a> {
    metrics: &'a Metrics,
    action: Action,
    begun: Instant,
}

impl Timer<'_> {
    /// The action has succeeded.
    pub(crate) fn done(self) {
        let took = self.begun.elapsed().as_secs_f64();
        self.metrics.histogram(self.action, |histogram| histogram.observe(took));
    }
}

impl Engine {
    /// Every figure as `OpenMetrics` text. Figures that the storage does not give at this moment are left
    /// out, and said in the log.
    pub async fn metrics(&self) -> String {
        // Where the storage hangs, those who ask again and again must not take every thread.
        let _one_at_a_time = self.counted().asked.lock().await;
        let engine = self.clone();
        blocking(move || engine.metrics_now()).await
    }

    fn metrics_now(&self) -> String {
        let mut registry = Registry::default();
        self.counted().register(&mut registry);
        self.engine_metrics(&mut registry);
        self.storage_metrics(&mut registry);
        let mut text = String::new();
        text::encode(&mut text, &registry).expect("strings take all");
        text
    }
}

/// Registers a figure of one line. What does not fit is shown as the largest number that does.
fn gauge<V: TryInto<i64>>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    value: V,
) {
    let gauge = Gauge::<i64>::default();
    gauge.set(value.try_into().unwrap_or(i64::MAX));
    registry.register(name, help, gauge);
}

/// Registers a figure with its lines.
fn gauges<V: TryInto<i64>>(
    registry: &mut Registry,
    name: &'static str,
    help: &'static str,
    lines: impl IntoIterator<Item = (Labels, V)>,
) {
    let family = Family::<Labels, Gauge<i64>>::default();
    for (labels, value) in lines {
        family.get_or_create(&labels).set(value.try_into().unwrap_or(i64::MAX));
    }
    registry.register(name, help, family);
}

/// Lines that one label tells apart.
fn by<'a, V>(
    label: &'static str,
    lines: impl IntoIterator<Item = (&'a str, V)>,
) -> impl Iterator<Item = (Labels, V)> {
    lines.into_iter().map(move |(of, value)| (vec![(label, of.to_owned())], value))
}

/// What the storage said, or `None` with a line in the log.
fn known<T, E: std::error::Error>(what: &'static str, result: Result<T, E>) -> Option<T> {
    result
        .inspect_err(|error| {
            tracing::warn!(error = %kind::chain(error), "{what} are missing from the metrics");
        })
        .ok()
}
