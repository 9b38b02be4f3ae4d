//! Sending a signal.

use std::time::Duration;

use super::signal;
use super::state::{Change, Status};
use super::stop::wait_for_end;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

const SIGKILL: i32 = 9;
/// Docker waits this long for the end after SIGKILL before it answers all the same.
const PATIENCE: Duration = Duration::from_secs(10);

impl Engine {
    /// Sends a signal, SIGKILL when none is given, to a container's init.
    pub async fn kill_container(
        &self,
        name: &str,
        signal: Option<String>,
    ) -> Result<(), EngineError> {
        let number = match signal.as_deref() {
            None | Some("") => SIGKILL,
            Some(text) => signal::parse(text)?,
        };
        let container = self.registry().find(name)?;
        let mut ends = container.watch_ends();
        match container.state().status {
            Status::Running => {}
            Status::Restarting => {
                self.call_restart_off(&container).await;
                return Ok(());
            }
            Status::Paused if number == SIGKILL => {}
            Status::Paused => {
                return Err(ContainerError::KillPaused { id: container.id().clone() }.into());
            }
            _ => {
                return Err(ContainerError::KillNotRunning {
                    name: name.to_owned(),
                    id: container.id().clone(),
                }
                .into());
            }
        }
        let stop = signal::parse(container.record().stop_signal()).ok();
        if number == SIGKILL || Some(number) == stop {
            container.change(Change::StopAsked);
        }
        let count = ends.borrow_and_update().count;
        self.send(&container, number).await?;
        if number == SIGKILL && !wait_for_end(&mut ends, count, Some(PATIENCE)).await {
            tracing::warn!(container = %container.id(), "still there after SIGKILL");
        }
        Ok(())
    }
}
