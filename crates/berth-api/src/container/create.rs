//! The body of `POST /containers/create`.

use berth_types::{Classify, ErrorKind};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{ContainerConfig, HostConfig, NetworkingConfig};
use crate::go::{self, GoJsonError};
use crate::json::keys;

/// A container to create: the portable configuration, the host's, and the networks.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct CreateRequest {
    /// Printed beside the other two, not below a key.
    #[serde(flatten)]
    pub config: ContainerConfig,
    /// What ties the container to this host.
    pub host_config: HostConfig,
    /// The networks it joins.
    pub networking_config: NetworkingConfig,
}

/// Why a body is no [`CreateRequest`].
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum CreateRequestError {
    #[error("config cannot be empty in order to create a container")]
    Empty,
    #[error(transparent)]
    Json(#[from] GoJsonError),
}

impl Classify for CreateRequestError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Empty | Self::Json(_) => ErrorKind::InvalidParameter,
        }
    }
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "PascalCase", default)]
struct Others {
    host_config: HostConfig,
    networking_config: NetworkingConfig,
}

impl CreateRequest {
    /// Reads the body as Go does; see [`go`].
    pub fn from_json(body: &[u8]) -> Result<Self, CreateRequestError> {
        let value = go::value_from_slice(body)?;
        if !has_config(&value) {
            return Err(CreateRequestError::Empty);
        }
        let config = go::from_value(&value)?;
        let Others { host_config, networking_config } = go::from_value(&value)?;
        Ok(Self { config, host_config, networking_config })
    }
}

/// Go leaves the embedded pointer nil as long as none of its fields occurs.
fn has_config(value: &Value) -> bool {
    let known = keys::<ContainerConfig>();
    match value {
        Value::Object(members) => {
            members.keys().any(|name| known.iter().any(|key| go::same_key(key, name)))
        }
        // Anything else fails with a better text than "empty".
        other => !other.is_null(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::{List, StrSlice};

    #[test]
    fn a_create_body_is_read_as_go_reads_it() {
        let body = br#"{
            "image": "alpine", "CMD": "sh", "Env": null, "Volumes": {"/data": null},
            "Unknown": [1], "StopTimeout": 3,
            "hostconfig": {"Binds": ["a:/b:rw"], "NetworkMode": "default", "Memory": 5,
                "RestartPolicy": null, "ConsoleSize": [24], "CapAdd": [],
                "PortBindings": {"80/tcp": [{"HostPort": "8080"}], "81/tcp": null}},
            "NetworkingConfig": {"EndpointsConfig": {"net": null}}
        }"#;
        let request = CreateRequest::from_json(body).unwrap();
        assert_eq!(request.config.image, "alpine");
        assert_eq!(request.config.cmd, StrSlice::from(vec!["sh".to_owned()]));
        assert!(request.config.env.is_null());
        assert!(request.config.volumes.contains_key("/data"));
        assert_eq!(request.config.stop_timeout, Some(3));
        let host = &request.host_config;
        assert_eq!(host.binds, List::from(vec!["a:/b:rw".to_owned()]));
        assert_eq!((host.memory, host.console_size), (5, [24, 0]));
        assert!(host.cap_drop.is_null() && !host.cap_add.is_null());
        assert_eq!(host.port_bindings["80/tcp"][0].host_port, "8080");
        assert!(host.port_bindings["81/tcp"].is_null());
        assert_eq!(request.networking_config.endpoints_config["net"], None);
    }

    #[test]
    fn bodies_that_are_refused() {
        #[rustfmt::skip]
        let table = [
            ("{}",                   "config cannot be empty in order to create a container"),
            ("null",                 "config cannot be empty in order to create a container"),
            (r#"{"HostConfig":{}}"#, "config cannot be empty in order to create a container"),
            ("[]",                   "json: cannot unmarshal array into Go value of type ContainerConfig"),
            (r#"{"Image":1}"#,       "json: cannot unmarshal number into Go struct field ContainerConfig.Image of type string"),
            (r#"{"Cmd":"a","HostConfig":{"Memory":"1"}}"#,
                                     "json: cannot unmarshal string into Go struct field HostConfig.Memory of type int64"),
        ];
        for (body, message) in table {
            let error = CreateRequest::from_json(body.as_bytes()).unwrap_err();
            assert_eq!(error.to_string(), message, "{body}");
        }
    }
}
