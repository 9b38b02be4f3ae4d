//! Images of a file system's tar.

use berth_images::ImageError;
use berth_images::config::Platform;
use berth_images::import::ImportOptions;
use berth_types::ImageId;

use super::stream::Archive;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// What an import asks for, as the client wrote it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportRequest {
    /// The repository of its name; empty for no name.
    pub repo: String,
    /// The tag of its name; empty for `latest`.
    pub tag: String,
    /// The remark in its history.
    pub message: String,
    /// Dockerfile instructions that make its configuration.
    pub changes: Vec<String>,
    /// `os[/architecture[/variant]]`; empty for this host's.
    pub platform: String,
}

impl ImportRequest {
    fn check(self) -> Result<ImportOptions, ImageError> {
        let platform = Some(self.platform).filter(|text| !text.is_empty());
        Ok(ImportOptions {
            platform: platform.map(|text| Platform::parse(&text)).transpose()?,
            reference: berth_images::parse_repo_tag(&self.repo, &self.tag)?,
            message: self.message,
            changes: self.changes,
        })
    }
}

impl Engine {
    /// Makes an image of one layer from a tar.
    pub async fn import_image(
        &self,
        archive: Archive,
        request: ImportRequest,
    ) -> Result<ImageId, EngineError> {
        let options = request.check()?;
        let engine = self.clone();
        blocking(move || {
            let imported = engine.images().import(archive, &options);
            // What a failure, or a layer that was there already, left in the trash.
            engine.reap_later();
            let id = imported?;
            if let Some(reference) = &options.reference {
                engine.publish_image("tag", &id, &reference.familiar());
            }
            engine.publish_image("import", &id, id.as_str());
            Ok(id)
        })
        .await
    }
}
