//! Short answers of the container endpoints.

#![expect(missing_docs, reason = "the names are Docker's and stand in its API reference")]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use berth_types::Timestamp;
use serde::{Deserialize, Serialize};

use crate::json::List;

/// `POST /containers/create`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct CreateResponse {
    pub id: String,
    pub warnings: Vec<String>,
}

/// `POST /containers/{id}/update`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct UpdateResponse {
    pub warnings: List<String>,
}

/// `GET /containers/{id}/top`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct TopResponse {
    pub processes: Vec<Vec<String>>,
    pub titles: Vec<String>,
}

/// One line of `GET /containers/{id}/changes`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct Change {
    pub path: String,
    /// 0 modified, 1 added, 2 deleted.
    pub kind: u8,
}

/// `POST /containers/prune`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
pub struct ContainerPruneReport {
    pub containers_deleted: List<String>,
    pub space_reclaimed: u64,
}

/// The header `X-Docker-Container-Path-Stat`.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathStat {
    pub name: String,
    pub size: i64,
    /// Go's `FileMode`; see [`go_mode`](crate::file_mode::go_mode).
    pub mode: u32,
    pub mtime: Timestamp,
    pub link_target: String,
}

impl PathStat {
    /// The header's value: base64 of the JSON.
    pub fn header(&self) -> String {
        STANDARD.encode(serde_json::to_vec(self).expect("strings and numbers have a JSON form"))
    }

    /// Reads the header's value.
    pub fn from_header(value: &str) -> Option<Self> {
        serde_json::from_slice(&STANDARD.decode(value).ok()?).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_stat_goes_through_its_header() {
        let stat = PathStat { name: "hosts".into(), size: 174, mode: 0o644, ..PathStat::default() };
        assert_eq!(PathStat::from_header(&stat.header()), Some(stat.clone()));
        assert_eq!(
            serde_json::to_string(&stat).unwrap(),
            r#"{"name":"hosts","size":174,"mode":420,"mtime":"0001-01-01T00:00:00Z","linkTarget":""}"#
        );
    }
}
