//! Builds whose context is elsewhere.

use std::io;

use berth_engine::build::BuildRequest;
use berth_types::kind::chain;
use testkit::http::{Reply, Server};

use crate::kit::{Dirs, Open};

fn tar(files: &[(&str, &str)]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content.as_bytes()).unwrap();
    }
    tar.into_inner().unwrap()
}

/// Why it failed, if it did: at the door or in its last message.
fn build(open: &Open, remote: &str) -> Result<(), String> {
    let request = BuildRequest {
        remote: remote.to_owned(),
        tags: vec!["built:1".to_owned()],
        ..BuildRequest::default()
    };
    open.block_on(async {
        let started = open.engine().build(request, Box::new(io::empty())).await;
        let mut messages = started.map_err(|error| chain(&error))?;
        let mut failure = Ok(());
        while let Some(message) = messages.recv().await {
            if let Some(error) = message.error_detail {
                failure = Err(error.message);
            }
        }
        failure
    })
}

#[test]
fn root_a_context_is_fetched_from_where_a_client_says_that_it_is() {
    let Some(dirs) = Dirs::new("root_a_context_is_fetched_from_where_a_client_says_that_it_is")
    else {
        return;
    };
    let open = dirs.open().unwrap();
    let copies = "FROM scratch\nCOPY a /a\n";
    let server = Server::start(move |request| match &*request.path {
        "/archive" => Reply::new(200, tar(&[("Dockerfile", copies), ("a", "content")])),
        "/alone" => Reply::new(200, "FROM scratch\nLABEL a=b\n").with("Content-Type", "text/plain"),
        "/copies" => Reply::new(200, copies),
        "/page" => Reply::new(200, "<html>").with("Content-Type", "text/html"),
        "/cut" => Reply { cut: Some(700), ..Reply::new(200, tar(&[("Dockerfile", copies)])) },
        "/empty" => Reply::new(200, tar(&[("a", "content")])),
        _ => Reply::new(404, "not here"),
    });
    let at = |path: &str| format!("http://{}/{path}", server.host());
    let refused = |text: &str| Err(text.to_owned());
    #[rustfmt::skip]
    let table = [
        (at("archive"), Ok(())),
        (at("alone"),   Ok(())),
        (at("copies"),  refused("COPY failed: missing build context")),
        (at("page"),    refused("unsupported Content-Type \"text/html\"")),
        (at("cut"),     refused("unexpected EOF")),
        (at("empty"),   refused("Cannot locate specified Dockerfile: Dockerfile")),
        (at("no"),      refused(&format!("failed to GET {} with status 404 Not Found: not here", at("no")))),
        ("elsewhere".to_owned(), refused("remoteURL (elsewhere) could not be recognized as URL")),
        ("git://127.0.0.1/x#-x".to_owned(), refused("invalid refspec: -x")),
    ];
    for (remote, expected) in table {
        assert_eq!(build(&open, &remote), expected, "{remote}");
    }
    let left = std::fs::read_dir(dirs.data_root().join("tmp")).unwrap().count();
    assert_eq!(left, 0, "files in tmp");
}
