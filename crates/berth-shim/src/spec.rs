//! The process of an exec in OCI form, as far as the daemon writes it.

use serde::Deserialize;
use serde_json::Value;

use crate::error::ShimError;

/// A process.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ExecSpec {
    pub(crate) args: Vec<String>,
    #[serde(default)]
    pub(crate) env: Vec<String>,
    pub(crate) cwd: String,
    #[serde(default)]
    pub(crate) user: User,
    #[serde(default)]
    pub(crate) rlimits: Vec<Limit>,
    #[serde(default)]
    pub(crate) no_new_privileges: bool,
    #[serde(rename = "apparmorProfile")]
    pub(crate) apparmor: Option<String>,
}

/// Who runs it.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct User {
    #[serde(default)]
    pub(crate) uid: u32,
    #[serde(default)]
    pub(crate) gid: u32,
    #[serde(default)]
    pub(crate) additional_gids: Vec<u32>,
}

/// A resource limit; the largest number is none.
#[derive(Debug, Deserialize)]
pub(crate) struct Limit {
    #[serde(rename = "type")]
    pub(crate) name: String,
    pub(crate) soft: u64,
    pub(crate) hard: u64,
}

impl ExecSpec {
    pub(crate) fn parse(value: &Value) -> Result<Self, ShimError> {
        Self::deserialize(value).map_err(|error| ShimError::Runtime {
            text: format!("the process of an exec is not valid: {error}"),
        })
    }
}
