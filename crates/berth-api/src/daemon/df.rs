//! What everything costs on disk.

#![expect(missing_docs, reason = "the names are Docker's and stand in its API reference")]

use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::container::ContainerSummary;
use crate::image::ImageSummary;
use crate::json::List;
use crate::volume::Volume;

/// `GET /system/df`. A kind that was not asked for is `null`.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct DiskUsage {
    pub layers_size: i64,
    pub images: List<ImageSummary>,
    pub containers: List<ContainerSummary>,
    pub volumes: List<Volume>,
    pub build_cache: List<Value>,
    /// Before API 1.42.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub builder_size: Option<i64>,
}
