//! Blobs into files: cut, slow, wrong, and resumed.

use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use berth_registry::Limits;
use berth_registry::download::{Part, Step, download};
use testkit::http::{Reply, Request, Server};

use crate::kit::{descriptor, limits, source};

fn content() -> Vec<u8> {
    (0_u32..100_000).flat_map(u32::to_le_bytes).collect()
}

/// A server that answers pings, and the blob's requests with what `nth` says to the first, second…
fn blob_server(nth: impl Fn(usize, &Request) -> Reply + Send + Sync + 'static) -> Server {
    let count = AtomicUsize::new(0);
    Server::start(move |request| match &*request.path {
        "/v2/" => Reply::new(200, "{}"),
        _ => nth(count.fetch_add(1, Ordering::Relaxed), request),
    })
}

/// What a server that knows ranges answers.
fn ranged(request: &Request, body: &[u8]) -> Reply {
    let range = request.header("range").and_then(|text| text.strip_prefix("bytes="));
    match range.and_then(|text| text.trim_end_matches('-').parse::<usize>().ok()) {
        Some(start) if start >= body.len() => Reply::new(416, ""),
        Some(start) => Reply::new(206, &body[start..])
            .with("Content-Range", format!("bytes {start}-{}/{}", body.len() - 1, body.len())),
        None => Reply::new(200, body),
    }
}

/// Downloads over `before`, which an earlier time left, and gives what was said and what is there.
async fn fetch(
    server: &Server,
    limits: Limits,
    content: &[u8],
    before: &[u8],
) -> (Result<(), String>, Vec<u8>) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    std::io::Write::write_all(&mut std::fs::File::create(&path).unwrap(), before).unwrap();
    let source = source(server, limits).await;
    let blob = descriptor(content);
    let done = download(&source, &blob, &Part::open(&path).unwrap(), &|_| {}).await;
    (done.map_err(|error| error.to_string()), std::fs::read(&path).unwrap())
}

#[tokio::test]
async fn a_blob_that_is_cut_goes_on_where_it_ended() {
    let content = content();
    let server = blob_server({
        let content = content.clone();
        move |nth, request| match nth {
            0 | 1 => Reply { cut: Some(150_000), ..ranged(request, &content) },
            _ => ranged(request, &content),
        }
    });
    let (done, got) = fetch(&server, limits(), &content, b"").await;
    assert_eq!(done, Ok(()));
    assert!(got == content);
    let seen = server.seen();
    let ranges: Vec<_> = seen.iter().skip(1).map(|request| request.header("range")).collect();
    assert_eq!(ranges, [None, Some("bytes=150000-"), Some("bytes=300000-")]);
}

