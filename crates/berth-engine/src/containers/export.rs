//! A container's whole file system as a tar.

use super::rootfs::View;
use crate::engine::Engine;
use crate::error::EngineError;
use crate::pieces::{ByteStream, pieces};

impl Engine {
    /// The tar of a container's file system, without its volumes.
    pub fn export(&self, name: &str) -> Result<ByteStream, EngineError> {
        let container = self.registry().find(name)?;
        self.publish_container(&container, "export", []);
        let (writer, stream) = pieces();
        let ids = self.ids().clone();
        let engine = self.clone();
        tokio::spawn(async move {
            let exported = engine.with_root(
                &container,
                View::Layers,
                berth_storage::Access::Read,
                move |root, _path| {
                    let mut writer = writer;
                    let packed = berth_fs::pack::tree(root, &ids, &mut writer).map(|_packed| ());
                    writer.finish(packed.map_err(archive_error));
                    Ok::<_, EngineError>(())
                },
            );
            if let Err(error) = exported.await {
                tracing::warn!(error = %berth_types::kind::chain(&error), "export failed");
            }
        });
        Ok(stream)
    }
}

/// An error of reading or writing an archive, as the engine's.
pub(crate) fn archive_error(error: impl std::error::Error + Send + Sync + 'static) -> EngineError {
    crate::error::ContainerError::Archive(Box::new(error)).into()
}
