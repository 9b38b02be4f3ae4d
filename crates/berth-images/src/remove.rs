//! Untag and remove, by Docker's rules, and prune.

use std::collections::{BTreeMap, BTreeSet};

use berth_api::filters::Filters;
use berth_db::Tx;
use berth_layers::Removed;
use berth_types::reference::Reference;
use berth_types::{ChainId, ContainerId, ImageId, Timestamp};

use crate::error::Conflict;
use crate::store::{At, all, all_references, children, key, load, references, resolve};
use crate::tag::untag;
use crate::{ImageError, ImageStore};

/// The filters that a prune knows.
const PRUNE_KEYS: &[&str] = &["dangling", "label", "label!", "until"];

/// A container that needs an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageUser {
    /// The container.
    pub container: ContainerId,
    /// The image it was made of, or that it mounts.
    pub image: ImageId,
    /// Whether it runs; paused counts.
    pub is_running: bool,
}

/// How to remove.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RemoveOptions {
    /// Remove although names or stopped containers point at it.
    pub force: bool,
    /// Keep parents that nothing needs any more.
    pub no_prune: bool,
}

/// One thing that a removal did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// A name is gone. Docker tells of it in an event, but not for the digests that go with a
    /// repository's last tag.
    Untagged {
        /// The name.
        reference: Reference,
        /// What it pointed at.
        image: ImageId,
        /// That image's labels.
        labels: BTreeMap<String, String>,
        /// Whether there is an event.
        is_event: bool,
    },
    /// An image is gone.
    Deleted(ImageId),
    /// A layer is gone.
    DeletedLayer(ChainId),
}

/// What a removal did. Give `layers` to the layer store's `purge` after the commit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Removal {
    /// In Docker's order.
    pub actions: Vec<Action>,
    /// The layers whose bytes are to go.
    pub layers: Vec<Removed>,
}

impl ImageStore {
    /// Removes a name, and the image with its last one; or an image by its id. Nothing is changed
    /// when it is refused.
    pub fn remove(
        &self,
        tx: &Tx<'_>,
        name: &str,
        options: RemoveOptions,
        users: &[ImageUser],
    ) -> Result<Removal, ImageError> {
        if name.trim().is_empty() {
            return Err(ImageError::BlankName);
        }
        let image = resolve(self.at(tx), name)?;
        let mut work = Work { store: self, tx, users, done: Removal::default() };
        if is_id_prefix(&image.id, name) {
            work.by_id(&image.id, options)?;
        } else {
            work.by_name(&image.id, name, options)?;
        }
        Ok(work.done)
    }

    /// Removes what nothing needs: childless images without a tag, or with `dangling=false` every
    /// image without a container. Images that cannot go are passed over.
    pub fn prune(
        &self,
        tx: &Tx<'_>,
        filters: &Filters,
        users: &[ImageUser],
    ) -> Result<Removal, ImageError> {
        let filters = filters.clone().accept(PRUNE_KEYS)?;
        let dangling_only = filters.boolean("dangling", true)?;
        let until = filters.until(Timestamp::now())?;
        let mut work = Work { store: self, tx, users, done: Removal::default() };
        for name in prunable(self.at(tx), &filters, dangling_only, until)? {
            let mut one = Work { store: self, tx, users, done: Removal::default() };
            let options = RemoveOptions::default();
            let result = match &name {
                // An earlier removal may have taken it along.
                Target::Id(id) if load(self.at(tx), id)?.is_none() => Ok(()),
                Target::Id(id) => one.by_id(id, options),
                Target::Name(id, _) if load(self.at(tx), id)?.is_none() => Ok(()),
                Target::Name(id, name) => one.by_name(id, &name.to_string(), options),
            };
            match result {
                Ok(())
                | Err(ImageError::ReferenceInUse { .. } | ImageError::DeleteConflict { .. }) => {}
                Err(error) => return Err(error),
            }
            work.done.actions.append(&mut one.done.actions);
            work.done.layers.append(&mut one.done.layers);
        }
        Ok(work.done)
    }
}

enum Target {
    Id(ImageId),
    Name(ImageId, Reference),
}

fn prunable(
    at: At<'_>,
    filters: &Filters,
    dangling_only: bool,
    until: Option<Timestamp>,
) -> Result<Vec<Target>, ImageError> {
    let images = all(at)?;
    let mut names = all_references(at)?;
    let parents: BTreeSet<ImageId> = images.iter().filter_map(|i| i.parent.clone()).collect();
    let nothing = BTreeMap::new();
    let mut targets = Vec::new();
    for image in images {
        let names = names.remove(&image.id).unwrap_or_default();
        let has_children = parents.contains(&image.id);
        let created = image.config.created();
        if (has_children && (dangling_only || names.is_empty()))
            || until.is_some_and(|until| created.is_none_or(|created| created > until))
            || !filters.prunes(image.config.labels().unwrap_or(&nothing))
        {
            continue;
        }
        if names.is_empty() {
            targets.push(Target::Id(image.id));
        } else if !dangling_only || names.iter().all(|name| name.digest().is_some()) {
            targets.extend(names.into_iter().map(|name| Target::Name(image.id.clone(), name)));
        }
    }
    Ok(targets)
}

struct Work<'a> {
    store: &'a ImageStore,
    tx: &'a Tx<'a>,
    users: &'a [ImageUser],
    done: Removal,
}

