//! Messages about images.

#![expect(missing_docs, reason = "the names are Docker's and stand in its API reference")]

use berth_types::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::container::{ContainerConfig, DriverData, HealthConfig};
use crate::json::{Dict, Empty, List, is_false};

/// One image of `GET /images/json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageSummary {
    /// -1: not counted.
    pub containers: i64,
    /// Unix seconds.
    pub created: i64,
    pub id: String,
    pub labels: Dict<String>,
    pub parent_id: String,
    pub repo_digests: Vec<String>,
    pub repo_tags: Vec<String>,
    /// -1: not counted.
    pub shared_size: i64,
    pub size: i64,
    /// Before API 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
}

/// `GET /images/{name}/json`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageInspect {
    pub id: String,
    pub repo_tags: Vec<String>,
    pub repo_digests: Vec<String>,
    pub parent: String,
    pub comment: String,
    /// Left out when the image does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub created: Option<Timestamp>,
    /// Before API 1.45.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Before API 1.45.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_config: Option<ContainerConfig>,
    pub docker_version: String,
    pub author: String,
    pub config: ImageConfig,
    pub architecture: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub variant: String,
    pub os: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub os_version: String,
    pub size: i64,
    /// Before API 1.44.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub virtual_size: Option<i64>,
    pub graph_driver: DriverData,
    #[serde(rename = "RootFS")]
    pub root_fs: RootFs,
    pub metadata: ImageMetadata,
}

/// An image's preset configuration, as the API version prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum ImageConfig {
    /// Before API 1.50: with the empty fields that only containers use.
    Full(Box<ContainerConfig>),
    /// From API 1.50 on.
    Lean(Box<LeanConfig>),
}

impl Default for ImageConfig {
    fn default() -> Self {
        Self::Lean(Box::default())
    }
}

/// [`ContainerConfig`] without the empty fields that an image has no use for.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct LeanConfig {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub exposed_ports: Dict<Empty>,
    #[serde(skip_serializing_if = "List::is_empty")]
    pub env: List<String>,
    #[serde(skip_serializing_if = "List::is_empty")]
    pub entrypoint: List<String>,
    #[serde(skip_serializing_if = "List::is_empty")]
    pub cmd: List<String>,
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub volumes: Dict<Empty>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub labels: Dict<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "List::is_empty")]
    pub on_build: List<String>,
    #[serde(skip_serializing_if = "List::is_empty")]
    pub shell: List<String>,
}

impl From<ContainerConfig> for LeanConfig {
    fn from(config: ContainerConfig) -> Self {
        Self {
            user: config.user,
            exposed_ports: config.exposed_ports,
            env: config.env,
            entrypoint: config.entrypoint.0,
            cmd: config.cmd.0,
            volumes: config.volumes,
            working_dir: config.working_dir,
            labels: config.labels,
            stop_signal: config.stop_signal,
            args_escaped: config.args_escaped,
            healthcheck: config.healthcheck,
            on_build: config.on_build,
            shell: config.shell.0,
        }
    }
}

/// An image's layers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct RootFs {
    /// `layers`.
    #[serde(rename = "Type")]
    pub kind: String,
    /// Diff ids, base first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub layers: Vec<String>,
}

/// What this engine knows about an image that the image does not.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageMetadata {
    pub last_tag_time: Timestamp,
}

/// One step of `GET /images/{name}/history`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HistoryItem {
    pub comment: String,
    /// Unix seconds.
    pub created: i64,
    pub created_by: String,
    /// `<missing>` for steps whose image is not here.
    pub id: String,
    pub size: i64,
    pub tags: List<String>,
}

/// What removing an image did: one of the two.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImageDeleteItem {
    #[serde(skip_serializing_if = "String::is_empty")]
    pub untagged: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub deleted: String,
}

impl ImageDeleteItem {
    /// A name is gone.
    pub fn untagged(name: impl Into<String>) -> Self {
        Self { untagged: name.into(), deleted: String::new() }
    }

    /// An image or layer is gone.
    pub fn deleted(id: impl Into<String>) -> Self {
        Self { untagged: String::new(), deleted: id.into() }
    }
}

/// `POST /images/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ImagePruneReport {
    pub images_deleted: List<ImageDeleteItem>,
    pub space_reclaimed: u64,
}

/// One record of a progress stream (load, import, pull, push).
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressMessage {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stream: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress_detail: Option<ProgressDetail>,
    /// The bar as text, for old clients.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error_detail: Option<ProgressError>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub aux: Option<Value>,
}

impl ProgressMessage {
    /// Text to print as it is.
    pub fn stream(text: impl Into<String>) -> Self {
        Self { stream: Some(text.into()), ..Self::default() }
    }

    /// A line of its own.
    pub fn status(text: impl Into<String>) -> Self {
        Self { status: Some(text.into()), ..Self::default() }
    }

    /// The failure that ends the stream.
    pub fn error(message: impl Into<String>) -> Self {
        let message = message.into();
        let error_detail = Some(ProgressError { code: None, message: message.clone() });
        Self { error_detail, error: Some(message), ..Self::default() }
    }
}

/// How far a step is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProgressDetail {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub current: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub total: Option<i64>,
}

/// Why a step failed.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ProgressError {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub code: Option<i64>,
    pub message: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lean_configuration_leaves_out_what_is_empty() {
        let config = ContainerConfig { working_dir: "/".into(), tty: true, ..Default::default() };
        let lean = ImageConfig::Lean(Box::new(config.into()));
        assert_eq!(serde_json::to_string(&lean).unwrap(), r#"{"WorkingDir":"/"}"#);
    }

    #[test]
    fn progress_records() {
        #[rustfmt::skip]
        let table = [
            (ProgressMessage::stream("a\n"), r#"{"stream":"a\n"}"#),
            (ProgressMessage::status("s"),   r#"{"status":"s"}"#),
            (ProgressMessage::error("e"),    r#"{"errorDetail":{"message":"e"},"error":"e"}"#),
        ];
        for (message, text) in table {
            assert_eq!(serde_json::to_string(&message).unwrap(), text);
        }
    }
}
