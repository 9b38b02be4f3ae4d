//! What an image is made of, and the choice among platforms.

use berth_types::Digest;
use serde::{Deserialize, Serialize};

use crate::RegistryError;

/// Docker's manifest of an image.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's list of manifests.
pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Docker's configuration of an image.
pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
/// Docker's layer.
pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";
/// The OCI's manifest of an image.
pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// The OCI's list of manifests.
pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// The OCI's configuration of an image.
pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
/// The OCI's layer.
pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar+gzip";

/// What is asked for; registries choose the first that they have.
pub(crate) const ACCEPTED: [&str; 4] = [DOCKER_MANIFEST, DOCKER_LIST, OCI_MANIFEST, OCI_INDEX];
/// Manifests of Docker before 1.10, which nobody may pull any more.
const SCHEMA_ONE: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];
/// The largest manifest that is taken, in bytes.
pub const MAX_MANIFEST: u64 = 4 << 20;

/// A blob, or a manifest, as another document names it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What it is.
    #[serde(default)]
    pub media_type: String,
    /// How long it is.
    pub size: u64,
    /// What its bytes must hash to.
    pub digest: Digest,
    /// What it runs on, in a list of manifests.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
}

/// What an image runs on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Platform {
    /// `amd64` and the like.
    pub architecture: String,
    /// `linux`.
    pub os: String,
    /// Of Windows.
    #[serde(rename = "os.version", skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    /// Of Windows.
    #[serde(rename = "os.features", skip_serializing_if = "Option::is_none")]
    pub os_features: Option<Vec<String>>,
    /// `v8` and the like.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        if self.variant.is_empty() { Ok(()) } else { write!(f, "/{}", self.variant) }
    }
}

/// A manifest that was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// Of one image.
    Image(Box<ImageManifest>),
    /// Of one image on several platforms.
    Index(Index),
}

/// The manifest of one image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ImageManifest {
    /// 2.
    pub schema_version: u8,
    /// [`DOCKER_MANIFEST`] or [`OCI_MANIFEST`].
    #[serde(default)]
    pub media_type: String,
    /// The configuration, whose digest is the image's id.
    pub config: Descriptor,
    /// The layers, base first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
}

/// The manifests of one image on several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Index {
    /// In the order of its maker.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
}

impl Manifest {
    /// Reads a manifest that came as `media_type`; `image` is for the words of a refusal.
    pub fn parse(media_type: &str, body: &[u8], image: &str) -> Result<Self, RegistryError> {
        #[derive(Deserialize, Default)]
        #[serde(rename_all = "camelCase", default)]
        struct Kind {
            schema_version: u8,
            media_type: String,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
        }
        let bad =
            |error: serde_json::Error| RegistryError::BadManifest { reason: error.to_string() };
        let kind: Kind = serde_json::from_slice(body).map_err(bad)?;
        let sent = media_type.split(';').next().unwrap_or_default().trim();
        if SCHEMA_ONE.contains(&sent) || kind.schema_version == 1 {
            return Err(RegistryError::SchemaOne { image: image.to_owned() });
        }
        // Registries that serve files know no better than this.
        let is_vague =
            ["", "application/json", "text/plain", "application/octet-stream"].contains(&sent);
        let meant = match (is_vague, &*kind.media_type) {
            (false, "") => sent,
            (false, own) if own != sent => {
                let reason = format!("it came as {sent:?} and calls itself {own:?}");
                return Err(RegistryError::BadManifest { reason });
            }
            (true, "") if kind.manifests.is_some() => OCI_INDEX,
            (true, "") if kind.config.is_some() => OCI_MANIFEST,
            (_, own) => own,
        };
        match meant {
            DOCKER_MANIFEST | OCI_MANIFEST => {
                if kind.manifests.is_some() {
                    let reason = "a manifest of one image has a list of manifests".to_owned();
                    return Err(RegistryError::BadManifest { reason });
                }
                let mut manifest: ImageManifest = serde_json::from_slice(body).map_err(bad)?;
                meant.clone_into(&mut manifest.media_type);
                Ok(Self::Image(Box::new(manifest)))
            }
            DOCKER_LIST | OCI_INDEX => {
                if kind.config.is_some() {
                    let reason = "a list of manifests has a configuration".to_owned();
                    return Err(RegistryError::BadManifest { reason });
                }
                serde_json::from_slice(body).map(Self::Index).map_err(bad)
            }
            other => Err(RegistryError::MediaType { media_type: other.to_owned() }),
        }
    }
}

