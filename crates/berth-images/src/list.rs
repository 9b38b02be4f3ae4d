//! Lists, inspect and history: what the records say, in the API's words.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use berth_api::container::{ContainerConfig, DriverData};
use berth_api::filters::Filters;
use berth_api::image::{
    HistoryItem, ImageConfig as ShownConfig, ImageInspect, ImageMetadata, ImageSummary, RootFs,
};
use berth_api::json::{Dict, List};
use berth_build::glob;
use berth_types::duration::parse_time_filter;
use berth_types::reference::Reference;
use berth_types::{ChainId, ImageId, Timestamp};

use crate::store::{all, all_references};
use crate::{Image, ImageError, ImageStore};

/// The filters that a list knows.
const KEYS: &[&str] = &["dangling", "label", "before", "since", "reference", "until"];

/// What `GET /images/json` asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ListOptions {
    /// Intermediate images too.
    pub all: bool,
    /// The filters as given; unknown keys are refused.
    pub filters: Filters,
    /// Whether sizes shared with other images are added up.
    pub shared_size: bool,
}

impl ImageStore {
    /// The images that the options ask for, newest first. `containers` says how many containers
    /// an image has.
    pub fn list(
        &self,
        options: &ListOptions,
        containers: &dyn Fn(&ImageId) -> i64,
    ) -> Result<Vec<ImageSummary>, ImageError> {
        let filters = options.filters.clone().accept(KEYS)?;
        let dangling_only = filters.boolean("dangling", false)?;
        let (before, since) = self.bounds(&filters)?;
        let records = Records::read(self)?;
        let shared = options.shared_size.then(|| records.shared_chains());
        let mut summaries = Vec::new();
        for image in &records.images {
            let created = image.config.created();
            if before.is_some_and(|before| created.is_none_or(|created| created >= before))
                || since.is_some_and(|since| created.is_none_or(|created| created <= since))
                || (filters.contains("label")
                    && !image.config.labels().is_some_and(|has| filters.labels("label", has)))
            {
                continue;
            }
            let has_children = records.parents.contains(&image.id);
            if dangling_only && has_children {
                continue;
            }
            // A layer that is missing was reported at the start; its images are not shown.
            let Some(size) = records.size(image) else { continue };
            let mut summary = summary(image, size);
            for reference in records.references(&image.id) {
                if !passes(&filters, reference)? {
                    continue;
                }
                match reference.digest() {
                    Some(_) => summary.repo_digests.push(reference.familiar()),
                    None => summary.repo_tags.push(reference.familiar()),
                }
            }
            if summary.repo_tags.is_empty() && summary.repo_digests.is_empty() {
                let is_hidden = has_children && !options.all;
                let is_unwanted = filters.contains("dangling") && !dangling_only;
                if is_hidden || is_unwanted || filters.contains("reference") {
                    continue;
                }
            } else if dangling_only && !summary.repo_tags.is_empty() {
                continue;
            }
            summary.containers = containers(&image.id);
            if let Some(shared) = &shared {
                let chains = image.config.chains();
                let sizes = chains.iter().filter(|chain| shared.contains(*chain));
                summary.shared_size = sizes.map(|chain| records.own_size(chain)).sum();
            }
            summaries.push(summary);
        }
        summaries.sort_by_key(|summary| std::cmp::Reverse(summary.created));
        Ok(summaries)
    }

    /// What `GET /images/{name}/json` shows, with every field that any API version has.
    pub fn inspect(&self, image: &Image) -> Result<ImageInspect, ImageError> {
        let config = &image.config;
        let (mut size, mut data) = (0, None);
        if let Some(top) = config.top_chain() {
            let layer = self.layers.get(&top)?.ok_or_else(|| missing(image, &top))?;
            size = signed(layer.chain_size);
            data = self.layers.metadata(&top)?;
        }
        let (tags, digests): (Vec<_>, Vec<_>) =
            self.references(&image.id)?.into_iter().partition(|r| r.digest().is_none());
        let familiar = |names: Vec<Reference>| names.iter().map(Reference::familiar).collect();
        Ok(ImageInspect {
            id: image.id.to_string(),
            repo_tags: familiar(tags),
            repo_digests: familiar(digests),
            parent: image.parent.as_ref().map(ImageId::to_string).unwrap_or_default(),
            comment: config.comment().to_owned(),
            created: config.created(),
            container: Some(config.container().to_owned()),
            container_config: Some(config.container_config().cloned().unwrap_or_default()),
            docker_version: config.docker_version().to_owned(),
            author: config.author().to_owned(),
            config: ShownConfig::Full(Box::new(preset(image))),
            architecture: config.architecture().to_owned(),
            variant: config.variant().to_owned(),
            os: config.os().to_owned(),
            os_version: config.os_version().to_owned(),
            size,
            virtual_size: Some(size),
            graph_driver: DriverData {
                data: data.map(BTreeMap::into_iter).map_or_else(Dict::null, Iterator::collect),
                name: self.layers.driver().name().to_owned(),
            },
            root_fs: RootFs {
                kind: config.rootfs_type().to_owned(),
                layers: config.diff_ids().iter().map(ToString::to_string).collect(),
            },
            metadata: ImageMetadata { last_tag_time: image.last_tagged.unwrap_or_default() },
        })
    }

