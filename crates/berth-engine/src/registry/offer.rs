//! A manifest offered a moment early, to see whether the registry takes one whose blobs it misses.
//!
//! When every layer of an image is there or about to be, before the last comes to be there and before the
//! configuration is sent, the manifest is sent under its digest. A registry that refuses it, and names
//! both, looks. One that takes it has a manifest under no tag, in most cases that of this push.

use std::sync::{Mutex, MutexGuard, PoisonError};

use berth_registry::RegistryError;
use berth_registry::manifest::Descriptor;
use berth_types::Digest;

use super::push_one::PushOne;
use super::shown::Shown;

/// One offer, for as long as an image is sent.
pub(super) struct Offer<'a> {
    one: PushOne<'a>,
    is_oci: bool,
    state: Mutex<State>,
}

struct State {
    /// What each layer is called in the repository, as far as that is known.
    layers: Vec<Option<Descriptor>>,
    is_made: bool,
}

impl<'a> Offer<'a> {
    /// For an image of which the repository has these layers.
    pub(super) fn new(one: PushOne<'a>, is_oci: bool, layers: Vec<Option<Descriptor>>) -> Self {
        Self { one, is_oci, state: Mutex::new(State { layers, is_made: false }) }
    }

    /// A layer is there.
    pub(super) fn has(&self, at: usize, blob: &Descriptor) {
        self.lock().layers[at] = Some(blob.clone());
    }

    /// A layer did not come to be there under the name that it was to have.
    pub(super) fn has_not(&self, at: usize) {
        self.lock().layers[at] = None;
    }

    /// A layer is about to be there. If it is the last, the manifest is offered now.
    pub(super) async fn before(&self, at: usize, blob: &Descriptor) {
        let Some(layers) = self.complete(at, blob) else { return };
        let target = self.one.target;
        let looks = tokio::time::timeout(target.session.limits().stall, self.looks(layers, blob));
        let Some(looks) = looks.await.ok().flatten() else { return };
        tracing::debug!(name = %self.one.name, looks, "a manifest was offered early");
        let shown = Shown { looks, is_open: target.session.is_open() };
        self.one.engine.registries().repositories.note(&target.address(), shown);
    }

    /// Whether the registry looks; `None` where that was not to be seen.
    async fn looks(&self, layers: Vec<Descriptor>, last: &Descriptor) -> Option<bool> {
        let PushOne { target, image, .. } = self.one;
        // Another engine may have sent the very same.
        if target.has(&last.digest).await.ok()?.is_some() {
            return None;
        }
        let (manifest, media_type) = self.one.manifest(layers, self.is_oci);
        let digest = Digest::of(&manifest);
        match target.put_manifest(digest.as_str(), media_type, &manifest.into()).await {
            Ok(()) => Some(false),
            Err(error) if error.is_passing() => None,
            Err(error) => Some(misses(&error, &last.digest) && misses(&error, image.id.digest())),
        }
    }

    /// What all layers are called, if this is the last and nothing was offered yet.
    fn complete(&self, at: usize, blob: &Descriptor) -> Option<Vec<Descriptor>> {
        let mut state = self.lock();
        state.layers[at] = Some(blob.clone());
        if state.is_made {
            return None;
        }
        let layers = state.layers.iter().cloned().collect::<Option<Vec<_>>>()?;
        state.is_made = true;
        Some(layers)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment, so a panic elsewhere leaves it whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether a registry refuses a manifest because it misses this blob.
fn misses(error: &RegistryError, digest: &Digest) -> bool {
    let RegistryError::Said(said) = error else { return false };
    said.iter().any(|one| one.is_blob_unknown() && one.detail.to_string().contains(digest.as_str()))
}
