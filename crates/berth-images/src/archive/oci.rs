//! OCI image layouts: `oci-layout`, `index.json` and blobs by digest.

use std::collections::BTreeMap;

use berth_types::Digest;
use berth_types::reference::Reference;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::plan::{MAX_JSON, Planned};
use super::spool::blob_name;
use super::{ArchiveError, Spool};
use crate::config::{MAX_CONFIG, OS, host_architecture};
use crate::{ImageConfig, ImageError};

/// How deep indexes may stand in indexes.
const MAX_NESTING: usize = 8;

const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";

const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// The whole name, as containerd and Docker write it.
const IMAGE_NAME: &str = "io.containerd.image.name";
/// The tag, or the whole name, depending on who wrote it.
const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// What BuildKit marks its attestations with: manifests that are no images.
const REFERENCE_TYPE: &str = "vnd.docker.reference.type";

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Layout {
    image_layout_version: String,
}

#[derive(Debug, Deserialize)]
struct Index {
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
}

#[derive(Debug, Deserialize)]
struct Manifest {
    config: Descriptor,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Descriptor {
    #[serde(default)]
    media_type: String,
    digest: String,
    #[serde(default)]
    annotations: Option<BTreeMap<String, String>>,
    #[serde(default)]
    platform: Option<Platform>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Platform {
    os: String,
    architecture: String,
}

impl Descriptor {
    fn digest(&self) -> Result<Digest, ArchiveError> {
        Digest::parse(&self.digest)
            .map_err(|source| ArchiveError::Digest { text: self.digest.clone(), source })
    }

    fn annotation(&self, key: &str) -> Option<&str> {
        self.annotations.as_ref().and_then(|all| all.get(key)).map(String::as_str)
    }

    fn is_index(&self) -> bool {
        matches!(self.media_type.as_str(), OCI_INDEX | DOCKER_LIST)
    }

    /// An attestation, or something made for no platform at all.
    fn is_no_image(&self) -> bool {
        self.annotation(REFERENCE_TYPE).is_some()
            || self.platform.as_ref().is_some_and(|platform| platform.os == "unknown")
    }

    fn is_for_this_host(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| {
            platform.os == OS && platform.architecture == host_architecture()
        })
    }

    /// The names it gives. A bare word in the `ref.name` is only a tag: no name is known then.
    fn names(&self) -> Result<Vec<Reference>, ImageError> {
        let text = match (self.annotation(IMAGE_NAME), self.annotation(REF_NAME)) {
            (Some(name), _) => name,
            (None, Some(name)) if name.contains([':', '/']) => name,
            (None, _) => return Ok(Vec::new()),
        };
        let reference = Reference::parse(text)?;
        if reference.digest().is_some() && reference.tag().is_none() {
            return Ok(Vec::new());
        }
        let reference = reference.with_default_tag();
        let tag = reference.tag().unwrap_or_default();
        Ok(vec![reference.with_tag(tag)?])
    }
}

pub(super) fn plan(spool: &Spool) -> Result<Vec<Planned>, ImageError> {
    let layout: Layout = decode(LAYOUT, &spool.small(LAYOUT, MAX_JSON)?)?;
    if layout.image_layout_version.split('.').next() != Some("1") {
        let version = layout.image_layout_version;
        return Err(ArchiveError::LayoutVersion { version }.into());
    }
    let index: Index = decode(INDEX, &spool.small(INDEX, MAX_JSON)?)?;
    let all: Vec<Descriptor> =
        index.manifests.unwrap_or_default().into_iter().filter(|d| !d.is_no_image()).collect();
    // Several platforms under one name at the top are one image; this host's is taken.
    let is_other_platform = |wanted: &Descriptor| {
        let Ok(names) = wanted.names() else { return false };
        !names.is_empty()
            && !wanted.is_for_this_host()
            && all.iter().any(|other| {
                other.is_for_this_host()
                    && other.platform.is_some()
                    && other.names().is_ok_and(|others| others == names)
            })
    };
    let mut images: Vec<Planned> = Vec::new();
    for descriptor in all.iter().filter(|descriptor| !is_other_platform(descriptor)) {
        let mut image = image(spool, descriptor, 0)?;
        image.names = descriptor.names()?;
        image.check()?;
        // The same image under several names stands there once for each.
        match images.iter_mut().find(|known| known.config == image.config) {
            Some(known) => known.names.append(&mut image.names),
            None => images.push(image),
        }
    }
    Ok(images)
}

fn image(spool: &Spool, descriptor: &Descriptor, depth: usize) -> Result<Planned, ImageError> {
    if depth > MAX_NESTING {
        return Err(ArchiveError::Nesting.into());
    }
    let digest = descriptor.digest()?;
    let name = blob_name(&digest);
    let json = spool.small_blob(&digest, MAX_JSON)?;
    if descriptor.is_index() {
        let index: Index = decode(&name, &json)?;
        return image(spool, &choose(&name, index)?, depth + 1);
    }
    if !matches!(descriptor.media_type.as_str(), OCI_MANIFEST | DOCKER_MANIFEST) {
        let media_type = descriptor.media_type.clone();
        return Err(ArchiveError::MediaType { name, media_type }.into());
    }
    let manifest: Manifest = decode(&name, &json)?;
    if !matches!(manifest.config.media_type.as_str(), OCI_CONFIG | DOCKER_CONFIG) {
        let media_type = manifest.config.media_type;
        return Err(ArchiveError::MediaType { name, media_type }.into());
    }
    let config = ImageConfig::parse(spool.small_blob(&manifest.config.digest()?, MAX_CONFIG)?)?;
    let layers = manifest.layers.unwrap_or_default();
    let layers = layers
        .iter()
        .map(|layer| Ok(blob_name(&layer.digest()?)))
        .collect::<Result<_, ArchiveError>>()?;
    Ok(Planned { config, layers, names: Vec::new(), parent: None })
}

/// The one image of an index, or the one for this host.
fn choose(name: &str, index: Index) -> Result<Descriptor, ArchiveError> {
    let mut images: Vec<Descriptor> =
        index.manifests.unwrap_or_default().into_iter().filter(|d| !d.is_no_image()).collect();
    let chosen = match images.iter().position(Descriptor::is_for_this_host) {
        Some(at) => at,
        None if images.len() == 1 => 0,
        None => {
            let architecture = host_architecture();
            return Err(ArchiveError::NoPlatform { name: name.to_owned(), architecture });
        }
    };
    Ok(images.swap_remove(chosen))
}

fn decode<T: DeserializeOwned>(name: &str, json: &[u8]) -> Result<T, ArchiveError> {
    serde_json::from_slice(json)
        .map_err(|source| ArchiveError::Json { name: name.to_owned(), source })
}
