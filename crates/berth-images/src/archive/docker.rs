//! `manifest.json`: archives of Docker 1.10 and later, and of everything that writes docker-archive.

use berth_types::ImageId;
use berth_types::reference::Reference;
use serde::Deserialize;

use super::plan::{MAX_JSON, Planned};
use super::{ArchiveError, Spool};
use crate::config::MAX_CONFIG;
use crate::{ImageConfig, ImageError};

const NAME: &str = "manifest.json";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
#[derive(Default)]
struct Item {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Option<Vec<String>>,
    parent: Option<String>,
}

pub(super) fn plan(spool: &Spool) -> Result<Vec<Planned>, ImageError> {
    let json = spool.small(NAME, MAX_JSON)?;
    let items: Option<Vec<Item>> = serde_json::from_slice(&json)
        .map_err(|source| ArchiveError::Json { name: NAME.to_owned(), source })?;
    let items = items.ok_or(ArchiveError::NullManifest)?;
    items.into_iter().map(|item| read(spool, item)).collect()
}

fn read(spool: &Spool, item: Item) -> Result<Planned, ImageError> {
    let config = ImageConfig::parse(spool.small(&item.config, MAX_CONFIG)?)?;
    let names = item.repo_tags.unwrap_or_default();
    let planned = Planned {
        config,
        layers: item.layers.unwrap_or_default(),
        names: names.iter().map(|tag| tagged(tag)).collect::<Result<_, _>>()?,
        parent: item.parent.as_deref().and_then(|parent| ImageId::parse(parent).ok()),
    };
    planned.check()?;
    Ok(planned)
}

/// A name that has a tag.
pub(super) fn tagged(text: &str) -> Result<Reference, ImageError> {
    let reference = Reference::parse(text)?;
    match reference.tag() {
        Some(tag) => Ok(reference.with_tag(tag)?),
        None => Err(ArchiveError::Tag { tag: text.to_owned() }.into()),
    }
}
