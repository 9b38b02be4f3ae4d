//! Files from servers that are no registries.

use std::sync::Mutex;
use std::time::{Duration, UNIX_EPOCH};

use berth_registry::fetch::{Remote, fetch};
use testkit::http::{Reply, Server};

use crate::kit::limits;

#[tokio::test]
async fn a_file_comes_whole_or_with_a_reason() {
    let server = Server::start(|request| match &*request.path {
        "/dir/file.txt" => Reply::new(200, "content")
            .with("Content-Type", "text/plain; charset=utf-8")
            .with("Last-Modified", "Sun, 06 Nov 1994 08:49:37 GMT"),
        "/" => Reply::new(200, "named").with("Content-Disposition", "attachment; filename=\"n\""),
        "/moved" => Reply::new(302, "").with("Location", "/dir/file.txt"),
        "/cut" => Reply { cut: Some(3), ..Reply::new(200, "content") },
        _ => Reply::new(404, "not here\n"),
    });
    let modified = Some(UNIX_EPOCH + Duration::from_secs(784_111_777));
    let named = |name: &str, modified, content_type: Option<&str>| Remote {
        name: Some(name.to_owned()),
        modified,
        content_type: content_type.map(str::to_owned),
    };
    let at = |path: &str| format!("http://{}{path}", server.host());
    let missing = format!("failed to GET {} with status 404 Not Found: not here", at("/no"));
    let table = [
        (
            "/dir/file.txt",
            "content",
            Ok(named("file.txt", modified, Some("text/plain; charset=utf-8"))),
        ),
        ("/", "named", Ok(named("n", None, None))),
        ("/moved", "content", Ok(named("moved", modified, Some("text/plain; charset=utf-8")))),
        ("/cut", "con", Err("unexpected EOF".to_owned())),
        ("/no", "", Err(missing)),
    ];
    for (path, content, expected) in table {
        let dir = tempfile::tempdir().unwrap();
        let file = std::fs::File::create_new(dir.path().join("f")).unwrap();
        let told = Mutex::new((0, 0));
        let report = |got, total| *told.lock().unwrap() = (got, total);
        let got = fetch(&at(path), file, &limits(), &report).await;
        assert_eq!(got.clone().map_err(|error| error.to_string()), expected, "{path}");
        assert_eq!(std::fs::read_to_string(dir.path().join("f")).unwrap(), content, "{path}");
        if got.is_ok() {
            let whole = content.len() as u64;
            assert_eq!(*told.lock().unwrap(), (whole, whole), "{path}");
        }
    }
}
