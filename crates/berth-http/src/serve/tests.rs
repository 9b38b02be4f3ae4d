//! The frame over real connections, with handlers of its own instead of an engine.

use std::sync::{Arc, Mutex};

use axum::extract::{Request, State};
use axum::response::Response;
use berth_types::{Classify, ErrorKind};
use bytes::Bytes;
use hyper::{Method, StatusCode};
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::*;
use crate::ServerInfo;
use crate::answer::{JSON, Json, stream_response};
use crate::error::ApiError;
use crate::extract::{JsonBody, Name, Params, Version};
use crate::hijack::{Hijack, media_type};
use crate::route::Route;
use crate::routes::system;

/// Something for one handler to take.
type Slot<T> = Arc<Mutex<Option<T>>>;

/// What the test's handlers share: streams that they hand out.
#[derive(Clone, Default)]
struct Fake {
    pieces: Slot<mpsc::Receiver<Result<Bytes, Failure>>>,
    stream: Slot<DuplexStream>,
}

#[derive(Debug, thiserror::Error)]
#[error("no such thing: <{name}> & co")]
struct Failure {
    name: String,
    kind: ErrorKind,
}

impl Classify for Failure {
    fn kind(&self) -> ErrorKind {
        self.kind
    }
}

#[derive(Serialize)]
struct Echo {
    name: String,
    version: String,
    a: String,
}

async fn echo(Name(name): Name, Version(version): Version, params: Params) -> Json<Echo> {
    Json(Echo { name, version: version.to_string(), a: params.text("a").to_owned() })
}

async fn fail(Name(name): Name) -> Result<(), ApiError> {
    let kind = if name == "same" { ErrorKind::NotModified } else { ErrorKind::NotFound };
    Err(Failure { name, kind }.into())
}

async fn policy(
    JsonBody(policy): JsonBody<berth_api::container::RestartPolicy>,
) -> Json<berth_api::container::RestartPolicy> {
    Json(policy)
}

async fn stream(State(fake): State<Fake>) -> Response {
    let pieces = fake.pieces.lock().unwrap().take().unwrap();
    stream_response(Some(JSON), pieces)
}

async fn attach(
    State(fake): State<Fake>,
    Version(version): Version,
    mut request: Request,
) -> Response {
    let hijack = Hijack::of(&mut request);
    let stream = fake.stream.lock().unwrap().take().unwrap();
    hijack.answer(media_type(false, version), stream, request.into_body())
}

async fn broken() -> StatusCode {
    panic!("a bug")
}

/// Starts a server for one connection; gives the client's side.
fn connect(fake: Fake) -> (UnixStream, CancellationToken, tokio::task::JoinHandle<()>) {
    let routes = vec![
        Route::new(Method::OPTIONS, "/{any}", system::options),
        Route::head("/_ping", system::ping_head),
        Route::get("/_ping", system::ping),
        Route::get("/echo/{name}/json", echo),
        Route::get("/fail/{name}", fail),
        Route::post("/policy", policy),
        Route::get("/stream", stream),
        Route::post("/attach", attach),
        Route::get("/broken", broken),
        Route::not_built(Method::POST, "/build", "building images is"),
        Route::no_swarm(Method::GET, "/swarm", "not a manager"),
    ];
    let info = ServerInfo { version: "1.2.3".to_owned(), experimental: false };
    let app = App::new(fake, routes, &info);
    let (client, server) = UnixStream::pair().unwrap();
    let token = CancellationToken::new();
    let task = tokio::spawn(serve_connection(server, app, token.clone()));
    (client, token, task)
}

const HEADERS: &str =
    "Api-Version: 1.51\nDocker-Experimental: false\nOstype: linux\nServer: Docker/1.2.3 (linux)\n";

/// Status line, headers in order of their names but `Date`, empty line, body.
fn tidy(answer: &[u8]) -> String {
    let text = String::from_utf8_lossy(answer).into_owned();
    let (head, body) = text.split_once("\r\n\r\n").unwrap();
    let mut lines = head.split("\r\n");
    let status = lines.next().unwrap().to_owned();
    let mut headers: Vec<&str> = lines.filter(|line| !line.starts_with("Date: ")).collect();
    headers.sort_unstable();
    let head = [&[status.as_str()], headers.as_slice()].concat().join("\n");
    format!("{head}\n\n{body}")
}