impl Work<'_> {
    fn at(&self) -> At<'_> {
        self.store.at(self.tx)
    }

    fn by_name(
        &mut self,
        id: &ImageId,
        name: &str,
        options: RemoveOptions,
    ) -> Result<(), ImageError> {
        let names = references(self.at(), id)?;
        if !options.force
            && is_single(&names)
            && let Some(user) = self.users.iter().find(|user| user.image == *id)
        {
            return Err(ImageError::ReferenceInUse {
                reference: name.to_owned(),
                container: user.container.short().to_owned(),
                image: id.short().to_owned(),
            });
        }
        let reference = key(&Reference::parse(name)?);
        if !self.untag(id, &reference, true)? {
            return Err(ImageError::NoReference);
        }
        let mut left = references(self.at(), id)?;
        if reference.digest().is_none() {
            let is_same_repository = |other: &Reference| other.name() == reference.name();
            let has_tag = left.iter().any(|r| r.digest().is_none() && is_same_repository(r));
            if !has_tag {
                for digest in left.extract_if(.., |r| is_same_repository(r)).collect::<Vec<_>>() {
                    self.untag(id, &digest, false)?;
                }
            }
        }
        if left.is_empty() { self.delete(id, options, Quiet::Yes) } else { Ok(()) }
    }

    fn by_id(&mut self, id: &ImageId, options: RemoveOptions) -> Result<(), ImageError> {
        let names = references(self.at(), id)?;
        if is_single(&names) {
            if let Some(problem) = self.conflict(id, options.force, NamesCount::No)? {
                return Err(conflict(id, problem));
            }
            for name in names {
                self.untag(id, &name, true)?;
            }
        }
        self.delete(id, options, Quiet::No)
    }

    /// Deletes the image and, without `no_prune`, then its parents as far as nothing needs them.
    fn delete(
        &mut self,
        id: &ImageId,
        options: RemoveOptions,
        quiet: Quiet,
    ) -> Result<(), ImageError> {
        let (mut id, mut force, mut quiet) = (id.clone(), options.force, quiet);
        loop {
            if let Some(problem) = self.conflict(&id, force, NamesCount::Yes)? {
                let is_dangling =
                    references(self.at(), &id)?.is_empty() && children(self.at(), &id)?.is_empty();
                if quiet == Quiet::Yes && (!is_dangling || problem.is_use()) {
                    return Ok(());
                }
                return Err(conflict(&id, problem));
            }
            let parent = load(self.at(), &id)?.and_then(|image| image.parent);
            for name in references(self.at(), &id)? {
                self.untag(&id, &name, true)?;
            }
            let layers = self.store.forget(self.tx, &id)?;
            self.done.actions.push(Action::Deleted(id.clone()));
            let chains = layers.iter().filter_map(|layer| layer.chain.clone());
            self.done.actions.extend(chains.map(Action::DeletedLayer));
            self.done.layers.extend(layers);
            match parent {
                Some(parent) if !options.no_prune => {
                    (id, force, quiet) = (parent, false, Quiet::Yes);
                }
                _ => return Ok(()),
            }
        }
    }

    /// What stands against the removal, in Docker's order: children, running containers, names,
    /// stopped containers.
    fn conflict(
        &self,
        id: &ImageId,
        force: bool,
        names_count: NamesCount,
    ) -> Result<Option<Conflict>, ImageError> {
        if !children(self.at(), id)?.is_empty() {
            return Ok(Some(Conflict::Children));
        }
        let user = |running: bool| {
            let mut users = self.users.iter();
            users
                .find(|user| user.image == *id && user.is_running == running)
                .map(|user| user.container.short().to_owned())
        };
        if let Some(container) = user(true) {
            return Ok(Some(Conflict::Running { container }));
        }
        if force {
            return Ok(None);
        }
        if names_count == NamesCount::Yes && !references(self.at(), id)?.is_empty() {
            return Ok(Some(Conflict::References));
        }
        Ok(user(false).map(|container| Conflict::Stopped { container }))
    }

    fn untag(
        &mut self,
        id: &ImageId,
        reference: &Reference,
        is_event: bool,
    ) -> Result<bool, ImageError> {
        let gone = untag(self.at(), reference)?;
        if gone {
            let image = load(self.at(), id)?;
            let labels = image.and_then(|image| image.config.labels().cloned()).unwrap_or_default();
            let (reference, image) = (reference.clone(), id.clone());
            self.done.actions.push(Action::Untagged { reference, image, labels, is_event });
        }
        Ok(gone)
    }
}

/// Whether a conflict with something that is none of the client's business is told.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Quiet {
    Yes,
    No,
}

/// Whether names stand against a removal.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamesCount {
    Yes,
    No,
}

fn conflict(id: &ImageId, problem: Conflict) -> ImageError {
    ImageError::DeleteConflict { image: id.short().to_owned(), problem }
}

/// Whether the client's text is the beginning of the id, with or without `sha256:`.
fn is_id_prefix(id: &ImageId, text: &str) -> bool {
    id.as_str().starts_with(text) || id.hex().starts_with(text)
}

/// Whether there is one name; digests of the same repository do not count.
fn is_single(names: &[Reference]) -> bool {
    let (digests, tags): (Vec<_>, Vec<_>) = names.iter().partition(|name| name.digest().is_some());
    let repositories: BTreeSet<String> = digests.iter().map(|digest| digest.name()).collect();
    match (tags.as_slice(), names) {
        ([], []) => false,
        (_, [_]) => true,
        ([], _) => repositories.len() == 1,
        ([tag], _) => repositories.len() == 1 && repositories.contains(&tag.name()),
        _ => false,
    }
}
