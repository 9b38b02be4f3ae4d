//! What a container runs, wherever it runs: the part of it that an image can preset.

#![expect(missing_docs, reason = "the names are Docker's and stand in its API reference")]

use serde::{Deserialize, Serialize};

use crate::json::{Dict, Empty, List, StrSlice, is_false, is_zero};

/// The portable part of a container's configuration.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerConfig {
    pub hostname: String,
    pub domainname: String,
    pub user: String,
    pub attach_stdin: bool,
    pub attach_stdout: bool,
    pub attach_stderr: bool,
    #[serde(skip_serializing_if = "Dict::is_empty")]
    pub exposed_ports: Dict<Empty>,
    pub tty: bool,
    pub open_stdin: bool,
    pub stdin_once: bool,
    pub env: List<String>,
    pub cmd: StrSlice,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<HealthConfig>,
    #[serde(skip_serializing_if = "is_false")]
    pub args_escaped: bool,
    pub image: String,
    pub volumes: Dict<Empty>,
    pub working_dir: String,
    pub entrypoint: StrSlice,
    #[serde(skip_serializing_if = "is_false")]
    pub network_disabled: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mac_address: String,
    pub on_build: List<String>,
    pub labels: Dict<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub stop_signal: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stop_timeout: Option<i64>,
    #[serde(skip_serializing_if = "no_words")]
    pub shell: StrSlice,
}

fn no_words(words: &StrSlice) -> bool {
    words.is_empty()
}

/// How to find out whether a container is healthy. Times are nanoseconds; zero inherits.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct HealthConfig {
    /// Empty: inherit; `["NONE"]`: off; `["CMD", …]`; `["CMD-SHELL", text]`.
    #[serde(skip_serializing_if = "List::is_empty")]
    pub test: List<String>,
    #[serde(skip_serializing_if = "is_zero")]
    pub interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    pub retries: i64,
}
