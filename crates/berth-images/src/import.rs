//! `docker import`: a file system's tar becomes an image of one layer.

use std::io::Read;

use berth_api::container::ContainerConfig;
use berth_layers::{NewLayer, Parent};
use berth_types::reference::Reference;
use berth_types::{ImageId, Timestamp};

use crate::config::{self, Platform};
use crate::store::note_tar_size;
use crate::{ImageError, ImageStore, NewImage, changes};

/// What an import asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ImportOptions {
    /// The name it gets.
    pub reference: Option<Reference>,
    /// The remark in its history.
    pub message: String,
    /// Dockerfile instructions that make its configuration.
    pub changes: Vec<String>,
    /// The platform it is for; this host's when none is given.
    pub platform: Option<Platform>,
}

impl ImageStore {
    /// Makes an image of a tar, compressed or not.
    pub fn import(
        &self,
        body: impl Read + Send,
        options: &ImportOptions,
    ) -> Result<ImageId, ImageError> {
        let mut preset = ContainerConfig::default();
        changes::apply(&mut preset, &options.changes)?;
        let platform = options.platform.clone().unwrap_or_else(Platform::host);
        if platform.os != config::OS {
            return Err(ImageError::ImportOs);
        }
        let layer = NewLayer { parent: Parent::None, expected: None };
        let mut ingest = self.layers.begin("import", vec![layer])?;
        let applied = ingest.apply(0, body)?;
        let chains = ingest.finish()?;
        let config = config::imported(
            &applied.diff,
            &preset,
            &platform,
            &options.message,
            Timestamp::now(),
        )?;
        let id = self.db.write(|tx| {
            ingest.record(tx)?;
            for chain in &chains {
                note_tar_size(tx, chain, applied.tar_bytes)?;
            }
            let new = NewImage { config, parent: None, built_locally: false };
            let id = self.record(tx, &new)?;
            if let Some(reference) = &options.reference {
                self.tag(tx, reference, &id)?;
            }
            Ok::<_, ImageError>(id)
        })?;
        ingest.done();
        Ok(id)
    }
}
