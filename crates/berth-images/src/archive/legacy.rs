//! Archives from before Docker 1.10: a directory for each layer, chained by their `json`, and
//! `repositories`.
//!
//! Such an image has no configuration of today's kind: one is made of its layers' `json` files,
//! for which the layers' digests must be known first.

use std::collections::BTreeMap;
use std::io;

use berth_api::container::ContainerConfig;
use berth_types::reference::Reference;
use berth_types::{DiffId, Digest};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::plan::{MAX_JSON, Planned};
use super::{ArchiveError, Spool};
use crate::config::{History, Keys, MAX_CONFIG};
use crate::{ImageConfig, ImageError};

const REPOSITORIES: &str = "repositories";

/// A layer's `json`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Old {
    parent: Option<String>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    container_config: Option<ContainerConfig>,
}

#[derive(Serialize)]
struct RootFs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: &'a [DiffId],
}

pub(super) fn plan(spool: &Spool) -> Result<Vec<Planned>, ImageError> {
    let decode = |source| ArchiveError::Json { name: REPOSITORIES.to_owned(), source };
    let repositories: Option<BTreeMap<String, BTreeMap<String, String>>> =
        serde_json::from_slice(&spool.small(REPOSITORIES, MAX_JSON)?).map_err(decode)?;
    let mut names: BTreeMap<String, Vec<Reference>> = BTreeMap::new();
    for (name, tags) in repositories.unwrap_or_default() {
        for (tag, id) in tags {
            let reference = Reference::parse(&name)?.with_tag(&tag)?;
            names.entry(id).or_default().push(reference);
        }
    }
    let known = layer_directories(spool)?;
    if let Some(id) = names.keys().find(|id| !known.contains_key(*id)) {
        return Err(ArchiveError::TargetId { id: id.clone() }.into());
    }
    // Everything that no other layer stands on is an image; so is everything with a name.
    let parents: Vec<&String> = known.values().filter_map(|old| old.parent.as_ref()).collect();
    let mut digests = BTreeMap::new();
    let mut images = Vec::new();
    for id in known.keys() {
        let names = names.remove(id).unwrap_or_default();
        if names.is_empty() && parents.contains(&id) {
            continue;
        }
        let mut image = image(spool, &known, id, &mut digests)?;
        image.names = names;
        image.check()?;
        images.push(image);
    }
    Ok(images)
}

fn layer_directories(spool: &Spool) -> Result<BTreeMap<String, Old>, ImageError> {
    let mut known = BTreeMap::new();
    for id in spool.top_directories() {
        let name = format!("{id}/json");
        if !spool.has_file(&name)? {
            continue;
        }
        let json = spool.small(&name, MAX_CONFIG)?;
        let mut old: Old = berth_api::go::from_slice(&json).map_err(ImageError::ConfigJson)?;
        old.parent = old.parent.filter(|parent| !parent.is_empty());
        known.insert(id, old);
    }
    Ok(known)
}

fn image(
    spool: &Spool,
    known: &BTreeMap<String, Old>,
    id: &str,
    digests: &mut BTreeMap<String, DiffId>,
) -> Result<Planned, ImageError> {
    let chain = chain(known, id)?;
    let mut layers = Vec::new();
    let mut diffs = Vec::new();
    let mut history = Vec::new();
    for id in chain {
        let layer = format!("{id}/layer.tar");
        let diff = if let Some(diff) = digests.get(id) {
            diff.clone()
        } else {
            let diff = diff_id(spool, &layer)?;
            digests.insert(id.to_owned(), diff.clone());
            diff
        };
        let old = &known[id];
        history.push(History {
            created: old.created.clone(),
            created_by: old.container_config.as_ref().map_or_else(String::new, |c| c.cmd.join(" ")),
            author: old.author.clone().unwrap_or_default(),
            comment: old.comment.clone().unwrap_or_default(),
            empty_layer: false,
        });
        layers.push(layer);
        diffs.push(diff);
    }
    let mut keys = Keys::parse(&spool.small(&format!("{id}/json"), MAX_CONFIG)?)?;
    for key in ["id", "parent", "Size", "parent_id", "layer_id", "throwaway"] {
        keys.remove(key);
    }
    keys.put("rootfs", &RootFs { kind: "layers", diff_ids: &diffs })?;
    keys.put("history", &history)?;
    let config = ImageConfig::parse(keys.write()?)?;
    Ok(Planned { config, layers, names: Vec::new(), parent: None })
}

/// The layers below `id` and itself, base first.
fn chain<'a>(known: &'a BTreeMap<String, Old>, id: &'a str) -> Result<Vec<&'a str>, ImageError> {
    let mut chain = vec![id];
    let mut at = id;
    while let Some(parent) = known[at].parent.as_deref() {
        if chain.contains(&parent) {
            return Err(ArchiveError::Cycle { id: id.to_owned() }.into());
        }
        if !known.contains_key(parent) {
            return Err(ArchiveError::Missing { name: format!("{parent}/json") }.into());
        }
        chain.push(parent);
        at = parent;
    }
    chain.reverse();
    Ok(chain)
}

fn diff_id(spool: &Spool, layer: &str) -> Result<DiffId, ImageError> {
    let blob = spool.open(layer)?;
    let (_, mut plain) = berth_fs::decompress::open(blob.reader()).map_err(ArchiveError::from)?;
    let mut hash = Hasher(Sha256::new());
    io::copy(&mut plain, &mut hash).map_err(ArchiveError::read)?;
    Ok(Digest::from_hash(hash.0.finalize().as_slice()).into())
}

struct Hasher(Sha256);

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