/// Sends a request and reads until the server closes.
async fn ask(request: &str) -> String {
    let (mut client, _token, task) = connect(Fake::default());
    client.write_all(request.as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    task.await.unwrap();
    tidy(&answer)
}

fn request(line: &str, headers: &str, body: &str) -> String {
    let length =
        if body.is_empty() { String::new() } else { format!("Content-Length: {}\r\n", body.len()) };
    format!("{line} HTTP/1.1\r\nHost: d\r\nConnection: close\r\n{headers}{length}\r\n{body}")
}

#[tokio::test]
async fn answers_are_dockers_to_the_byte() {
    let json = |status: &str, body: &str| {
        let length = body.len() + 1;
        format!(
            "HTTP/1.1 {status}\nApi-Version: 1.51\nConnection: close\nContent-Length: {length}\nContent-Type: application/json\n{}\n{body}\n",
            HEADERS.strip_prefix("Api-Version: 1.51\n").unwrap()
        )
    };
    let bare_not_found = "HTTP/1.1 404 Not Found\nConnection: close\nContent-Length: 29\nContent-Type: application/json\n\n{\"message\":\"page not found\"}\n";
    #[rustfmt::skip]
    let table = [
        ("GET /echo/a/b:c/json?a=%3C", json("200 OK", r#"{"name":"a/b:c","version":"1.51","a":"<"}"#)),
        ("GET /v1.24/echo/x/json",   json("200 OK", r#"{"name":"x","version":"1.24","a":""}"#)),
        ("GET /v1.41/echo/a%2Fb/json", json("200 OK", r#"{"name":"a/b","version":"1.41","a":""}"#)),
        ("GET /v1.23/echo/x/json",   json("400 Bad Request", r#"{"message":"client version 1.23 is too old. Minimum supported API version is 1.24, please upgrade your client to a newer version"}"#)),
        ("GET /v1.52/echo/x/json",   json("400 Bad Request", r#"{"message":"client version 1.52 is too new. Maximum supported API version is 1.51"}"#)),
        ("GET /fail/a&b",            json("404 Not Found", r#"{"message":"no such thing: <a&b> & co"}"#)),
        ("POST /build",              json("501 Not Implemented", r#"{"message":"building images is not supported by this version of berth"}"#)),
        ("GET /swarm",               json("503 Service Unavailable", r#"{"message":"not a manager"}"#)),
        ("GET /nope",                bare_not_found.to_owned()),
        ("POST /echo/x/json",        bare_not_found.to_owned()),
        ("HEAD /swarm2",             bare_not_found.split_once("\n\n").unwrap().0.to_owned() + "\n\n"),
        ("GET /v1.x/echo/x/json",    bare_not_found.to_owned()),
        ("GET /v1.99/nope",          bare_not_found.to_owned()),
    ];
    for (line, expected) in table {
        assert_eq!(ask(&request(line, "", "")).await, expected, "{line}");
    }
}

#[tokio::test]
async fn pings_tell_what_the_server_can_do() {
    let ping = |length| {
        format!(
            "HTTP/1.1 200 OK\nApi-Version: 1.51\nBuilder-Version: 1\nCache-Control: no-cache, no-store, must-revalidate\nConnection: close\nContent-Length: {length}\nContent-Type: text/plain; charset=utf-8\nDocker-Experimental: false\nOstype: linux\nPragma: no-cache\nServer: Docker/1.2.3 (linux)\nSwarm: inactive\n\n"
        )
    };
    #[rustfmt::skip]
    let table = [
        ("GET /_ping",       ping(2) + "OK"),
        ("GET /v1.24/_ping", ping(2) + "OK"),
        ("HEAD /_ping",      ping(0)),
    ];
    for (line, expected) in table {
        assert_eq!(ask(&request(line, "", "")).await, expected, "{line}");
    }
}

#[tokio::test]
async fn options_of_anything_are_empty() {
    let (own, rest) = HEADERS.split_once('\n').unwrap();
    let expected =
        format!("HTTP/1.1 200 OK\n{own}\nConnection: close\nContent-Length: 0\n{rest}\n");
    assert_eq!(ask(&request("OPTIONS /any/thing", "", "")).await, expected);
}

#[tokio::test]
async fn not_modified_has_no_body() {
    let answer = ask(&request("GET /fail/same", "", "")).await;
    let expected = format!(
        "HTTP/1.1 304 Not Modified\nApi-Version: 1.51\nConnection: close\n{}\n",
        HEADERS.strip_prefix("Api-Version: 1.51\n").unwrap()
    );
    assert_eq!(answer, expected);
}

#[tokio::test]
async fn bodies_must_be_json() {
    let json = "Content-Type: application/json\r\n";
    let large = format!("\"{}\"", "x".repeat(4 << 20));
    #[rustfmt::skip]
    let table = [
        ("",     "",                        200, r#"{"Name":"","MaximumRetryCount":0}"#),
        (json,   "",                        200, r#"{"Name":"","MaximumRetryCount":0}"#),
        (json,   r#"{"name":"a","X":1} "#,  200, r#"{"Name":"a","MaximumRetryCount":0}"#),
        ("Content-Type: application/JSON; charset=utf-8\r\n", "{}", 200, r#"{"Name":"","MaximumRetryCount":0}"#),
        ("Content-Type: text/plain\r\n", "x", 400, r#"{"message":"unsupported Content-Type header (text/plain): must be 'application/json'"}"#),
        ("",     "{}",                      400, r#"{"message":"malformed Content-Type header (): mime: no media type"}"#),
        (json,   " ",                       400, r#"{"message":"invalid JSON: got EOF while reading request body"}"#),
        (json,   "{} {}",                   400, r#"{"message":"unexpected content after JSON"}"#),
        (json,   "{",                       400, r#"{"message":"invalid JSON: unexpected EOF"}"#),
        (json,   r#"{"Name":1}"#,           400, r#"{"message":"invalid JSON: json: cannot unmarshal number into Go struct field RestartPolicy.Name of type string"}"#),
        (json,   &large,                    413, r#"{"message":"http: request body too large"}"#),
    ];
    for (headers, body, status, expected) in table {
        let (mut client, _token, _task) = connect(Fake::default());
        let request = request("POST /policy", headers, body);
        let (mut reader, mut writer) = client.split();
        let mut answer = Vec::new();
        let send = async {
            // The server may close before it has read all of a body that is too large.
            if let Err(error) = writer.write_all(request.as_bytes()).await {
                assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe);
            }
        };
        let receive = async {
            let mut piece = [0; 4096];
            while let Ok(length @ 1..) = reader.read(&mut piece).await {
                answer.extend_from_slice(&piece[..length]);
            }
        };
        tokio::join!(send, receive);
        let answer = tidy(&answer);
        let head = &body[..body.len().min(40)];
        assert!(answer.starts_with(&format!("HTTP/1.1 {status} ")), "{head}: {answer}");
        assert_eq!(answer.split_once("\n\n").unwrap().1.trim_end(), expected, "{head}");
    }
}

/// A client that is still sending would see its own error and not the answer.
#[tokio::test]
async fn a_body_that_nobody_reads_is_taken_all_the_same() {
    const PIECE: usize = 10 << 10;
    #[rustfmt::skip]
    let table = [
        ("Transfer-Encoding: chunked\r\n",   true),
        ("Content-Length: 204800\r\n",       false),
    ];
    for (header, chunked) in table {
        let (mut client, _token, _task) = connect(Fake::default());
        let head = format!("POST /build HTTP/1.1\r\nHost: d\r\n{header}\r\n");
        client.write_all(head.as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "of berth\"}\n").await;
        assert!(answer.starts_with("HTTP/1.1 501 "), "{answer}");
        for _ in 0..20 {
            let mut piece = vec![b'x'; PIECE];
            if chunked {
                piece = [format!("{PIECE:x}\r\n").as_bytes(), &piece, b"\r\n"].concat();
            }
            client.write_all(&piece).await.unwrap();
        }
        if chunked {
            client.write_all(b"0\r\n\r\n").await.unwrap();
        }
        // And the connection goes on.
        client.write_all(request("GET /_ping", "", "").as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "OK").await;
        assert!(answer.starts_with("HTTP/1.1 200 OK"), "{header}: {answer}");
    }
}

#[tokio::test]
async fn a_handler_that_panics_is_an_answer() {
    let answer = ask(&request("GET /broken", "", "")).await;
    assert!(answer.starts_with("HTTP/1.1 500 Internal Server Error\n"), "{answer}");
}

/// Reads until the text has come.
async fn read_until(client: &mut UnixStream, end: &str) -> String {
    let mut text = String::new();
    let mut byte = [0];
    while !text.ends_with(end) {
        assert_ne!(client.read(&mut byte).await.unwrap(), 0, "closed after {text:?}");
        text.push(char::from(byte[0]));
    }
    text
}

#[tokio::test]
async fn streams_send_headers_and_each_record_at_once_and_end_with_the_client() {
    let fake = Fake::default();
    let (sender, receiver) = mpsc::channel(1);
    *fake.pieces.lock().unwrap() = Some(receiver);
    let (mut client, _token, task) = connect(fake);
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    assert!(head.contains("Transfer-Encoding: chunked\r\n"), "{head}");
    for record in ["{}\n", "[]\n"] {
        sender.send(Ok(Bytes::from(record))).await.unwrap();
        assert_eq!(read_until(&mut client, "\n\r\n").await, format!("3\r\n{record}\r\n"));
    }
    drop(client);
    sender.closed().await;
    task.await.unwrap();
}

#[tokio::test]
async fn a_failed_stream_is_not_taken_for_a_whole_one() {
    let fake = Fake::default();
    let (sender, receiver) = mpsc::channel(1);
    *fake.pieces.lock().unwrap() = Some(receiver);
    let (mut client, _token, task) = connect(fake);
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    sender.send(Err(Failure { name: "x".into(), kind: ErrorKind::Internal })).await.unwrap();
    let mut rest = Vec::new();
    client.read_to_end(&mut rest).await.unwrap();
    assert_eq!(rest, b"", "the last chunk is missing");
    task.await.unwrap();
}

#[tokio::test]
async fn hijacked_streams_close_half_by_half() {
    let fake = Fake::default();
    let (ours, mut container) = tokio::io::duplex(64);
    *fake.stream.lock().unwrap() = Some(ours);
    let (mut client, _token, task) = connect(fake);
    let request =
        "POST /v1.42/attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    let head = read_until(&mut client, "\r\n\r\n").await;
    let expected = "HTTP/1.1 101 UPGRADED\nConnection: Upgrade\nContent-Type: application/vnd.docker.multiplexed-stream\nUpgrade: tcp\n\n";
    assert_eq!(tidy(head.as_bytes()), expected);
    client.write_all(b"in").await.unwrap();
    client.shutdown().await.unwrap();
    let mut input = String::new();
    container.read_to_string(&mut input).await.unwrap();
    assert_eq!(input, "in");
    container.write_all(b"out, after the end of the input").await.unwrap();
    container.shutdown().await.unwrap();
    let mut output = String::new();
    client.read_to_string(&mut output).await.unwrap();
    assert_eq!(output, "out, after the end of the input");
    task.await.unwrap();
}

#[tokio::test]
async fn a_client_that_leaves_a_hijacked_stream_frees_it() {
    let fake = Fake::default();
    let (ours, mut container) = tokio::io::duplex(64);
    *fake.stream.lock().unwrap() = Some(ours);
    let (mut client, _token, _task) = connect(fake);
    let request = "POST /attach HTTP/1.1\r\nHost: d\r\nConnection: Upgrade\r\nUpgrade: tcp\r\n\r\n";
    client.write_all(request.as_bytes()).await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    drop(client);
    while container.write_all(b"more").await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn clients_that_do_not_upgrade_get_raw_output() {
    let fake = Fake::default();
    let (ours, mut container) = tokio::io::duplex(64);
    *fake.stream.lock().unwrap() = Some(ours);
    let (mut client, _token, task) = connect(fake);
    let request = "POST /attach HTTP/1.1\r\nHost: d\r\nContent-Length: 2\r\n\r\nin";
    client.write_all(request.as_bytes()).await.unwrap();
    let mut input = String::new();
    container.read_to_string(&mut input).await.unwrap();
    assert_eq!(input, "in");
    container.write_all(b"out").await.unwrap();
    drop(container);
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    let expected = "HTTP/1.0 200 OK\nConnection: close\nContent-Type: application/vnd.docker.multiplexed-stream\n\nout";
    assert_eq!(tidy(&answer), expected);
    task.await.unwrap();
}

#[tokio::test]
async fn a_shutdown_lets_the_running_request_finish() {
    let fake = Fake::default();
    let (sender, receiver) = mpsc::channel(1);
    *fake.pieces.lock().unwrap() = Some(receiver);
    let (mut client, token, task) = connect(fake);
    client.write_all(b"GET /stream HTTP/1.1\r\nHost: d\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    token.cancel();
    sender.send(Ok(Bytes::from("last\n"))).await.unwrap();
    drop(sender);
    let mut rest = String::new();
    client.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "5\r\nlast\n\r\n0\r\n\r\n");
    task.await.unwrap();
}

#[tokio::test]
async fn an_idle_connection_ends_at_shutdown() {
    let (_client, token, task) = connect(Fake::default());
    token.cancel();
    task.await.unwrap();
}
