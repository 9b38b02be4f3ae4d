//! The size of a container's terminal.

use berth_shim_proto::Request;

use super::watcher::Watcher;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

impl Engine {
    /// Sets the size of a running container's terminal.
    pub async fn resize_container(
        &self,
        name: &str,
        height: u16,
        width: u16,
    ) -> Result<(), EngineError> {
        let container = self.registry().find(name)?;
        if !container.state().is_running() {
            return Err(ContainerError::NotRunning { id: container.id().to_string() }.into());
        }
        let request = Request::Resize { exec: None, height, width };
        Watcher::of(self, container.id()).command(&request).await?;
        let (height, width) = (height.to_string(), width.to_string());
        let size = [("height", height.as_str()), ("width", width.as_str())];
        self.publish_container(&container, "resize", size);
        Ok(())
    }
}
