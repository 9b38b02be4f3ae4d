//! Whether a step was built before.

use std::sync::Arc;

use berth_api::container::ContainerConfig;
use berth_api::{Dict, List, StrSlice};
use berth_images::{Image, ImageConfig, ImageStore};
use berth_types::{DiffId, ImageId};

use super::record::{Recipe, Top};
use crate::engine::Engine;
use crate::error::EngineError;

/// Where images of earlier builds are looked for.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cache {
    is_off: bool,
    /// Nothing is looked for behind a step that was not there, until the next stage.
    missed: bool,
    /// `--cache-from`: only these and what they were made of count.
    sources: Option<Vec<Image>>,
}

impl Cache {
    pub(crate) fn new(is_off: bool, sources: Option<Vec<Image>>) -> Self {
        Self { is_off, missed: false, sources }
    }

    /// A new stage begins.
    pub(crate) fn reset(&mut self) {
        self.missed = false;
    }

    /// The image of this step on top of `parent`.
    pub(crate) fn find(
        &mut self,
        engine: &Engine,
        parent: Option<&Image>,
        probe: &ContainerConfig,
        recipe: &Recipe<'_>,
    ) -> Result<Option<Image>, EngineError> {
        if self.is_off || self.missed {
            return Ok(None);
        }
        let local = find_local(engine.images(), parent, probe)?;
        let found = match &self.sources {
            None => local,
            Some(sources) => match local {
                Some(image) if sources.iter().any(|s| descends(engine, s, &image)) => Some(image),
                _ => self.restore(engine, parent, probe, recipe)?,
            },
        };
        self.missed = found.is_none();
        Ok(found)
    }

    /// A step of one of the sources, made anew from its layers.
    fn restore(
        &mut self,
        engine: &Engine,
        parent: Option<&Image>,
        probe: &ContainerConfig,
        recipe: &Recipe<'_>,
    ) -> Result<Option<Image>, EngineError> {
        let done = parent.map_or(0, |parent| parent.config.history().len());
        let sources = self.sources.as_deref().unwrap_or_default();
        let matching = sources.iter().find(|source| {
            let below = parent.map(|parent| &*parent.config);
            let next = source.config.history().get(done);
            continues(&source.config, below)
                && next.is_some_and(|step| step.created_by == probe.cmd.join(" "))
        });
        let Some(source) = matching.cloned() else { return Ok(None) };
        if source.config.history().len() == done + 1 {
            if let Some(parent) = parent {
                engine.images().adopt(&source.id, &parent.id)?;
            }
            return Ok(Some(source));
        }
        let step = &source.config.history()[done];
        let layers = parent.map_or(0, |parent| parent.config.diff_ids().len());
        let diff = match source.config.diff_ids().get(layers) {
            Some(diff) if !step.empty_layer => diff.clone(),
            _ => DiffId::empty(),
        };
        let created = step.created.as_deref().and_then(berth_types::Timestamp::parse);
        let image = recipe.make(engine, Top::Known { diff, created })?;
        // Safer than to jump between sources.
        self.sources = Some(vec![source]);
        Ok(Some(image))
    }
}

/// Whether `source` is `image`, or was made of it here.
fn descends(engine: &Engine, source: &Image, image: &Image) -> bool {
    let mut next = Some(source.id.clone());
    while let Some(id) = next {
        if id == image.id {
            return true;
        }
        next = engine.images().get(&id).ok().flatten().and_then(|image| image.parent);
    }
    false
}

/// Whether the image's history goes on where its parent's ends.
fn continues(image: &ImageConfig, parent: Option<&ImageConfig>) -> bool {
    let Some(parent) = parent else { return !image.history().is_empty() };
    if image.history().is_empty() || parent.history().len() >= image.history().len() {
        return false;
    }
    image.history().starts_with(parent.history()) && image.diff_ids().starts_with(parent.diff_ids())
}

