//! Stopping and starting again.

use super::state::Change;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Stops a container (see [`stop_container`](Self::stop_container)) and starts it again.
    pub async fn restart_container(
        &self,
        name: &str,
        timeout: Option<i64>,
        signal: Option<String>,
    ) -> Result<(), EngineError> {
        let container = self.registry().find(name)?;
        // A container made with --rm survives its own restart, as in Docker.
        let auto_remove = std::mem::take(&mut container.live().record.host.auto_remove);
        let stopped = self.stop(&container, timeout, signal.as_deref()).await;
        container.live().record.host.auto_remove = auto_remove;
        stopped?;
        self.start(&container, super::start::By::Hand).await?;
        self.publish_container(&container, "restart", []);
        Ok(())
    }

    /// Freezes every process of a container.
    pub async fn pause_container(&self, name: &str) -> Result<(), EngineError> {
        self.freeze(name, true).await?;
        self.save_state(&self.registry().find(name)?).await;
        Ok(())
    }

    /// Thaws every process of a container.
    pub async fn unpause_container(&self, name: &str) -> Result<(), EngineError> {
        self.freeze(name, false).await?;
        self.save_state(&self.registry().find(name)?).await;
        Ok(())
    }

    /// Without a record: a commit that a crash cuts short must not leave its container frozen.
    pub(crate) async fn freeze(&self, name: &str, freeze: bool) -> Result<(), EngineError> {
        use super::state::Status;
        use crate::error::ContainerError;

        let container = self.registry().find(name)?;
        match (container.state().status, freeze) {
            (Status::Running, true) | (Status::Paused, false) => {}
            (Status::Paused, true) => {
                return Err(ContainerError::AlreadyPaused { name: name.to_owned() }.into());
            }
            (_, false) => {
                return Err(ContainerError::NotPaused { name: name.to_owned() }.into());
            }
            (_, true) => {
                return Err(ContainerError::NotRunning { id: container.id().to_string() }.into());
            }
        }
        let watcher = super::watcher::Watcher::of(self, container.id());
        watcher.command(&berth_shim_proto::Request::Pause { freeze }).await?;
        let change = if freeze { Change::Paused } else { Change::Unpaused };
        container.change(change);
        self.publish_container(&container, if freeze { "pause" } else { "unpause" }, []);
        Ok(())
    }
}