impl ImageManifest {
    /// Refuses what is no image: a plugin, an artifact.
    pub fn check_is_image(&self) -> Result<(), RegistryError> {
        let class = match &*self.config.media_type {
            // Very old registries lost the type.
            DOCKER_CONFIG | OCI_CONFIG | "" | "application/octet-stream" => return Ok(()),
            "application/vnd.docker.plugin.v1+json" => "plugin",
            _ => "unknown",
        };
        Err(RegistryError::NotAnImage { media_type: self.config.media_type.clone(), class })
    }

    /// Whether it came in the OCI's form.
    pub fn is_oci(&self) -> bool {
        self.media_type == OCI_MANIFEST
    }
}

impl Index {
    /// The manifest for a platform: the best of those that run on it, then those that do not say.
    pub fn choose(&self, wanted: &Platform) -> Result<&Descriptor, RegistryError> {
        let suits = |one: &&Descriptor| one.platform.as_ref().and_then(|own| rank(own, wanted));
        let said = self.manifests.iter().filter(|one| suits(one).is_some());
        let best = said.min_by_key(|one| suits(one));
        let is_silent = |one: &&Descriptor| {
            one.platform.as_ref().is_none_or(|own| own.os.is_empty() && own.architecture.is_empty())
        };
        best.or_else(|| self.manifests.iter().find(is_silent))
            .ok_or_else(|| RegistryError::NoPlatform { platform: wanted.to_string() })
    }
}

/// How well an image for `own` runs on `wanted`; less is better.
fn rank(own: &Platform, wanted: &Platform) -> Option<u8> {
    if own.os != wanted.os {
        return None;
    }
    let architecture = match &*own.architecture {
        "x86_64" | "x86-64" => "amd64",
        "aarch64" => "arm64",
        "i386" => "386",
        other => other,
    };
    match (architecture, &*wanted.architecture) {
        ("arm", "arm") => {
            let (own, wanted) = (arm_version(&own.variant)?, arm_version(&wanted.variant)?);
            wanted.checked_sub(own)
        }
        ("arm64", "arm64") => {
            let version = |text: &str| match text {
                "" | "v8" | "8" => "v8".to_owned(),
                other => other.to_owned(),
            };
            (version(&own.variant) == version(&wanted.variant)).then_some(0)
        }
        ("amd64", "amd64") => match (&*own.variant, &*wanted.variant) {
            ("" | "v1", _) => Some(1),
            (own, wanted) => (own == wanted).then_some(0),
        },
        (own_architecture, architecture) if own_architecture == architecture => {
            (own.variant == wanted.variant).then_some(0)
        }
        ("386", "amd64") => Some(100),
        _ => None,
    }
}

