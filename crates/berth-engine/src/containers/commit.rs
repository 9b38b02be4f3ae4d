//! Making an image of a container.

use std::sync::Arc;

use berth_api::container::ContainerConfig;
use berth_api::options::CommitOptions;
use berth_images::{NewConfig, NewImage};
use berth_layers::Reach;
use berth_types::{DiffId, Timestamp};

use super::merge;
use super::registry::Container;
use super::state::Status;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};
use crate::metrics::Action;

impl Engine {
    /// Makes an image of what a container changed, and gives its id with `sha256:`.
    pub async fn commit(
        &self,
        options: CommitOptions,
        config: Option<ContainerConfig>,
    ) -> Result<String, EngineError> {
        let container = self.registry().find(&options.container)?;
        let status = container.state().status;
        if matches!(status, Status::Dead | Status::Removing) {
            let state = if status == Status::Dead { "Dead" } else { "Removing" };
            return Err(ContainerError::CommitDead { id: container.id().clone(), state }.into());
        }
        let timer = self.counted().begin(Action::Commit);
        let id = container.id().to_string();
        let pauses = options.pause && status == Status::Running;
        if pauses {
            self.freeze(&id, true).await?;
        }
        let engine = self.clone();
        let committed = {
            let (of, options) = (Arc::clone(&container), options.clone());
            let work =
                move |reach: Reach<'_>| engine.commit_now(&of, reach, &options, config.as_ref());
            self.with_layer(&container, work).await
        };
        if pauses {
            self.freeze(&id, false).await?;
        }
        let (image, reference) = committed?;
        timer.done();
        if let Some(reference) = &reference {
            let name = [("name", reference.as_str())];
            self.events().publish("image", "tag", &image, name);
        }
        let more = [
            ("comment", options.comment.as_str()),
            ("imageID", image.as_str()),
            ("imageRef", reference.as_deref().unwrap_or_default()),
        ];
        self.publish_container(&container, "commit", more);
        Ok(image)
    }

    fn commit_now(
        &self,
        container: &Container,
        reach: Reach<'_>,
        options: &CommitOptions,
        config: Option<&ContainerConfig>,
    ) -> Result<(String, Option<String>), EngineError> {
        let record = container.record();
        let repo = options.repo.as_deref().unwrap_or_default();
        let tag = options.tag.as_deref().unwrap_or_default();
        let reference = berth_images::parse_repo_tag(repo, tag)?;
        let mut new = config.cloned().unwrap_or_default();
        berth_images::changes::apply(&mut new, &options.changes)
            .map_err(berth_images::ImageError::from)?;
        merge::below(&mut new, &record.config);
        let parent = match &record.image {
            Some(id) => Some(
                self.images()
                    .get(id)?
                    .ok_or_else(|| ContainerError::ImageGone { image: id.clone() })?,
            ),
            None => None,
        };
        let (mut ingest, applied) = self.layers().commit_rw("commit", container.id(), reach)?;
        let is_empty = applied.diff == DiffId::empty();
        let image = NewConfig {
            parent: parent.as_ref().map(|parent| &*parent.config),
            diff: &applied.diff,
            created: Timestamp::now(),
            author: &options.author,
            comment: &options.comment,
            container: Some(container.id()),
            container_config: &record.config,
            config: &new,
        }
        .build()?;
        if !is_empty {
            ingest.finish()?;
        }
        let image = NewImage { config: image, parent: record.image.clone(), built_locally: true };
        let id = self.db().write(|tx| {
            if !is_empty {
                ingest.record(tx)?;
            }
            let id = self.images().record(tx, &image)?;
            if let Some(reference) = &reference {
                self.images().point(tx, reference, &id)?;
            }
            Ok::<_, EngineError>(id)
        })?;
        if is_empty {
            drop(ingest);
        } else {
            ingest.done();
        }
        Ok((id.to_string(), reference.map(|reference| reference.familiar())))
    }
}
