//! One step: the instructions that only change the configuration, and the ways to the others.

use berth_api::container::{ContainerConfig, CreateRequest};
use berth_build::apply::{self, Changing};
use berth_build::instruction::{Instruction, Step};
use berth_build::words::Context as Words;
use berth_types::ContainerId;

use super::error::BuildError;
use super::record::Top;
use super::stages::{Builder, Intermediate, Stage};
use crate::containers::Purpose;
use crate::error::EngineError;

impl Builder {
    /// Does what a step says, and removes its containers.
    pub(crate) async fn carry_out(
        &mut self,
        stage: &mut Stage,
        step: Step,
    ) -> Result<(), EngineError> {
        let mut instruction = step.instruction;
        if !step.is_literal {
            let mut env = stage.state.config.env.to_vec();
            env.extend(self.args.beside(&env));
            let context = Words { env: &env, escape: self.escape };
            instruction.expand(context).map_err(BuildError::from)?;
        }
        let result = match instruction {
            Instruction::Run(run) => Box::pin(self.run(stage, run)).await,
            Instruction::Add(transfer) => self.transfer(stage, "ADD", transfer).await,
            Instruction::Copy(transfer) => self.transfer(stage, "COPY", transfer).await,
            Instruction::Workdir(_) => self.workdir(stage, &instruction).await,
            other => self.configure(stage, &other).await,
        };
        let containers = std::mem::take(&mut self.containers);
        if self.request.force_rm || (self.request.rm && result.is_ok()) {
            for container in containers {
                self.remove_intermediate(&container).await?;
            }
        } else {
            for container in containers.iter().filter(|container| container.is_real) {
                self.engine.keep_container(&container.id).await;
            }
        }
        result
    }

    async fn configure(
        &mut self,
        stage: &mut Stage,
        instruction: &Instruction,
    ) -> Result<(), EngineError> {
        if let (Instruction::Healthcheck(_), Some(old)) =
            (instruction, &stage.state.config.healthcheck)
            && old.test.first().is_some_and(|kind| kind != "NONE")
        {
            let old = old.test.join(" ");
            self.output.line(&format!("Note: overriding previous HEALTHCHECK: [{old}]")).await?;
        }
        match instruction {
            Instruction::Arg(pairs) => pairs.iter().for_each(|pair| self.args.declare(pair)),
            Instruction::Maintainer(name) => name.clone_into(&mut stage.author),
            _ => {}
        }
        let words = change(&mut stage.state, instruction)?;
        let config = &stage.state.config;
        let step = ContainerConfig { cmd: apply::nop(config, &words), ..config.clone() };
        if self.probe(stage, &step).await? {
            return Ok(());
        }
        let container = self.nominal(&step).await?;
        self.record(stage, step, Some(container), Top::None).await
    }

    /// The container of a step that runs nothing. It is only made when somebody may look at it.
    pub(crate) async fn nominal(
        &mut self,
        step: &ContainerConfig,
    ) -> Result<ContainerId, EngineError> {
        let is_real = !self.request.rm && !self.request.force_rm;
        let id = if is_real {
            let mut step = step.clone();
            // Only the step's own command is to be seen.
            step.healthcheck = None;
            self.create(step, Purpose::Use).await?
        } else {
            ContainerId::random()
        };
        self.containers.push(Intermediate { id: id.clone(), is_real });
        self.output.line(&format!(" ---> Running in {}", id.short())).await?;
        Ok(id)
    }

    /// Makes a container with the limits that the request has.
    pub(crate) async fn create(
        &self,
        config: ContainerConfig,
        purpose: Purpose,
    ) -> Result<ContainerId, EngineError> {
        let mut host_config = self.request.host.clone();
        "none".clone_into(&mut host_config.log_config.driver);
        let request = CreateRequest { config, host_config, ..CreateRequest::default() };
        let made = Box::pin(self.engine.create_for(purpose, request)).await?;
        for warning in &made.warnings {
            self.output.line(&format!(" ---> [Warning] {warning}")).await?;
        }
        let parsed = ContainerId::parse(&made.id);
        Ok(parsed.expect("the engine gives whole ids"))
    }

    async fn remove_intermediate(&self, container: &Intermediate) -> Result<(), EngineError> {
        let shown = container.id.short();
        if container.is_real
            && let Err(error) = self.engine.drop_container(&container.id).await
        {
            let error = berth_types::kind::chain(&error);
            let text = format!("Error removing intermediate container {shown}: {error}");
            return self.output.line(&text).await;
        }
        self.output.line(&format!("Removing intermediate container {shown}")).await
    }
}

/// Changes the configuration and gives the instruction's words in the history.
pub(crate) fn change(
    state: &mut Changing,
    instruction: &Instruction,
) -> Result<String, EngineError> {
    let words = apply::apply(state, instruction).map_err(BuildError::from)?;
    Ok(words.unwrap_or_default())
}
