//! What an archive asks to have loaded, whichever format it has.

use berth_types::ImageId;
use berth_types::reference::Reference;

use super::{ArchiveError, Spool, docker, legacy, oci};
use crate::config::OS;
use crate::{ImageConfig, ImageError};

/// The largest manifest, index or list of repositories.
pub(super) const MAX_JSON: u64 = 4 << 20;

/// One image of an archive.
#[derive(Debug)]
pub(crate) struct Planned {
    pub(crate) config: ImageConfig,
    /// The files of the layers in the archive, base first; as many as the configuration names.
    pub(crate) layers: Vec<String>,
    /// The names it gets.
    pub(crate) names: Vec<Reference>,
    /// The image it was made of, as the archive says.
    pub(crate) parent: Option<ImageId>,
}

impl Planned {
    /// Checks what Docker checks of each image before its layers.
    pub(super) fn check(&self) -> Result<(), ImageError> {
        let os = self.config.os();
        if os != OS {
            return Err(ImageError::OtherOs { os: os.to_owned() });
        }
        let (got, expected) = (self.config.diff_ids().len(), self.layers.len());
        if got != expected {
            return Err(ArchiveError::LayersLength { expected, got }.into());
        }
        Ok(())
    }
}

/// Finds out the format and reads the archive's images, in its order.
///
/// `manifest.json` wins over an OCI layout, because archives of Docker 25 and later have both.
pub(crate) fn plan(spool: &Spool) -> Result<Vec<Planned>, ImageError> {
    let mut images = if spool.has_file("manifest.json")? {
        docker::plan(spool)?
    } else if spool.has_file("index.json")? {
        oci::plan(spool)?
    } else if spool.has_file("repositories")? {
        legacy::plan(spool)?
    } else {
        return Err(ArchiveError::NoManifest.into());
    };
    keep_valid_parents(&mut images);
    Ok(images)
}

/// A parent counts when it is in the same archive and one step shorter.
fn keep_valid_parents(images: &mut [Planned]) {
    let known: Vec<(ImageId, Vec<_>)> =
        images.iter().map(|image| (image.config.id(), image.config.history().to_vec())).collect();
    for image in images {
        let id = image.config.id();
        let valid = image.parent.as_ref().is_some_and(|parent| {
            known.iter().any(|(other, steps)| {
                let own = image.config.history();
                other == parent
                    && *other != id
                    && own.len() == steps.len() + 1
                    && own.starts_with(steps)
            })
        });
        if !valid {
            image.parent = None;
        }
    }
}
