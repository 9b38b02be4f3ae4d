//! An image's configuration: the bytes that make its id, and the parts that the engine reads.

use std::collections::BTreeMap;

use berth_api::container::ContainerConfig;
use berth_types::{ChainId, ContainerId, DiffId, Digest, ImageId, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::ImageError;

/// The largest configuration that is taken, in bytes.
pub const MAX_CONFIG: u64 = 4 << 20;

/// An image's configuration JSON. The raw bytes are kept, so unknown keys are too.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImageConfig {
    raw: Vec<u8>,
    view: View,
}

/// The parts of a configuration that the engine reads.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct View {
    architecture: Option<String>,
    variant: Option<String>,
    os: Option<String>,
    #[serde(rename = "os.version")]
    os_version: Option<String>,
    #[serde(rename = "os.features")]
    os_features: Option<Vec<String>>,
    created: Option<String>,
    author: Option<String>,
    comment: Option<String>,
    container: Option<String>,
    container_config: Option<ContainerConfig>,
    docker_version: Option<String>,
    config: Option<ContainerConfig>,
    rootfs: Option<RootFs>,
    history: Option<Vec<History>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
struct RootFs {
    #[serde(rename = "type")]
    kind: String,
    diff_ids: Option<Vec<DiffId>>,
}

/// One line of an image's history.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct History {
    /// When; RFC 3339 as the maker wrote it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// The command.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub created_by: String,
    /// Who.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub author: String,
    /// A remark.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub comment: String,
    /// Whether this step made no layer.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
}

impl ImageConfig {
    /// Reads a configuration and checks what Docker checks: a `rootfs`, and no more layers in
    /// the history than there are.
    pub fn parse(raw: Vec<u8>) -> Result<Self, ImageError> {
        let view: View = berth_api::go::from_slice(&raw).map_err(ImageError::ConfigJson)?;
        if view.rootfs.is_none() {
            return Err(ImageError::NoRootFs);
        }
        let config = Self { raw, view };
        let made = config.history().iter().filter(|step| !step.empty_layer).count();
        if made > config.diff_ids().len() {
            return Err(ImageError::TooManyHistoryLayers);
        }
        for time in config.history().iter().map(|step| &step.created).chain([&config.view.created])
        {
            if let Some(text) = time.as_deref().filter(|text| Timestamp::parse(text).is_none()) {
                return Err(ImageError::ConfigTime { text: text.to_owned() });
            }
        }
        Ok(config)
    }

    /// The image's id: the digest of the bytes.
    pub fn id(&self) -> ImageId {
        Digest::of(&self.raw).into()
    }

    /// The bytes as they were given.
    pub fn raw(&self) -> &[u8] {
        &self.raw
    }

    /// The digests of the layers' tars, base first.
    pub fn diff_ids(&self) -> &[DiffId] {
        self.view.rootfs.as_ref().and_then(|rootfs| rootfs.diff_ids.as_deref()).unwrap_or_default()
    }

    /// The layers' chain ids, base first.
    pub fn chains(&self) -> Vec<ChainId> {
        ChainId::chain(self.diff_ids())
    }

    /// The top layer; `None` for an image without layers.
    pub fn top_chain(&self) -> Option<ChainId> {
        self.chains().pop()
    }

    /// `RootFS.Type`, `layers` in practice.
    pub fn rootfs_type(&self) -> &str {
        self.view.rootfs.as_ref().map_or("", |rootfs| &rootfs.kind)
    }

    /// The history, oldest first.
    pub fn history(&self) -> &[History] {
        self.view.history.as_deref().unwrap_or_default()
    }

    /// What containers of this image preset.
    pub fn config(&self) -> Option<&ContainerConfig> {
        self.view.config.as_ref()
    }

    /// The configuration of the container that was committed.
    pub fn container_config(&self) -> Option<&ContainerConfig> {
        self.view.container_config.as_ref()
    }

    /// The container that was committed; empty for none.
    pub fn container(&self) -> &str {
        self.view.container.as_deref().unwrap_or_default()
    }

    /// When it was made.
    pub fn created(&self) -> Option<Timestamp> {
        self.view.created.as_deref().and_then(Timestamp::parse)
    }

    /// When it was made, as its maker wrote it.
    pub fn created_text(&self) -> Option<&str> {
        self.view.created.as_deref()
    }

    /// `amd64` and the like; empty when not said.
    pub fn architecture(&self) -> &str {
        self.view.architecture.as_deref().unwrap_or_default()
    }

    /// `v8` and the like; empty when not said.
    pub fn variant(&self) -> &str {
        self.view.variant.as_deref().unwrap_or_default()
    }

    /// The operating system; an image that does not say is taken for this one's.
    pub fn os(&self) -> &str {
        self.view.os.as_deref().filter(|os| !os.is_empty()).unwrap_or(OS)
    }

