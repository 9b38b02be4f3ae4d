//! Volumes: create, list, inspect, remove and prune.

mod create;
mod inspect;
mod list;
mod prune;
mod remove;

use std::collections::BTreeMap;

use berth_api::{Filters, volume};
use berth_volumes::Volume;

pub use remove::Missing;

/// The filters that `GET /volumes` knows.
pub const LIST_FILTERS: &[&str] = &["dangling", "name", "driver", "label"];
/// The filters that `POST /volumes/prune` knows.
pub const PRUNE_FILTERS: &[&str] = &["all", "label", "label!"];

/// As the API shows a volume.
pub(crate) fn shown(volume: Volume) -> volume::Volume {
    volume::Volume {
        created_at: volume.created.to_string(),
        driver: volume.driver,
        labels: volume.labels.into(),
        mountpoint: volume.mountpoint.to_string_lossy().into_owned(),
        name: volume.name,
        options: volume.options.into(),
        scope: "local".to_owned(),
        ..volume::Volume::default()
    }
}

/// The values of the keys that are given.
pub(crate) fn by_key(filters: &Filters, known: &[&str]) -> BTreeMap<String, Vec<String>> {
    let given = known.iter().filter(|key| filters.contains(key));
    given.map(|&key| (key.to_owned(), filters.get(key).map(str::to_owned).collect())).collect()
}