/// What is left, the file, and the ranges that are asked for.
type Left<'a> = (&'static str, &'a [u8], &'a [Option<&'a str>]);

#[tokio::test]
async fn what_an_earlier_time_left_is_used_if_it_is_right() {
    let content = content();
    let wrong = vec![7; 200_000];
    let long = vec![7; content.len() + 1];
    let mut wrong_end = content.clone();
    *wrong_end.last_mut().unwrap() ^= 1;
    #[rustfmt::skip]
    let table: &[Left<'_>] = &[
        ("nothing",         b"",                 &[None]),
        ("the beginning",   &content[..200_000], &[Some("bytes=200000-")]),
        ("another thing",   &wrong,              &[Some("bytes=200000-"), None]),
        ("all",             &content,            &[]),
        ("all but wrong",   &wrong_end,          &[None]),
        ("more than all",   &long,               &[None]),
    ];
    for (what, before, expected) in table {
        let server = blob_server({
            let content = content.clone();
            move |_, request| ranged(request, &content)
        });
        let (done, got) = fetch(&server, limits(), &content, before).await;
        assert_eq!(done, Ok(()), "{what}");
        assert!(got == content, "{what}");
        let seen = server.seen();
        let ranges: Vec<_> = seen.iter().skip(1).map(|request| request.header("range")).collect();
        assert_eq!(ranges, *expected, "{what}");
    }
}

#[tokio::test]
async fn servers_without_ranges_are_asked_for_the_whole() {
    let content = content();
    for status in [200, 416] {
        let server = blob_server({
            let content = content.clone();
            move |nth, _| match (nth, status) {
                (0, 416) => Reply::new(416, ""),
                _ => Reply::new(200, content.clone()),
            }
        });
        let (done, got) = fetch(&server, limits(), &content, &content[..1000]).await;
        assert_eq!(done, Ok(()), "{status}");
        assert!(got == content, "{status}");
    }
}

#[tokio::test]
async fn hostile_blobs_are_refused_and_leave_no_wrong_bytes() {
    let content = content();
    let digest = descriptor(&content).digest;
    let other = vec![1; content.len()];
    let long = [&content[..], b"more"].concat();
    let short = &content[..content.len() - 4];
    let size = content.len();
    let sizes = |got: usize| format!("blob {digest} has {got} bytes, and its manifest says {size}");
    #[rustfmt::skip]
    let table = [
        // what is sent, what its length is said to be, the failure, what stays
        (Reply::new(200, other),                                  format!("filesystem layer verification failed for digest {digest}"), 0),
        (Reply::new(200, &long[..]),                              sizes(size + 4), 0),
        (Reply::new(200, short),                                  sizes(size - 4), 0),
        (Reply { claims: Some(size as u64), ..Reply::new(200, short) }, "unexpected EOF".to_owned(), size - 4),
        (Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown to registry"}]}"#), "blob unknown: blob unknown to registry".to_owned(), 0),
        (Reply::new(503, ""),                                     "received unexpected HTTP status: 503 Service Unavailable".to_owned(), 0),
        (Reply::new(206, &content[..]).with("Content-Range", "bytes 7-9/10"), "unexpected EOF".to_owned(), 0),
    ];
    for (reply, failure, stays) in table {
        let server = blob_server(move |_, request| match request.header("range") {
            Some(_) if reply.claims.is_some() => Reply::new(500, ""),
            _ => reply.clone(),
        });
        let (done, got) = fetch(&server, limits(), &content, b"").await;
        let failure = if stays > 0 {
            "received unexpected HTTP status: 500 Internal Server Error".to_owned()
        } else {
            failure
        };
        assert_eq!(done, Err(failure.clone()));
        assert_eq!(got.len(), stays, "{failure}");
        assert!(content.starts_with(&got), "{failure}");
    }
}

#[tokio::test]
async fn passing_failures_are_tried_again_so_often_and_no_more() {
    let content = content();
    #[rustfmt::skip]
    let table: &[(&str, u16, Option<&str>, usize, usize)] = &[
        // what                    status  Retry-After  failures  requests
        ("errors that pass",       500,    None,        2,        3),
        ("errors that stay",       502,    None,        9,        3),
        ("too many, and when",     429,    Some("1"),   1,        2),
        ("too many, much later",   429,    Some("999"), 9,        1),
        ("too many",               429,    None,        9,        1),
        ("no such thing",          404,    None,        9,        1),
    ];
    for &(what, status, after, failures, requests) in table {
        let server = blob_server({
            let content = content.clone();
            move |nth, request| {
                if nth >= failures {
                    return ranged(request, &content);
                }
                let reply = Reply::new(status, r#"{"errors":[{"code":"X","message":"x"}]}"#);
                match after {
                    Some(seconds) => reply.with("Retry-After", seconds),
                    None => reply,
                }
            }
        });
        let (done, _) = fetch(&server, limits(), &content, b"").await;
        assert_eq!(done.is_ok(), failures < requests, "{what}: {done:?}");
        assert_eq!(server.lines().len() - 1, requests, "{what}");
    }
}

#[tokio::test]
async fn a_blob_that_drips_is_given_up() {
    let content = content();
    let server = blob_server({
        let content = content.clone();
        move |_, _| Reply {
            drip: Some((usize::MAX, Duration::from_millis(5))),
            ..Reply::new(200, content.clone())
        }
    });
    let slow =
        Limits { attempts: 1, stall: Duration::from_secs(3), stall_bytes: 100_000, ..limits() };
    let (done, got) = fetch(&server, slow, &content, b"").await;
    assert_eq!(done, Err("the registry sent fewer than 100000 bytes in 3 s".to_owned()));
    assert!(content.starts_with(&got) && got.len() < 100_000);
}

#[tokio::test]
async fn progress_is_told() {
    let content = content();
    let server = blob_server({
        let content = content.clone();
        move |nth, request| match nth {
            0 => Reply::new(503, ""),
            _ => ranged(request, &content),
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("blob");
    let source = source(&server, limits()).await;
    let steps = Mutex::new(Vec::new());
    let report = |step| steps.lock().unwrap().push(step);
    download(&source, &descriptor(&content), &Part::open(&path).unwrap(), &report).await.unwrap();
    let steps = steps.into_inner().unwrap();
    assert_eq!(steps.first(), Some(&Step::Waiting(1)));
    assert_eq!(steps.last(), Some(&Step::Verifying));
    assert!(steps.contains(&Step::Got(content.len() as u64)));
}
