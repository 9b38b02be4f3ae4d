//! What builds keep, as `system df` and `builder prune` see it.

use std::sync::Arc;

use berth_api::daemon::{BuildCache, BuildPruneReport};
use berth_api::filters::Filters;
use berth_api::json::List;

use super::caches::{PruneOptions, TYPE};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Removes what builds keep and none uses, but for the last `keep` bytes. Images of steps are
    /// images, and `image prune` removes those.
    pub async fn prune_build_cache(
        &self,
        filters: Filters,
        keep: u64,
    ) -> Result<BuildPruneReport, EngineError> {
        let options = PruneOptions::read(filters, keep)?;
        let caches = Arc::clone(self.builds().caches());
        let (ids, space_reclaimed) = blocking(move || caches.prune(&options)).await?;
        let text = space_reclaimed.to_string();
        self.events().publish("builder", "prune", "", [("reclaimed", text.as_str())]);
        let caches_deleted = if ids.is_empty() { List::null() } else { List::from(ids) };
        Ok(BuildPruneReport { caches_deleted, space_reclaimed })
    }

    /// What builds keep.
    pub(crate) fn df_build_cache(&self) -> Result<Vec<BuildCache>, EngineError> {
        let caches = self.builds().caches();
        let shown = |cache: super::caches::Cache| {
            let (in_use, size) = caches.usage(&cache)?;
            Ok(BuildCache {
                id: cache.id.to_string(),
                kind: TYPE.to_owned(),
                description: format!("cached mount {}", cache.key.name),
                in_use,
                shared: false,
                size: i64::try_from(size).unwrap_or(i64::MAX),
                created_at: cache.created,
                last_used_at: Some(cache.used),
                usage_count: cache.uses,
            })
        };
        caches.all()?.into_iter().map(shown).collect()
    }
}
