//! `--change`: Dockerfile instructions that alter a configuration without running anything.

use berth_api::container::ContainerConfig;
use berth_build::SyntaxError;
use berth_build::apply::Changing;
use berth_build::words::Context;

/// Applies `changes`, as given by `--change`, to `config`. Nothing changes when one is refused.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<(), SyntaxError> {
    if changes.is_empty() {
        return Ok(());
    }
    let mut state = Changing { config: config.clone(), cmd_set: false };
    for mut step in berth_build::parse::changes(&changes.join("\n"))? {
        let env = state.config.env.to_vec();
        step.instruction.expand(Context { env: &env, escape: '\\' })?;
        berth_build::apply::apply(&mut state, &step.instruction)?;
    }
    *config = state.config;
    Ok(())
}

#[cfg(test)]
mod tests;
