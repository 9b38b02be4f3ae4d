//! Pushes of what was pushed before: one request, where the registry has shown that it looks.

use berth_engine::registry::Credentials;
use serde_json::{Value, json};
use testkit::http::{Reply, Request};

use super::mock::{DOCKER, Image, Registry, error};
use super::{Told, pull, push, push_as};
use crate::kit::{Dirs, Open};

/// An engine with an image of three layers under the name of a repository, and what it is called there.
fn to_push(open: &Open, content: &str) -> (Registry, String) {
    let (source, target) = (Registry::new(), Registry::new());
    let layers = [content.as_bytes(), b"two", b"three"];
    source.put("a", &Image::new(DOCKER, &layers));
    assert_eq!(pull(open, &source.name("a:1")).failure, None);
    let name = target.name("x");
    open.block_on(open.engine().tag_image(&source.name("a:1"), &name, "t")).unwrap();
    (target, name)
}

/// The manifests that were put, and the ends of uploads, in their order.
fn ends(registry: &Registry) -> Vec<String> {
    let seen = registry.server.seen();
    let puts = seen.iter().filter(|request| request.method == "PUT");
    let ends = puts.map(|request| match request.path.split_once("/manifests/") {
        Some((_, tag)) if tag.contains(':') => "its digest".to_owned(),
        Some((_, tag)) => tag.to_owned(),
        None => "blob".to_owned(),
    });
    ends.collect()
}

fn is_manifest(request: &Request) -> bool {
    request.method == "PUT" && request.path.contains("/manifests/")
}

#[test]
fn root_a_manifest_is_offered_before_the_last_layer_is_there() {
    let test = "root_a_manifest_is_offered_before_the_last_layer_is_there";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open().unwrap();
    let (registry, name) = to_push(&open, "one");
    assert_eq!(push(&open, &name, "t").failure, None);
    let ends = ends(&registry);
    // Uploads end at the same time; the configuration's is the last.
    let offered = ends.iter().position(|end| end == "its digest").unwrap();
    assert!(offered < 3, "{ends:?}");
    assert_eq!(ends[3..], ["blob", "blob", "t"]);
}