    /// `docker history`, newest first.
    pub fn history(&self, image: &Image) -> Result<Vec<HistoryItem>, ImageError> {
        let mut items = Vec::new();
        let mut chains = image.config.chains().into_iter();
        for step in image.config.history() {
            let mut size = 0;
            if !step.empty_layer {
                let chain = chains.next().ok_or(ImageError::TooManyHistoryLayers)?;
                size = match self.layers.get(&chain)? {
                    Some(layer) => signed(layer.size),
                    None => return Err(missing(image, &chain)),
                };
            }
            let created = step.created.as_deref().and_then(Timestamp::parse);
            items.push(HistoryItem {
                comment: step.comment.clone(),
                created: created.map_or(0, Timestamp::unix),
                created_by: step.created_by.clone(),
                id: "<missing>".to_owned(),
                size,
                tags: List::null(),
            });
        }
        items.reverse();
        let mut at = Some(image.clone());
        for item in &mut items {
            let Some(image) = at else { break };
            item.id = image.id.to_string();
            let references = self.references(&image.id)?;
            let tags = references.iter().filter(|r| r.digest().is_none());
            item.tags.extend(tags.map(Reference::familiar));
            at = match &image.parent {
                Some(parent) => self.get(parent)?,
                None => None,
            };
        }
        Ok(items)
    }

    /// The bytes of all the layers that tagged or childless images need, each once.
    pub fn layers_size(&self) -> Result<i64, ImageError> {
        let records = Records::read(self)?;
        let mut needed = BTreeSet::new();
        for image in &records.images {
            let is_named = !records.references(&image.id).is_empty();
            if is_named || !records.parents.contains(&image.id) {
                needed.extend(image.config.chains());
            }
        }
        Ok(needed.iter().map(|chain| records.own_size(chain)).sum())
    }

    /// The earliest of `before` and `until`, the latest of `since`.
    fn bounds(
        &self,
        filters: &Filters,
    ) -> Result<(Option<Timestamp>, Option<Timestamp>), ImageError> {
        let now = Timestamp::now();
        let mut before: Option<Timestamp> = None;
        let mut since: Option<Timestamp> = None;
        let mut limit = |time: Timestamp| {
            before = Some(before.map_or(time, |before| before.min(time)));
        };
        for name in filters.get("before") {
            if let Some(created) = self.resolve(name)?.config.created() {
                limit(created);
            }
        }
        for text in filters.get("until") {
            limit(parse_time_filter(text, now).map_err(ImageError::Until)?);
        }
        for name in filters.get("since") {
            if let Some(created) = self.resolve(name)?.config.created() {
                since = Some(since.map_or(created, |since| since.max(created)));
            }
        }
        Ok((before, since))
    }
}

/// Everything that lists look at, read once.
pub(crate) struct Records {
    pub(crate) images: Vec<Image>,
    pub(crate) references: BTreeMap<ImageId, Vec<Reference>>,
    /// The images that have children.
    pub(crate) parents: BTreeSet<ImageId>,
    /// Each layer's own bytes, and with all below.
    sizes: HashMap<ChainId, (u64, u64)>,
}

impl Records {
    pub(crate) fn read(store: &ImageStore) -> Result<Self, ImageError> {
        let (images, references) = store.db.read(|conn| {
            let at = store.at(conn);
            Ok::<_, ImageError>((all(at)?, all_references(at)?))
        })?;
        let parents = images.iter().filter_map(|image| image.parent.clone()).collect();
        let layers = store.layers.list()?;
        let sizes = layers.into_iter().map(|l| (l.chain, (l.size, l.chain_size))).collect();
        Ok(Self { images, references, parents, sizes })
    }

    pub(crate) fn references(&self, id: &ImageId) -> &[Reference] {
        self.references.get(id).map_or(&[], Vec::as_slice)
    }

    /// The layer's own bytes.
    pub(crate) fn own_size(&self, chain: &ChainId) -> i64 {
        self.sizes.get(chain).map_or(0, |(own, _)| signed(*own))
    }

    fn size(&self, image: &Image) -> Option<i64> {
        match image.config.top_chain() {
            None => Some(0),
            Some(top) => self.sizes.get(&top).map(|(_, whole)| signed(*whole)),
        }
    }

    /// The layers that more than one image has.
    fn shared_chains(&self) -> BTreeSet<ChainId> {
        let mut uses: HashMap<ChainId, u32> = HashMap::new();
        for chain in self.images.iter().flat_map(|image| image.config.chains()) {
            *uses.entry(chain).or_default() += 1;
        }
        uses.into_iter().filter(|(_, count)| *count > 1).map(|(chain, _)| chain).collect()
    }
}

fn summary(image: &Image, size: i64) -> ImageSummary {
    ImageSummary {
        containers: -1,
        created: image.config.created().map_or(0, Timestamp::unix),
        id: image.id.to_string(),
        labels: image.config.config().map(|config| config.labels.clone()).unwrap_or_default(),
        parent_id: image.parent.as_ref().map(ImageId::to_string).unwrap_or_default(),
        repo_digests: Vec::new(),
        repo_tags: Vec::new(),
        shared_size: -1,
        size,
        virtual_size: Some(size),
    }
}

/// Whether a name passes the `reference` filter, as people write it or in full.
fn passes(filters: &Filters, reference: &Reference) -> Result<bool, ImageError> {
    if !filters.contains("reference") {
        return Ok(true);
    }
    let forms =
        [reference.familiar(), reference.familiar_name(), reference.to_string(), reference.name()];
    for pattern in filters.get("reference") {
        for form in &forms {
            if glob::matches(pattern, form)? {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn preset(image: &Image) -> ContainerConfig {
    image.config.config().cloned().unwrap_or_default()
}

fn missing(image: &Image, chain: &ChainId) -> ImageError {
    ImageError::LayerMissing { image: image.id.clone(), chain: chain.to_string() }
}

fn signed(size: u64) -> i64 {
    i64::try_from(size).unwrap_or(i64::MAX)
}
