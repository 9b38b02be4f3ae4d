//! Listening to events.

use std::collections::VecDeque;
use std::sync::Arc;

use berth_api::event::EventMessage;
use berth_api::filters::Filters;
use berth_api::options::EventFilter;
use berth_types::Timestamp;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;

use crate::engine::Engine;
use crate::error::EngineError;

/// The filters that events know.
pub(crate) const FILTERS: &[&str] = &[
    "config",
    "container",
    "daemon",
    "event",
    "image",
    "label",
    "network",
    "node",
    "plugin",
    "scope",
    "secret",
    "service",
    "type",
    "volume",
];

/// Kinds of objects that a filter of the same name chooses by id or name.
const KINDS: &[&str] =
    &["config", "container", "daemon", "network", "node", "plugin", "secret", "service", "volume"];

/// Events as one client wants them: kept ones first, then each as it happens.
#[derive(Debug)]
pub struct EventStream {
    past: VecDeque<Arc<EventMessage>>,
    next: Receiver<Arc<EventMessage>>,
    filters: Filters,
    until: Option<Timestamp>,
}

impl Engine {
    /// Subscribes to events.
    pub fn listen(&self, filter: EventFilter) -> Result<EventStream, EngineError> {
        let filters = filter.filters.accept(FILTERS)?;
        if let (Some(since), Some(until)) = (filter.since, filter.until)
            && since > until
        {
            return Err(EngineError::EventSpan { since: since.unix(), until: until.unix() });
        }
        let (kept, next) = self.events().subscribe();
        // Without a beginning only what happens from now on is wanted, unless an end in the past
        // asks for what was.
        let wants_past = filter.since.is_some() || filter.until.is_some();
        let since = filter.since.map_or(i64::MIN, Timestamp::unix_nanos);
        let past = kept
            .into_iter()
            .filter(|event| wants_past && event.time_nano >= since)
            .filter(|event| takes(&filters, event))
            .collect();
        Ok(EventStream { past, next, filters, until: filter.until })
    }
}

impl EventStream {
    /// The next event; `None` when the span of time is over or the engine ends.
    pub async fn next(&mut self) -> Option<Arc<EventMessage>> {
        while let Some(event) = self.past.pop_front() {
            if self.until.is_none_or(|until| event.time_nano <= until.unix_nanos()) {
                return Some(event);
            }
        }
        loop {
            let received = match self.until {
                None => self.next.recv().await,
                Some(until) => {
                    let left = until.since(Timestamp::now());
                    tokio::time::timeout(left, self.next.recv()).await.ok()?
                }
            };
            match received {
                Ok(event) if takes(&self.filters, &event) => return Some(event),
                Ok(_) => {}
                // A client this slow misses what fell out of the buffer, and is not held up for it.
                Err(RecvError::Lagged(missed)) => {
                    tracing::warn!(missed, "a listener is too slow for the events");
                }
                Err(RecvError::Closed) => return None,
            }
        }
    }
}

/// Any value of each key, every key.
fn takes(filters: &Filters, event: &EventMessage) -> bool {
    let action = event.action.split_once(':').map_or(event.action.as_str(), |(before, _)| before);
    let is_action = !filters.contains("event")
        || filters.get("event").any(|wanted| wanted == event.action || wanted == action);
    is_action
        && filters.exact("type", &event.kind)
        && filters.exact("scope", &event.scope)
        && filters.labels("label", &event.actor.attributes)
        && image(filters, event)
        && KINDS.iter().all(|kind| object(filters, kind, event))
}

/// Docker looks at the id and the name only, not at the kind of the event's object.
fn object(filters: &Filters, kind: &str, event: &EventMessage) -> bool {
    if !filters.contains(kind) {
        return true;
    }
    let name = event.actor.attributes.get("name");
    filters.get(kind).any(|wanted| {
        event.actor.id.starts_with(wanted) || name.is_some_and(|name| name.starts_with(wanted))
    })
}

/// An image by its id or name, with or without its tag; containers of it count too.
fn image(filters: &Filters, event: &EventMessage) -> bool {
    if !filters.contains("image") {
        return true;
    }
    let attribute = if event.kind == "image" { "name" } else { "image" };
    let name = event.actor.attributes.get(attribute).map_or("", String::as_str);
    filters.get("image").any(|wanted| {
        [event.actor.id.as_str(), name]
            .iter()
            .any(|text| !text.is_empty() && (wanted == *text || wanted == untagged(text)))
    })
}

fn untagged(name: &str) -> &str {
    match name.rsplit_once(':') {
        Some((repository, tag)) if !tag.contains('/') => repository,
        _ => name,
    }
}
