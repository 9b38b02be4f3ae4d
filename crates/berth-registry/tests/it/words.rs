//! What goes wrong, in Docker's words.

use std::sync::Arc;

use berth_registry::{Credentials, ErrorCode, RegistryError};
use testkit::http::{Gate, Reply, Server};

use crate::kit::{limits, open};

#[tokio::test]
async fn answers_of_registries_are_told_as_docker_tells_them() {
    let insufficient = "Bearer realm=\"http://127.0.0.1:1/\",error=\"insufficient_scope\"";
    let unknown =
        r#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown","detail":1}]}"#;
    let json = "application/vnd.docker.distribution.manifest.v2+json";
    #[rustfmt::skip]
    let table = [
        (Reply::new(404, unknown),          "manifest unknown: manifest unknown"),
        (Reply::new(500, "oops"),           "received unexpected HTTP status: 500 Internal Server Error"),
        (Reply::new(301, ""),               "received unexpected HTTP status: 301 Moved Permanently"),
        (Reply::new(403, "{}").with("WWW-Authenticate", insufficient), "denied: requested access to the resource is denied"),
        (Reply::new(401, "x"),              "unauthorized: authentication required"),
        (Reply::new(429, "slow"),           "toomanyrequests: too many requests"),
        (Reply::new(200, vec![b' '; 5 << 20]), "the answer to a manifest has more than 4194304 bytes, which is more than is taken from a registry"),
        (Reply { claims: Some(5 << 20), ..Reply::new(200, "{") }, "the answer to a manifest has more than 4194304 bytes, which is more than is taken from a registry"),
        (Reply::new(200, "{}").with("Content-Type", json), "manifest invalid: missing field `schemaVersion` at line 1 column 2"),
    ];
    for (reply, expected) in table {
        let shown = reply.clone();
        let server = Server::start(move |request| match &*request.path {
            "/v2/" => Reply::new(200, "{}"),
            _ => reply.clone(),
        });
        let session = open(&server, Credentials::default(), limits()).await.unwrap();
        let error = session.manifest("a/b", "1", "a/b:1").await.unwrap_err();
        assert_eq!(error.to_string(), expected, "{} {:?}", shown.status, shown.headers);
    }
}

#[tokio::test]
async fn a_manifest_has_the_digest_that_it_was_asked_for_by() {
    let server = Server::start(|_| Reply::new(200, "{}"));
    let session = open(&server, Credentials::default(), limits()).await.unwrap();
    let digest = format!("sha256:{}", "c".repeat(64));
    let error = session.manifest("a/b", &digest, "a/b").await.unwrap_err();
    assert_eq!(error.to_string(), format!("manifest verification failed for digest {digest}"));
}

#[tokio::test]
async fn no_answer_is_told_in_gos_words() {
    let server = Server::start(|_| Reply::new(200, "{}"));
    let host = server.host();
    drop(server);
    // The port may be closed a moment later.
    while std::net::TcpStream::connect(&host).is_ok() {
        std::thread::yield_now();
    }
    let closed = Server::start(|_| Reply::new(200, "{}"));
    let error = berth_registry::RegistryOptions::default();
    let mut endpoints = error.endpoints(&host, berth_registry::Purpose::Pull).await.unwrap();
    let plain = endpoints.pop().unwrap();
    let none = std::path::Path::new("/none");
    let refused = berth_registry::Session::open(
        &berth_registry::Clients::default(),
        plain,
        none,
        Credentials::default(),
        limits(),
    )
    .await;
    let expected =
        format!("Get \"http://{host}/v2/\": dial tcp {host}: connect: connection refused");
    assert_eq!(refused.unwrap_err().to_string(), expected);

    let mut endpoints =
        error.endpoints(&closed.host(), berth_registry::Purpose::Pull).await.unwrap();
    let tls = endpoints.remove(0);
    let refused = berth_registry::Session::open(
        &berth_registry::Clients::default(),
        tls,
        none,
        Credentials::default(),
        limits(),
    )
    .await;
    let url = format!("https://{}/v2/", closed.host());
    let expected = format!("Get \"{url}\": http: server gave HTTP response to HTTPS client");
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

#[tokio::test]
async fn a_silent_registry_is_given_up() {
    let gate = Arc::new(Gate::default());
    let server = Server::start({
        let gate = Arc::clone(&gate);
        move |request| match &*request.path {
            "/v2/" => Reply::new(200, "{}"),
            _ => Reply { gate: Some(Arc::clone(&gate)), ..Reply::new(200, "{}") },
        }
    });
    let limits = berth_registry::Limits { stall: std::time::Duration::from_secs(3), ..limits() };
    let session = open(&server, Credentials::default(), limits).await.unwrap();
    let error = session.manifest("a/b", "1", "a/b:1").await.unwrap_err();
    assert!(matches!(error, RegistryError::Transport { .. }), "{error}");
    gate.open();
}

#[test]
fn what_may_pass_is_known() {
    let said = |code: &str, retry_after| {
        let code = ErrorCode { code: code.to_owned(), retry_after, ..ErrorCode::default() };
        RegistryError::Said(vec![code])
    };
    #[rustfmt::skip]
    let table = [
        (said("DENIED", None),              false),
        (said("TOOMANYREQUESTS", None),     false),
        (said("TOOMANYREQUESTS", Some(1)),  true),
        (said("BLOB_UNKNOWN", None),        false),
        (RegistryError::Cut,                true),
        (RegistryError::NoCredentials,      false),
    ];
    for (error, expected) in table {
        assert_eq!(error.is_passing(), expected, "{error:?}");
    }
}
