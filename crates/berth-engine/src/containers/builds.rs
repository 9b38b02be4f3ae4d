//! The containers of a build's steps.

use std::sync::Arc;

use berth_api::options::RemoveOptions;
use berth_runtime::ResolvedMount;
use berth_storage::Prepared;
use berth_types::{ContainerId, kind};

use super::record;
use super::registry::Container;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// What is mounted into the container of a step besides what its record says: it ends with the
/// engine, as the container does.
#[derive(Debug, Default)]
pub struct Extra {
    /// The mounts.
    pub mounts: Vec<ResolvedMount>,
    /// Trees that have to be mounted before, for some of these.
    pub trees: Vec<Prepared>,
}

impl Engine {
    /// Has something mounted into a container when it starts.
    pub(crate) fn add_mounts(&self, id: &ContainerId, extra: Extra) {
        if let Some(container) = self.registry().by_id(id) {
            container.live().extra = Arc::new(extra);
        }
    }

    /// Removes a container of a build, running or not, and its anonymous volumes.
    pub(crate) async fn drop_container(&self, id: &ContainerId) -> Result<(), EngineError> {
        let options = RemoveOptions { volumes: true, link: false, force: true };
        self.remove_container(id.as_str(), options).await
    }

    /// Makes a build's container one like any other: it stays when the build has ended.
    pub(crate) async fn keep_container(&self, id: &ContainerId) {
        let Some(container) = self.registry().by_id(id) else { return };
        container.live().record.of_build = false;
        let engine = self.clone();
        let record = container.record();
        let saved = blocking(move || {
            engine.db().write(|tx| Ok::<_, EngineError>(record::set_record(tx, &record)?))
        })
        .await;
        if let Err(error) = saved {
            tracing::warn!(container = %id, error = %kind::chain(&error), "not kept on record");
        }
    }

    /// Removes the containers of builds that ended with the engine before, in the background.
    pub(crate) fn end_interrupted_builds(&self) {
        let left: Vec<Arc<Container>> = self
            .registry()
            .all()
            .into_iter()
            .filter(|container| container.live().record.of_build)
            .collect();
        if left.is_empty() {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            for container in left {
                if let Err(error) = engine.drop_container(container.id()).await {
                    let error = kind::chain(&error);
                    tracing::warn!(container = %container.id(), error, "left by a build");
                }
            }
        });
    }
}
