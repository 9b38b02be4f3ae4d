//! From a create request to mount points.
//!
//! [`resolve`] reads `Binds`, `Mounts`, `Tmpfs`, `VolumesFrom` and `Volumes` of a request and the
//! image, in Docker's order of precedence, and answers one [`ContainerMount`] for each destination:
//! what the records keep, what the API shows ([`ContainerMount::point`]) and what the runtime needs.

mod error;
mod mode;
mod path;
mod read;
mod resolve;
mod source;
mod tmpfs;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use berth_api::container::{Mount, MountPoint};
use serde::{Deserialize, Serialize};

pub use error::{Cause, ConfigError, MountError};
pub use resolve::resolve;
pub use tmpfs::tmpfs_flag_options;

use crate::{NewVolume, Volume};
use mode::Mode;

/// What is mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MountKind {
    /// A path of the host.
    Bind,
    /// A volume.
    Volume,
    /// Memory.
    Tmpfs,
}

/// How deep a bind mount is read-only.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ReadOnlyDepth {
    /// With everything mounted below it, where the kernel can.
    #[default]
    Recursive,
    /// Only the mount itself.
    Top,
    /// With everything below it, or the container does not start.
    ForceRecursive,
}

/// A mount point of a container, as the container's record keeps it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerMount {
    /// What is mounted.
    pub kind: MountKind,
    /// Absolute and clean path in the container.
    pub destination: String,
    /// Host path: of a bind as given, of a volume its data directory (empty until
    /// [`VolumeStore`](crate::VolumeStore) made it), of a tmpfs empty.
    pub source: PathBuf,
    /// The volume's name; empty for others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub volume: String,
    /// The volume's driver; empty for others.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub driver: String,
    /// The volume has no name in the request: `rm -v` removes it.
    #[serde(default)]
    pub anonymous: bool,
    /// Driver options, when the volume must be created.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub driver_options: BTreeMap<String, String>,
    /// Labels, when the volume must be created.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// The mode as the API shows it.
    pub mode: String,
    /// May be written to.
    pub rw: bool,
    /// Propagation (`rprivate`, …); empty for volumes and tmpfs in the API's answer.
    pub propagation: String,
    /// Fill the volume from the image when it is empty.
    #[serde(default)]
    pub copy: bool,
    /// Mount what is mounted below the source too.
    pub recursive: bool,
    /// How deep `rw: false` goes.
    #[serde(default)]
    pub read_only_depth: ReadOnlyDepth,
    /// Create a missing bind source as a directory when the container is created or started.
    #[serde(default)]
    pub create_source: bool,
    /// The API shows the mode `z` when the request has none.
    #[serde(default)]
    pub default_mode: bool,
    /// Options of a tmpfs (`size=…`, `mode=…`), the defaults `noexec,nosuid,nodev` included.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tmpfs_options: Vec<String>,
}

/// What a request and the image say about mounts.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    /// `HostConfig.Binds`.
    pub binds: &'a [String],
    /// `HostConfig.Mounts`.
    pub mounts: &'a [Mount],
    /// `HostConfig.Tmpfs`: only checked against the others; see [`tmpfs_flag_options`].
    pub tmpfs: &'a BTreeMap<String, String>,
    /// The keys of `Config.Volumes`, the image's among them.
    pub volumes: &'a [String],
    /// `HostConfig.VolumesFrom`, each with the mounts of the container it names.
    pub volumes_from: &'a [(VolumesFrom, Vec<ContainerMount>)],
    /// `HostConfig.VolumeDriver`.
    pub volume_driver: &'a str,
    /// The data root: a bind of a path that contains it gets `rslave`.
    pub data_root: &'a Path,
}

/// One `--volumes-from`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VolumesFrom {
    /// Id, name or prefix of the other container.
    pub container: String,
    /// Its mode text.
    pub mode: String,
    /// May be written to where the other container may.
    pub rw: bool,
}

impl VolumesFrom {
    /// Reads `CONTAINER[:MODE]`.
    pub fn parse(spec: &str) -> Result<Self, MountError> {
        if spec.is_empty() {
            return Err(MountError::VolumesFromEmpty);
        }
        let (container, text) = spec.split_once(':').unwrap_or((spec, "rw"));
        let refused = || MountError::Mode { mode: text.to_owned() };
        let mode = Mode::parse(text).ok_or_else(refused)?;
        if mode.no_copy || !mode.propagation.is_empty() {
            return Err(refused());
        }
        Ok(Self { container: container.to_owned(), mode: text.to_owned(), rw: !mode.read_only })
    }
}

impl ContainerMount {
    /// As the API shows it.
    pub fn point(&self) -> MountPoint {
        let kind = match self.kind {
            MountKind::Bind => "bind",
            MountKind::Volume => "volume",
            MountKind::Tmpfs => "tmpfs",
        };
        MountPoint {
            kind: kind.to_owned(),
            name: self.volume.clone(),
            source: self.source.to_string_lossy().into_owned(),
            destination: self.destination.clone(),
            driver: self.driver.clone(),
            mode: self.mode.clone(),
            rw: self.rw,
            propagation: self.propagation.clone(),
        }
    }

    /// What to ask the volume store for, if this is a volume.
    pub fn new_volume(&self) -> Option<NewVolume> {
        (self.kind == MountKind::Volume).then(|| NewVolume {
            name: self.volume.clone(),
            driver: self.driver.clone(),
            options: self.driver_options.clone(),
            labels: self.labels.clone(),
            anonymous: self.anonymous,
        })
    }

    /// Takes over what the volume store answered: where the content is, and the driver.
    ///
    /// As with Docker, a local volume that `-v` or `--mount` names without a mode shows mode `z`.
    pub fn set_volume(&mut self, volume: &Volume) {
        self.source.clone_from(&volume.mountpoint);
        self.driver.clone_from(&volume.driver);
        if self.default_mode && self.mode.is_empty() {
            "z".clone_into(&mut self.mode);
        }
    }
}

#[cfg(test)]
mod tests;
