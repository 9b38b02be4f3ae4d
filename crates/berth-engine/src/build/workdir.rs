//! `WORKDIR`: a directory that is there from then on.

use std::sync::Arc;

use berth_api::container::ContainerConfig;
use berth_build::apply;
use berth_build::instruction::Instruction;
use berth_fs::root::Root;
use berth_types::IdMaps;

use super::error::BuildError;
use super::record::Top;
use super::stages::{Builder, Stage};
use super::steps::change;
use super::transfer::place;
use crate::blocking::blocking;
use crate::error::EngineError;

impl Builder {
    pub(crate) async fn workdir(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
    ) -> Result<(), EngineError> {
        let words = change(&mut stage.state, instruction)?;
        let config = &stage.state.config;
        let step = ContainerConfig { cmd: apply::nop_of_files(config, &words), ..config.clone() };
        if self.probe(stage, &step).await? {
            return Ok(());
        }
        let layers = Arc::clone(self.engine.layers());
        let parent = stage.image.as_ref().and_then(|image| image.config.top_chain());
        let path = stage.state.config.working_dir.clone();
        let ids = self.engine.ids().clone();
        let made = blocking(move || {
            let draft = layers.draft(parent.as_ref())?;
            draft.write(None, |root, _| make(root, &path, &ids))??;
            Ok::<_, EngineError>(draft.commit("build")?)
        })
        .await?;
        let container = self.nominal(&step).await?;
        self.record(stage, step, Some(container), Top::New(Box::new(made))).await
    }
}

fn make(root: &Root, path: &str, ids: &IdMaps) -> Result<(), BuildError> {
    match place::make_path(root, path, ids) {
        Err(BuildError::Place { path, .. }) => Err(BuildError::Workdir { path }),
        other => other,
    }
}