/// What a registry says, and what is asked in each later push; whether it is pinged before.
type Row = (&'static str, fn(&Request) -> Option<Reply>, &'static [&'static str], bool);

const LOOKED: &[&str] =
    &["HEAD /v2/x/manifests/t", "HEAD blob", "HEAD blob", "HEAD blob", "HEAD blob"];

#[test]
fn root_only_a_registry_that_looks_is_sent_the_manifest_alone() {
    let Some(dirs) = Dirs::new("root_only_a_registry_that_looks_is_sent_the_manifest_alone") else {
        return;
    };
    let open = dirs.open().unwrap();
    let takes_all = |request: &Request| is_manifest(request).then(|| Reply::new(201, ""));
    let names_none = |request: &Request| {
        let is_offer = is_manifest(request) && request.path.contains("sha256:");
        is_offer.then(|| error(400, "MANIFEST_BLOB_UNKNOWN", "blob unknown to registry"))
    };
    let fails = |request: &Request| {
        let is_offer = is_manifest(request) && request.path.contains("sha256:");
        is_offer.then(|| Reply::new(500, ""))
    };
    let names_the_last = |request: &Request| {
        let is_offer = is_manifest(request) && request.path.contains("sha256:");
        let manifest: Value = serde_json::from_slice(&request.body).unwrap_or_default();
        let layers = manifest["layers"].as_array().cloned().unwrap_or_default();
        let unknown =
            |blob: &Value| json!({ "code": "MANIFEST_BLOB_UNKNOWN", "detail": blob["digest"] });
        let errors: Vec<_> = layers.iter().map(unknown).collect();
        is_offer.then(|| Reply::new(400, json!({ "errors": errors }).to_string()))
    };
    let alone: &[&str] = &["PUT /v2/x/manifests/t"];
    #[rustfmt::skip]
    let table: [Row; 6] = [
        ("looks",                             |_| None,       alone,  false),
        ("looks, and asks who asks",          asks_who,       alone,  true),
        ("takes whatever comes",              takes_all,      LOOKED, true),
        ("does not say what",                 names_none,     LOOKED, true),
        ("does not miss the configuration",   names_the_last, LOOKED, true),
        ("cannot",                            fails,          LOOKED, true),
    ];
    for (what, fault, expected, pings) in table {
        let (registry, name) = to_push(&open, what);
        registry.set_fault(fault);
        let push = |name: &str| push_as(&open, name, "t", somebody());
        assert_eq!(push(&name).failure, None, "{what}");
        let offers = ends(&registry).iter().filter(|end| *end == "its digest").count();
        assert_eq!(offers, 1, "{what}");
        if fault(&put("t")).is_some() {
            // What it took and threw away.
            let manifest = registry.server.seen().last().unwrap().body.clone();
            registry.put_manifest("x", "t", DOCKER, &manifest);
        }
        for _ in 0..2 {
            let before = registry.server.lines().len();
            let told = push(&name);
            assert_eq!(told.failure, None, "{what}");
            assert_eq!(asked(&registry, before), expected, "{what}");
            let is_ping = |line: &String| line == "GET /v2/";
            let pinged = registry.server.lines()[before..].iter().any(is_ping);
            assert_eq!(pinged, pings, "{what}");
            are_there(&told);
        }
    }
}

/// A registry that takes nothing from nobody.
fn asks_who(request: &Request) -> Option<Reply> {
    let is_nobody = request.header("authorization").is_none();
    let answer = error(401, "UNAUTHORIZED", "authentication required");
    is_nobody.then(|| answer.with("WWW-Authenticate", "Basic realm=\"here\""))
}

fn somebody() -> Credentials {
    let (username, password) = ("me".to_owned(), "secret".to_owned());
    Credentials { username, password, ..Credentials::default() }
}

/// The request that puts this tag of the repository.
fn put(tag: &str) -> Request {
    let path = format!("/v2/x/manifests/{tag}");
    Request { method: "PUT".to_owned(), path, ..Request::default() }
}

/// What was asked since so many requests, sorted, without pings.
fn asked(registry: &Registry, before: usize) -> Vec<String> {
    let short = |line: String| match line.split_once(' ') {
        Some((method, path)) if path.contains("/blobs/") => format!("{method} blob"),
        _ => line,
    };
    let mut asked: Vec<_> = registry.lines_since(before).into_iter().map(short).collect();
    asked.sort();
    asked
}

/// Docker's words for layers that need not be sent.
fn are_there(told: &Told) {
    let mut lines = told.lines();
    assert!(lines.remove(0).starts_with("The push refers to repository"));
    assert!(lines.pop().unwrap().starts_with("t: digest: sha256:"));
    let (preparing, there) = lines.split_at(3);
    assert!(preparing.iter().all(|line| line.ends_with(": Preparing")), "{preparing:?}");
    assert!(there.iter().all(|line| line.ends_with(": Layer already exists")), "{there:?}");
    assert_eq!(there.len(), 3);
}

/// What a registry has become since it showed that it looks.
type Became = (&'static str, fn(&Request) -> Option<Reply>, bool);

#[test]
fn root_a_registry_that_has_changed_is_asked_for_everything() {
    let test = "root_a_registry_that_has_changed_is_asked_for_everything";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open().unwrap();
    let keeps_tags = |request: &Request| {
        let is_tag = is_manifest(request) && request.path.ends_with("/t");
        is_tag.then(|| error(409, "DENIED", "the tag is there and is not changed"))
    };
    let is_down = |_: &Request| Some(Reply::new(502, ""));
    let lost = |request: &Request| {
        is_manifest(request).then(|| error(404, "NAME_UNKNOWN", "repository name not known"))
    };
    #[rustfmt::skip]
    let table: [Became; 4] = [
        ("it keeps its tags as they are",   keeps_tags, true),
        ("it asks who asks",                asks_who,   true),
        ("it is down",                      is_down,    false),
        ("it does not know the repository", lost,       true),
    ];
    for (what, fault, ends_well) in table {
        let (registry, name) = to_push(&open, what);
        assert_eq!(push(&open, &name, "t").failure, None, "{what}");
        registry.set_fault(fault);
        let before = registry.server.lines().len();
        let told = push_as(&open, &name, "t", somebody());
        assert_eq!(told.failure.is_none(), ends_well, "{what}: {:?}", told.failure);
        if ends_well {
            are_there(&told);
        }
        // What is sent without a ping is sent as nobody.
        let first = registry.server.seen()[before].clone();
        assert_eq!(first.line(), "PUT /v2/x/manifests/t", "{what}");
        assert_eq!(first.header("authorization"), None, "{what}");
        registry.heal();
        let before = registry.server.lines().len();
        assert_eq!(push(&open, &name, "t").failure, None, "{what}");
        let sent = registry.lines_since(before);
        assert!(!sent.iter().any(|line| line.starts_with("PATCH")), "{what}: {sent:?}");
    }
}

#[test]
fn root_tags_of_a_repository_go_in_one_request_each() {
    let Some(dirs) = Dirs::new("root_tags_of_a_repository_go_in_one_request_each") else { return };
    let open = dirs.open().unwrap();
    let (registry, name) = to_push(&open, "one");
    assert_eq!(push(&open, &name, "t").failure, None);
    open.block_on(open.engine().tag_image(&format!("{name}:t"), &name, "u")).unwrap();
    open.import(b"another");
    open.block_on(open.engine().tag_image("test:latest", &name, "v")).unwrap();
    let before = registry.server.lines().len();
    let told = push(&open, &name, "");
    assert_eq!(told.failure, None);
    let sent = registry.lines_since(before);
    assert_eq!(sent[..2], ["PUT /v2/x/manifests/t", "PUT /v2/x/manifests/u"]);
    assert_eq!(sent.last().unwrap(), "PUT /v2/x/manifests/v");
    assert_eq!(registry.manifest_bytes("x", "t"), registry.manifest_bytes("x", "u"));
    assert_ne!(registry.manifest_bytes("x", "t"), registry.manifest_bytes("x", "v"));
}
