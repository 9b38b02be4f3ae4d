//! Sessions with a server of the test's own.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use berth_registry::download::Source;
use berth_registry::manifest::Descriptor;
use berth_registry::{
    Clients, Credentials, Limits, Purpose, RegistryError, RegistryOptions, Session,
};
use berth_types::Digest;
use testkit::http::Server;

/// Short, so that a test of failures takes no time.
pub(crate) fn limits() -> Limits {
    Limits {
        attempts: 3,
        pause: Duration::from_millis(1),
        stall: Duration::from_secs(20),
        stall_bytes: 0,
        longest_wait: Duration::from_secs(2),
    }
}

/// A session over HTTP, as the last address to try gives it.
pub(crate) async fn open(
    server: &Server,
    credentials: Credentials,
    limits: Limits,
) -> Result<Session, RegistryError> {
    let options =
        RegistryOptions { certs_dir: PathBuf::from("/none"), ..RegistryOptions::default() };
    let mut endpoints = options.endpoints(&server.host(), Purpose::Pull).await.unwrap();
    let plain = endpoints.pop().unwrap();
    Session::open(&Clients::default(), plain, &options.certs_dir, credentials, limits).await
}

/// The repository `a/b` there.
pub(crate) async fn source(server: &Server, limits: Limits) -> Source {
    let session = open(server, Credentials::default(), limits).await.unwrap();
    Source { session: Arc::new(session), repository: "a/b".to_owned() }
}

/// What a manifest would say of this blob.
pub(crate) fn descriptor(bytes: &[u8]) -> Descriptor {
    Descriptor {
        media_type: String::new(),
        size: bytes.len() as u64,
        digest: Digest::of(bytes),
        platform: None,
    }
}

/// A password at the server.
pub(crate) fn password() -> Credentials {
    Credentials {
        username: "user".to_owned(),
        password: "secret".to_owned(),
        ..Credentials::default()
    }
}