/// The newest image of this step that was made here on top of `parent`.
fn find_local(
    images: &Arc<ImageStore>,
    parent: Option<&Image>,
    probe: &ContainerConfig,
) -> Result<Option<Image>, EngineError> {
    let parent: Option<&ImageId> = parent.map(|parent| &parent.id);
    let candidates = images.made_of(parent)?.into_iter().filter(|image| {
        image.config.container_config().is_some_and(|config| is_same(config, probe))
    });
    Ok(candidates.max_by_key(|image| image.config.created()))
}

/// Whether two configurations mean the same step. What a container gets of its own does not count,
/// and nothing and an empty list are one and the same.
fn is_same(one: &ContainerConfig, other: &ContainerConfig) -> bool {
    let lists = [
        (&one.env, &other.env),
        (&one.on_build, &other.on_build),
        (&one.cmd.0, &other.cmd.0),
        (&one.entrypoint.0, &other.entrypoint.0),
        (&one.shell.0, &other.shell.0),
    ];
    lists.iter().all(|(one, other)| ***one == ***other)
        && *one.labels == *other.labels
        && *one.volumes == *other.volumes
        && *one.exposed_ports == *other.exposed_ports
        && rest(one) == rest(other)
}

/// The configuration without what is compared apart or not at all.
fn rest(config: &ContainerConfig) -> ContainerConfig {
    ContainerConfig {
        env: List::null(),
        on_build: List::null(),
        cmd: StrSlice::default(),
        entrypoint: StrSlice::default(),
        shell: StrSlice::default(),
        labels: Dict::null(),
        volumes: Dict::null(),
        exposed_ports: Dict::null(),
        image: String::new(),
        hostname: String::new(),
        domainname: String::new(),
        mac_address: String::new(),
        ..config.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use berth_api::container::HealthConfig;

    #[test]
    fn steps_are_the_same_once_written_and_read() {
        let mut config = ContainerConfig::default();
        let steps = "FROM a\nENV a=b\nLABEL c=d\nVOLUME /v\nEXPOSE 80\nONBUILD RUN x\nCMD []\n\
                     SHELL [\"s\"]\nENTRYPOINT e\nHEALTHCHECK CMD h";
        let file = berth_build::Dockerfile::parse(steps).unwrap();
        for step in &file.stages[0].steps {
            let mut state = berth_build::apply::Changing { config, cmd_set: false };
            berth_build::apply::apply(&mut state, &step.instruction).unwrap();
            config = state.config;
            let text = serde_json::to_vec(&config).unwrap();
            let read = serde_json::from_slice(&text).unwrap();
            assert!(is_same(&read, &config), "{}", step.text);
        }
    }

    #[test]
    fn steps_are_the_same_whatever_the_container_was_called() {
        let words = |words: &[&str]| {
            StrSlice::from(words.iter().map(|word| (*word).to_owned()).collect::<Vec<_>>())
        };
        let base = ContainerConfig { cmd: words(&["a", "b"]), ..ContainerConfig::default() };
        #[rustfmt::skip]
        let table: &[(ContainerConfig, bool)] = &[
            (base.clone(), true),
            (ContainerConfig { image: "x".into(), hostname: "h".into(), mac_address: "m".into(), ..base.clone() }, true),
            (ContainerConfig { env: List::empty(), labels: Dict::empty(), volumes: Dict::empty(), ..base.clone() }, true),
            (ContainerConfig { entrypoint: words(&[]), ..base.clone() }, true),
            (ContainerConfig { cmd: words(&["b", "a"]), ..base.clone() }, false),
            (ContainerConfig { env: vec!["A=1".to_owned()].into(), ..base.clone() }, false),
            (ContainerConfig { user: "u".into(), ..base.clone() }, false),
            (ContainerConfig { working_dir: "/w".into(), ..base.clone() }, false),
            (ContainerConfig { tty: true, ..base.clone() }, false),
            (ContainerConfig { healthcheck: Some(HealthConfig::default()), ..base.clone() }, false),
        ];
        for (other, expected) in table {
            assert_eq!(is_same(&base, other), *expected, "{other:?}");
            assert_eq!(is_same(other, &base), *expected, "{other:?}");
        }
    }
}