    /// The operating system's version; empty when not said.
    pub fn os_version(&self) -> &str {
        self.view.os_version.as_deref().unwrap_or_default()
    }

    /// Who made it; empty when not said.
    pub fn author(&self) -> &str {
        self.view.author.as_deref().unwrap_or_default()
    }

    /// The remark, or that of the last step.
    pub fn comment(&self) -> &str {
        match self.view.comment.as_deref() {
            Some(comment) if !comment.is_empty() => comment,
            _ => self.history().last().map_or("", |step| &step.comment),
        }
    }

    /// The engine that made it; empty when not said.
    pub fn docker_version(&self) -> &str {
        self.view.docker_version.as_deref().unwrap_or_default()
    }

    /// The labels that containers of this image get.
    pub fn labels(&self) -> Option<&BTreeMap<String, String>> {
        self.config().map(|config| &*config.labels)
    }
}

impl ImageConfig {
    /// The configuration with one layer instead of all those above `base`'s: `diff`, if there is
    /// one. The history keeps the steps, and its last line is `comment`.
    pub fn squashed(
        &self,
        base: Option<&Self>,
        diff: Option<&DiffId>,
        comment: &str,
        created: Timestamp,
    ) -> Result<Self, ImageError> {
        let created = created.to_string();
        let own = diff.filter(|diff| **diff != DiffId::empty());
        let mut diffs = base.map_or_else(Vec::new, |base| base.diff_ids().to_vec());
        diffs.extend(own.cloned());
        let mut history = self.history().to_vec();
        let kept = base.map_or(0, |base| base.history().len());
        for step in history.iter_mut().skip(kept) {
            step.empty_layer = true;
        }
        history.push(History {
            created: Some(created.clone()),
            comment: comment.to_owned(),
            empty_layer: own.is_none(),
            ..History::default()
        });
        let mut json = Keys::parse(&self.raw)?;
        json.put("created", &created)?;
        json.put("history", &history)?;
        json.put("rootfs", &NewRootFs { kind: "layers", diff_ids: &diffs })?;
        Self::parse(json.write()?)
    }
}

/// The only operating system whose images run here.
pub const OS: &str = "linux";

/// The processor, as Go and the image format call it.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "x86" => "386",
        "aarch64" => "arm64",
        "powerpc64" => "ppc64le",
        "loongarch64" => "loong64",
        other => other,
    }
}

/// A new image made of a container, or of nothing, and perhaps of one more layer.
#[derive(Debug, Clone)]
pub struct NewConfig<'a> {
    /// The image below.
    pub parent: Option<&'a ImageConfig>,
    /// The layer on top; [`DiffId::empty`] adds no layer.
    pub diff: &'a DiffId,
    /// When.
    pub created: Timestamp,
    /// Who; may be empty.
    pub author: &'a str,
    /// A remark; may be empty.
    pub comment: &'a str,
    /// The container that is committed.
    pub container: Option<&'a ContainerId>,
    /// That container's configuration; its command becomes the history's `created_by`.
    pub container_config: &'a ContainerConfig,
    /// What containers of the new image preset.
    pub config: &'a ContainerConfig,
}

impl NewConfig<'_> {
    /// The configuration, its top-level keys in alphabetical order as Docker writes them.
    pub fn build(&self) -> Result<ImageConfig, ImageError> {
        let parent = self.parent.map(|parent| &parent.view);
        let created = self.created.to_string();
        let is_empty = *self.diff == DiffId::empty();
        let mut diffs = self.parent.map_or_else(Vec::new, |parent| parent.diff_ids().to_vec());
        if !is_empty {
            diffs.push(self.diff.clone());
        }
        let mut history = self.parent.map_or_else(Vec::new, |parent| parent.history().to_vec());
        history.push(History {
            created: Some(created.clone()),
            created_by: self.container_config.cmd.join(" "),
            author: self.author.to_owned(),
            comment: self.comment.to_owned(),
            empty_layer: is_empty,
        });
        let architecture = parent
            .and_then(|parent| parent.architecture.as_deref())
            .filter(|name| !name.is_empty())
            .unwrap_or(host_architecture());
        let os = self.parent.map_or(OS, ImageConfig::os);

        let mut json = Keys::default();
        json.put("architecture", architecture)?;
        json.put_text("author", self.author)?;
        json.put("config", self.config)?;
        if let Some(container) = self.container {
            json.put("container", container)?;
        }
        json.put("container_config", self.container_config)?;
        json.put("created", &created)?;
        json.put("history", &history)?;
        json.put("os", os)?;
        if let Some(parent) = parent {
            if let Some(features) = &parent.os_features {
                json.put("os.features", features)?;
            }
            json.put_text("os.version", parent.os_version.as_deref().unwrap_or_default())?;
            json.put_text("variant", parent.variant.as_deref().unwrap_or_default())?;
        }
        json.put("rootfs", &NewRootFs { kind: "layers", diff_ids: &diffs })?;
        ImageConfig::parse(json.write()?)
    }
}

