//! `docker build` as the classic builder does it: a Dockerfile's steps, an image after each.
//!
//! | module | what |
//! |---|---|
//! | [`context`] | the client's files, unpacked to a place of their own |
//! | [`remote`] | a context that is elsewhere |
//! | [`base`] | images to begin with: here, or pulled |
//! | [`stages`] | from a Dockerfile to images: `FROM`, and the order of everything |
//! | [`board`] | which stage waits for which; [`spool`]: what a stage says before its turn |
//! | [`steps`] | the instructions that only change the configuration |
//! | [`run`] | `RUN`: a container by the usual way, and what it changed |
//! | [`mounts`] | what a `RUN` has mounted; [`stubs`]: where |
//! | [`caches`] | what `RUN --mount=type=cache` keeps |
//! | [`transfer`] | `ADD` and `COPY`: into a layer that is written in place |
//! | [`workdir`] | `WORKDIR` |
//! | [`cache`] | whether a step was built before |
//! | [`record`] | making an image of a step |
//! | [`squash`] | one layer of all that a build added |
//! | [`output`] | what the build says |
//!
//! A build ends when its client hangs up. Its files are below the directory for temporary files,
//! its layers are intents until they are images', and its containers are marked: what a crash
//! leaves of them is removed at the next start.

mod base;
mod board;
mod cache;
mod caches;
mod context;
mod error;
mod mounts;
mod output;
mod record;
mod remote;
mod run;
mod spool;
mod squash;
mod stages;
mod steps;
mod stubs;
mod transfer;
mod upkeep;
mod workdir;

use std::collections::{BTreeMap, HashMap};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use berth_api::container::HostConfig;
use berth_build::Dockerfile;
use berth_db::Db;
use berth_images::config::Platform;
use berth_types::Owner;
use berth_types::reference::Reference;
use tokio::sync::watch;

pub use error::{BuildError, SourceError};
use remote::Fetched;

use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::{Archive, Messages};
use crate::registry::KnownRegistries;
pub(crate) use caches::Caches;
pub use caches::SCHEMA;
use context::Context;
use output::Output;

/// What a build asks for.
#[derive(Debug, Clone, Default)]
pub struct BuildRequest {
    /// Where the Dockerfile is in the context; empty for the usual place.
    pub dockerfile: String,
    /// The image's names.
    pub tags: Vec<String>,
    /// Where the context is, when it does not come with the request.
    pub remote: String,
    /// Say nothing but the image's id.
    pub quiet: bool,
    /// Build every step anew.
    pub no_cache: bool,
    /// Look for newer base images.
    pub pull: bool,
    /// Who the client is at which registry.
    pub registries: KnownRegistries,
    /// Remove the containers of steps that went well.
    pub rm: bool,
    /// Remove those of steps that failed, too.
    pub force_rm: bool,
    /// `--build-arg`.
    pub build_args: BTreeMap<String, Option<String>>,
    /// `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--cache-from`.
    pub cache_from: Vec<String>,
    /// The stage to end with; empty for the last.
    pub target: String,
    /// Make one layer of all.
    pub squash: bool,
    /// The platform of images; empty for any.
    pub platform: String,
    /// By which the build can be cancelled; empty for none.
    pub build_id: String,
    /// Limits and the like of the containers that `RUN` makes.
    pub host: HostConfig,
}

/// Builds under way, by the id that their clients gave them, and what they keep.
#[derive(Debug)]
pub(crate) struct Builds {
    running: Mutex<HashMap<String, watch::Sender<bool>>>,
    caches: Arc<Caches>,
}

impl Builds {
    /// What builds of this data root keep.
    pub(crate) fn open(data_root: &Path, db: Arc<Db>, owner: Owner) -> Result<Self, EngineError> {
        let caches = Arc::new(Caches::open(data_root, db, owner)?);
        Ok(Self { running: Mutex::default(), caches })
    }

    pub(crate) fn caches(&self) -> &Arc<Caches> {
        &self.caches
    }

    fn enter(&self, id: &str) -> watch::Receiver<bool> {
        let (cancel, cancelled) = watch::channel(false);
        if !id.is_empty() {
            self.lock().insert(id.to_owned(), cancel);
        }
        cancelled
    }

    fn leave(&self, id: &str) {
        self.lock().remove(id);
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, watch::Sender<bool>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Engine {
    /// Builds an image. What is wrong before the first step is an ordinary error, what goes wrong
    /// later the last message. Dropping the messages ends the build.
    pub async fn build(
        &self,
        request: BuildRequest,
        archive: Archive,
    ) -> Result<Messages, EngineError> {
        self.counted().note_build();
        let tags = tags(&request.tags)?;
        if request.squash && !self.config().experimental {
            return Err(BuildError::Squash.into());
        }
        if !request.platform.is_empty() {
            Platform::parse(&request.platform)?;
        }
        let tmp = self.tmp();
        let (name, target) = (request.dockerfile.clone(), request.target.clone());
        let labels = request.labels.clone();
        let fetched = match &*request.remote {
            "" => None,
            remote => Some(self.fetch_context(remote).await?),
        };
        let (context, file) = blocking(move || {
            let mut archive = archive;
            let (context, text) = match fetched {
                Some(Fetched::Dockerfile(text)) => (Context::none(&tmp)?, Some(text)),
                Some(Fetched::Context(context)) => (context, None),
                None => {
                    let context = Context::new(&tmp)?;
                    context.unpack(&mut archive)?;
                    (context, None)
                }
            };
            let text = text.map_or_else(|| context.dockerfile(&name), Ok)?;
            let mut file = Dockerfile::parse(&text).map_err(BuildError::from)?;
            if !target.is_empty() {
                file.cut_after(&target).map_err(BuildError::from)?;
            }
            file.add_labels(&labels);
            Ok::<_, EngineError>((context, file))
        })
        .await?;
        let cancel = self.builds().enter(&request.build_id);
        let (output, messages) = Output::new(request.quiet, cancel);
        let engine = self.clone();
        tokio::spawn(async move {
            let id = request.build_id.clone();
            let context = Arc::new(context);
            let builder =
                stages::Builder::new(&engine, request, Arc::clone(&context), output.clone());
            if let Err(error) = builder.build(file, &tags).await {
                output.fail(&error).await;
            }
            engine.builds().leave(&id);
            blocking(move || drop(context)).await;
        });
        Ok(messages)
    }

    /// Ends a build. One that is not known has ended.
    pub fn cancel_build(&self, id: &str) {
        if let Some(cancel) = self.builds().lock().get(id) {
            cancel.send_replace(true);
        }
    }
}

/// The names that the image gets, each once.
fn tags(asked: &[String]) -> Result<Vec<Reference>, EngineError> {
    let mut tags: Vec<Reference> = Vec::new();
    for text in asked.iter().filter(|text| !text.is_empty()) {
        let reference = Reference::parse(text).map_err(berth_images::ImageError::from)?;
        if reference.digest().is_some() {
            return Err(BuildError::DigestTag.into());
        }
        let reference = reference.with_default_tag();
        if !tags.contains(&reference) {
            tags.push(reference);
        }
    }
    Ok(tags)
}