/// `v7` and the like; that when nothing is said.
fn arm_version(variant: &str) -> Option<u8> {
    match variant {
        "" => Some(7),
        text => text.trim_start_matches('v').parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn platform(text: &str) -> Platform {
        let mut parts = text.split('/').map(str::to_owned);
        Platform {
            os: parts.next().unwrap_or_default(),
            architecture: parts.next().unwrap_or_default(),
            variant: parts.next().unwrap_or_default(),
            ..Platform::default()
        }
    }

    #[test]
    fn the_best_manifest_for_a_platform_is_chosen() {
        #[rustfmt::skip]
        let table: &[(&str, &[&str], Option<usize>)] = &[
            ("linux/amd64",  &["linux/arm64", "linux/amd64"],                        Some(1)),
            ("linux/amd64",  &["linux/386", "windows/amd64", "linux/amd64"],         Some(2)),
            ("linux/amd64",  &["linux/386", "windows/amd64"],                        Some(0)),
            ("linux/amd64",  &["linux/amd64/v3", "linux/amd64"],                     Some(1)),
            ("linux/amd64",  &["linux/arm64", "unknown/unknown"],                    None),
            ("linux/amd64",  &["linux/arm64", ""],                                   Some(1)),
            ("linux/arm/v6", &["linux/arm/v7", "linux/arm/v5", "linux/arm/v6"],      Some(2)),
            ("linux/arm/v7", &["linux/arm/v5", "linux/arm/v6"],                      Some(1)),
            ("linux/arm/v5", &["linux/arm/v7"],                                      None),
            ("linux/arm64",  &["linux/arm/v7", "linux/arm64/v8"],                    Some(1)),
            ("linux/amd64",  &[],                                                    None),
        ];
        for (wanted, manifests, expected) in table {
            let descriptor = |(at, text): (usize, &&str)| Descriptor {
                media_type: OCI_MANIFEST.to_owned(),
                size: at as u64,
                digest: Digest::of(b""),
                platform: (!text.is_empty()).then(|| platform(text)),
            };
            let index = Index { manifests: manifests.iter().enumerate().map(descriptor).collect() };
            let got = index.choose(&platform(wanted)).map(|found| found.size);
            match expected {
                Some(at) => assert_eq!(got.unwrap(), *at as u64, "{wanted} of {manifests:?}"),
                None => assert_eq!(
                    got.unwrap_err().to_string(),
                    format!("no matching manifest for {wanted} in the manifest list entries")
                ),
            }
        }
    }

    #[test]
    fn manifests_are_what_they_came_as() {
        let digest = Digest::of(b"");
        let config = format!(r#"{{"mediaType":"{OCI_CONFIG}","size":1,"digest":"{digest}"}}"#);
        let image = format!(r#"{{"schemaVersion":2,"config":{config},"layers":[]}}"#);
        let named =
            image.replace("{\"schema", &format!("{{\"mediaType\":\"{DOCKER_MANIFEST}\",\"schema"));
        let index = r#"{"schemaVersion":2,"manifests":[]}"#.to_owned();
        let both = image.replace("\"layers\"", "\"manifests\"");
        #[rustfmt::skip]
        let table = [
            (OCI_MANIFEST,            &image, Ok("image oci")),
            (DOCKER_MANIFEST,         &image, Ok("image docker")),
            ("application/json",      &image, Ok("image oci")),
            ("",                      &named, Ok("image docker")),
            ("text/plain; charset=x", &index, Ok("index")),
            (DOCKER_LIST,             &index, Ok("index")),
            (OCI_MANIFEST,            &named, Err("manifest invalid: it came as \"application/vnd.oci.image.manifest.v1+json\" and calls itself \"application/vnd.docker.distribution.manifest.v2+json\"")),
            (OCI_MANIFEST,            &both,  Err("manifest invalid: a manifest of one image has a list of manifests")),
            (OCI_INDEX,               &both,  Err("manifest invalid: a list of manifests has a configuration")),
            ("application/x",         &image, Err("unsupported manifest media type \"application/x\"")),
            (SCHEMA_ONE[1],           &index, Err("Docker Image Format v1 and Docker Image manifest version 2, schema 1 support has been removed. Suggest the author of a/b:1 to upgrade the image to the OCI Format or Docker Image manifest v2, schema 2. More information at https://docs.docker.com/go/deprecated-image-specs/")),
        ];
        for (media_type, body, expected) in table {
            let got = Manifest::parse(media_type, body.as_bytes(), "a/b:1");
            let got = got.map_err(|error| error.to_string()).map(|manifest| match manifest {
                Manifest::Image(image) if image.is_oci() => "image oci",
                Manifest::Image(_) => "image docker",
                Manifest::Index(_) => "index",
            });
            assert_eq!(got, expected.map_err(str::to_owned), "{media_type} {body}");
        }
    }
}
