//! What happened: the last events for those who ask later, the next ones for those who listen.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::event::{EventActor, EventMessage};
use berth_types::Timestamp;
use tokio::sync::broadcast;

/// How many past events are kept, as in Docker.
const KEPT: usize = 256;
/// How far a slow listener may fall behind before it misses events.
const BACKLOG: usize = 1024;

/// The event bus. Cheap to clone; publishing never waits.
#[derive(Debug, Clone)]
pub struct Events {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    past: Mutex<VecDeque<Arc<EventMessage>>>,
    count: AtomicU64,
    next: broadcast::Sender<Arc<EventMessage>>,
}

impl Default for Events {
    fn default() -> Self {
        let (next, _) = broadcast::channel(BACKLOG);
        let past = Mutex::new(VecDeque::with_capacity(KEPT));
        Self { inner: Arc::new(Inner { past, count: AtomicU64::new(0), next }) }
    }
}

impl Events {
    /// Publishes an event of the object `id`.
    pub fn publish<const N: usize>(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: [(&str, &str); N],
    ) {
        let attributes = attributes.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
        self.publish_map(kind, action, id, attributes);
    }

    /// Publishes an event whose attributes are made elsewhere.
    pub fn publish_map(
        &self,
        kind: &str,
        action: &str,
        id: &str,
        attributes: BTreeMap<String, String>,
    ) {
        let actor = EventActor { id: id.to_owned(), attributes };
        let event = Arc::new(EventMessage::new(kind, action, actor, Timestamp::now()));
        // The order of `past` and `next` must agree, so both happen under the one short lock.
        let mut past = self.inner.past.lock().unwrap_or_else(PoisonError::into_inner);
        if past.len() == KEPT {
            past.pop_front();
        }
        past.push_back(Arc::clone(&event));
        self.inner.count.fetch_add(1, Ordering::Relaxed);
        if self.inner.next.send(event).is_err() {
            tracing::trace!("nobody listens to events");
        }
    }

    /// The kept events, oldest first, and everything from then on without a gap.
    pub fn subscribe(&self) -> (Vec<Arc<EventMessage>>, broadcast::Receiver<Arc<EventMessage>>) {
        let past = self.inner.past.lock().unwrap_or_else(PoisonError::into_inner);
        (past.iter().cloned().collect(), self.inner.next.subscribe())
    }

    /// How many were published since the engine's start.
    pub fn published(&self) -> u64 {
        self.inner.count.load(Ordering::Relaxed)
    }

    /// How many listen now.
    pub fn listeners(&self) -> usize {
        self.inner.next.receiver_count()
    }
}
