//! Bodies on their way out: slow ones, and registries that take nothing or say nothing.

use std::sync::Arc;
use std::time::Duration;

use berth_registry::upload::{Begun, Target, Upload};
use berth_registry::{Credentials, Limits, Outgoing};
use bytes::Bytes;
use testkit::http::{Gate, Reply, Server};
use tokio::sync::mpsc;

use crate::kit::{limits, open};

/// A registry that answers a `PATCH` when the gate opens, and an upload there.
async fn begin(gate: &Arc<Gate>, stall: Duration) -> (Server, Target, Upload) {
    let gate = Arc::clone(gate);
    let server = Server::start(move |request| match &*request.method {
        "POST" => Reply::new(202, "").with("Location", "/v2/a/b/blobs/uploads/1"),
        "PATCH" => {
            let reply = Reply::new(202, "").with("Location", "/v2/a/b/blobs/uploads/1");
            Reply { gate: Some(Arc::clone(&gate)), ..reply }
        }
        _ => Reply::new(200, "{}"),
    });
    let limits = Limits { stall, ..limits() };
    let session = Arc::new(open(&server, Credentials::default(), limits).await.unwrap());
    let target = Target { session, repository: "a/b".to_owned() };
    let Begun::Upload(upload) = target.begin(None).await.unwrap() else { panic!("mounted") };
    (server, target, upload)
}

#[tokio::test]
async fn an_upload_may_take_long_as_long_as_it_moves() {
    let gate = Arc::new(Gate::default());
    gate.open();
    let stall = Duration::from_millis(400);
    let (server, target, upload) = begin(&gate, stall).await;
    let (sender, pieces) = mpsc::channel(1);
    let sent = target.send(upload, Outgoing::new(pieces));
    let made = async move {
        // We are what is waited for, and for longer than a registry would be.
        for _ in 0..3 {
            tokio::time::sleep(stall * 2).await;
            sender.send(Ok(Bytes::from_static(b"piece"))).await.unwrap();
        }
    };
    let (sent, ()) = tokio::join!(sent, made);
    sent.unwrap();
    assert_eq!(server.seen().last().unwrap().body, b"piecepiecepiece");
}

#[tokio::test]
async fn a_registry_that_does_not_answer_an_upload_is_given_up() {
    let gate = Arc::new(Gate::default());
    let (_server, target, upload) = begin(&gate, Duration::from_millis(100)).await;
    let (sender, pieces) = mpsc::channel(1);
    sender.send(Ok(Bytes::from_static(b"piece"))).await.unwrap();
    drop(sender);
    let error = target.send(upload, Outgoing::new(pieces)).await.unwrap_err();
    let url = target.session.endpoint().url.join("/v2/a/b/blobs/uploads/1").unwrap();
    assert_eq!(error.to_string(), format!("Patch \"{url}\": operation timed out"));
    gate.open();
}
