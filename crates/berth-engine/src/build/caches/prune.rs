//! `docker builder prune`.

use std::path::PathBuf;
use std::sync::PoisonError;

use berth_api::filters::{FilterError, Filters};
use berth_types::Timestamp;

use super::{Cache, Caches, records};
use crate::error::EngineError;

impl Caches {
    /// Removes caches that nobody uses, the one that was used longest ago first. Gives their ids,
    /// and the bytes they took.
    pub(crate) fn prune(&self, options: &PruneOptions) -> Result<(Vec<String>, u64), EngineError> {
        let all = self.all()?;
        let mut total = 0;
        let mut known = Vec::new();
        for cache in all {
            let (_, size) = self.usage(&cache)?;
            total += size;
            known.push((cache, size));
        }
        let (mut ids, mut reclaimed) = (Vec::new(), 0);
        for (cache, size) in known {
            if !options.takes(&cache) || (options.keep > 0 && total <= options.keep) {
                continue;
            }
            let Some(path) = self.take_out(&cache)? else { continue };
            std::fs::remove_dir_all(&path).map_err(EngineError::io("remove", &path))?;
            total -= size;
            reclaimed += size;
            ids.push(cache.id.to_string());
        }
        Ok((ids, reclaimed))
    }

    /// Forgets a cache unless somebody uses it. Gives where its directory is then.
    fn take_out(&self, cache: &Cache) -> Result<Option<PathBuf>, EngineError> {
        let _deciding = self.deciding.lock().unwrap_or_else(PoisonError::into_inner);
        if self.held().contains_key(&cache.id) {
            return Ok(None);
        }
        let (from, to) = (self.path(&cache.id), self.tmp.join(format!("cache-{}", cache.id)));
        match std::fs::rename(&from, &to) {
            // Another prune was quicker.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            other => other.map_err(EngineError::io("remove", &from))?,
        }
        self.db.write(|tx| records::delete(tx, &cache.id))?;
        Ok(Some(to))
    }
}

/// What the filters and the sizes let go.
#[derive(Debug)]
pub(crate) struct PruneOptions {
    filters: Filters,
    /// Only caches that were not used since.
    unused_since: Option<Timestamp>,
    /// As many bytes may stay, of those that were used last.
    keep: u64,
}

impl PruneOptions {
    pub(crate) fn read(filters: Filters, keep: u64) -> Result<Self, FilterError> {
        let mut filters = filters.accept(KEYS)?;
        let until: Vec<String> = filters.get("unused-for").map(str::to_owned).collect();
        for value in until {
            filters.add("until", &value);
        }
        let unused_since = filters.until(Timestamp::now())?;
        Ok(Self { filters, unused_since, keep })
    }

    fn takes(&self, cache: &Cache) -> bool {
        let is = |key, value: bool| self.filters.boolean(key, value).is_ok_and(|is| is == value);
        self.unused_since.is_none_or(|since| cache.used <= since)
            && self.filters.prefix("id", cache.id.as_str())
            && self.filters.exact("type", TYPE)
            && is("inuse", false)
            && is("shared", false)
            && is("private", true)
    }
}

const KEYS: &[&str] = &["until", "unused-for", "id", "type", "inuse", "shared", "private"];

/// What Docker calls them.
pub(crate) const TYPE: &str = "exec.cachemount";
