//! Containers that stand still for a moment.

use berth_types::{ContainerId, kind};

use crate::containers::Status;
use crate::engine::Engine;

/// Thaws, when it is dropped, the containers that it froze. For blocking threads.
pub(super) struct Frozen<'a> {
    engine: &'a Engine,
    ids: Vec<ContainerId>,
}

impl<'a> Frozen<'a> {
    /// Freezes those of the containers that run.
    pub(super) fn new(engine: &'a Engine, ids: impl IntoIterator<Item = ContainerId>) -> Self {
        let runtime = tokio::runtime::Handle::current();
        let mut frozen = Self { engine, ids: Vec::new() };
        for id in ids {
            let container = engine.registry().by_id(&id);
            if container.is_none_or(|container| container.state().status != Status::Running) {
                continue;
            }
            match runtime.block_on(engine.freeze(id.as_str(), true)) {
                Ok(()) => frozen.ids.push(id),
                // It has just ended, most likely.
                Err(error) => {
                    let error = kind::chain(&error);
                    tracing::info!(container = %id, error, "copied without being frozen");
                }
            }
        }
        frozen
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        let runtime = tokio::runtime::Handle::current();
        for id in &self.ids {
            if let Err(error) = runtime.block_on(self.engine.freeze(id.as_str(), false)) {
                // Somebody else thawed or ended it.
                let error = kind::chain(&error);
                tracing::info!(container = %id, error, "not thawed");
            }
        }
    }
}