/// What an image runs on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Platform {
    /// `linux`.
    pub os: String,
    /// `amd64` and the like.
    pub architecture: String,
    /// `v8` and the like; empty for none.
    pub variant: String,
}

impl Platform {
    /// This host's.
    pub fn host() -> Self {
        Self {
            os: OS.to_owned(),
            architecture: host_architecture().to_owned(),
            variant: String::new(),
        }
    }

    /// Reads `os`, `architecture` or `os/architecture[/variant]`.
    pub fn parse(text: &str) -> Result<Self, ImageError> {
        let lower = text.to_lowercase();
        let bad = |problem| ImageError::Platform { text: text.to_owned(), problem };
        let unknown = "unknown operating system or architecture";
        let parts: Vec<&str> = lower.split('/').collect();
        let word = |part: &&str| {
            let is_word = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.');
            !part.is_empty() && part.bytes().all(is_word)
        };
        if !parts.iter().all(word) {
            return Err(bad(unknown));
        }
        let (os, architecture, variant) = match parts[..] {
            [os @ ("linux" | "windows" | "darwin" | "freebsd")] => (os, host_architecture(), ""),
            [architecture] if ARCHITECTURES.contains(&architecture) => (OS, architecture, ""),
            [os, architecture] => (os, architecture, ""),
            [os, architecture, variant] => (os, architecture, variant),
            [_] => return Err(bad(unknown)),
            _ => return Err(bad("cannot parse platform specifier")),
        };
        let (architecture, variant) = match (architecture, variant) {
            ("x86_64" | "x86-64", _) => ("amd64", ""),
            ("aarch64", variant) => ("arm64", variant),
            ("arm64", "8" | "v8") => ("arm64", ""),
            ("i386", _) => ("386", ""),
            ("armhf", _) => ("arm", "v7"),
            ("armel", _) => ("arm", "v6"),
            other => other,
        };
        Ok(Self {
            os: os.to_owned(),
            architecture: architecture.to_owned(),
            variant: variant.to_owned(),
        })
    }
}

#[rustfmt::skip]
const ARCHITECTURES: &[&str] = &[
    "386", "aarch64", "amd64", "arm", "arm64", "armel", "armhf", "i386", "loong64", "mips64le",
    "ppc64le", "riscv64", "s390x", "x86-64", "x86_64",
];

/// The configuration of an imported image. Its one layer counts even when it is empty.
pub(crate) fn imported(
    diff: &DiffId,
    preset: &ContainerConfig,
    platform: &Platform,
    comment: &str,
    created: Timestamp,
) -> Result<ImageConfig, ImageError> {
    let created = created.to_string();
    let step = History {
        created: Some(created.clone()),
        comment: comment.to_owned(),
        ..History::default()
    };
    let mut json = Keys::default();
    json.put("architecture", &platform.architecture)?;
    json.put_text("comment", comment)?;
    json.put("config", preset)?;
    json.put("container_config", &ContainerConfig::default())?;
    json.put("created", &created)?;
    json.put("history", &[step])?;
    json.put("os", &platform.os)?;
    json.put("rootfs", &NewRootFs { kind: "layers", diff_ids: std::slice::from_ref(diff) })?;
    json.put_text("variant", &platform.variant)?;
    ImageConfig::parse(json.write()?)
}

#[derive(Serialize)]
struct NewRootFs<'a> {
    #[serde(rename = "type")]
    kind: &'a str,
    diff_ids: &'a [DiffId],
}

/// Top-level keys in order, each value as its type writes it.
#[derive(Default)]
pub(crate) struct Keys(BTreeMap<String, Box<RawValue>>);

impl Keys {
    pub(crate) fn parse(raw: &[u8]) -> Result<Self, ImageError> {
        serde_json::from_slice(raw).map(Self).map_err(ImageError::Config)
    }

    pub(crate) fn put<T: Serialize + ?Sized>(
        &mut self,
        key: &str,
        value: &T,
    ) -> Result<(), ImageError> {
        let value = serde_json::value::to_raw_value(value).map_err(ImageError::Config)?;
        self.0.insert(key.to_owned(), value);
        Ok(())
    }

    fn put_text(&mut self, key: &str, text: &str) -> Result<(), ImageError> {
        if text.is_empty() { Ok(()) } else { self.put(key, text) }
    }

    pub(crate) fn remove(&mut self, key: &str) {
        self.0.remove(key);
    }

    pub(crate) fn write(&self) -> Result<Vec<u8>, ImageError> {
        serde_json::to_vec(&self.0).map_err(ImageError::Config)
    }
}

#[cfg(test)]
mod tests;
