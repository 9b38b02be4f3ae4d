//! What a push sends, and what it need not.

use std::io::Read as _;

use berth_types::Digest;
use testkit::http::{Reply, Request};

use super::mock::{DOCKER, Image, OCI, Registry, tar};
use super::{pull, push};
use crate::kit::{Dirs, Open};

fn tag(open: &Open, from: &str, repo: &str, tag: &str) {
    open.block_on(open.engine().tag_image(from, repo, tag)).unwrap();
}

fn ungzip(bytes: &[u8]) -> Vec<u8> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(bytes).read_to_end(&mut plain).unwrap();
    plain
}

#[test]
fn root_layers_are_sent_once_and_mounted_elsewhere() {
    let Some(dirs) = Dirs::new("root_layers_are_sent_once_and_mounted_elsewhere") else { return };
    let open = dirs.open().unwrap();
    let source = Registry::new();
    let image = Image::new(DOCKER, &[b"one", b"two"]);
    source.put("a", &image);
    assert_eq!(pull(&open, &source.name("a:1")).failure, None);

    let target = Registry::new();
    let repo = target.name("x/y");
    tag(&open, &source.name("a:1"), &repo, "t");
    let told = push(&open, &repo, "t");
    assert_eq!(told.failure, None);
    let [one, two] = [b"one", b"two"].map(|content| Digest::of(&tar(content)));
    let (_, manifest) = target.manifest("x/y", "t");
    let text = target.manifest_bytes("x/y", "t");
    let mut lines = told.lines();
    let ends = format!("t: digest: {} size: {}", Digest::of(&text), text.len());
    assert_eq!(lines.remove(0), format!("The push refers to repository [{repo}]"));
    assert_eq!(lines.pop(), Some(ends));
    assert_eq!(lines[..2], [two.short(), one.short()].map(|id| format!("{id}: Preparing")));
    lines[2..].sort();
    let mut pushed = [one.short(), two.short()].map(|id| format!("{id}: Pushed"));
    pushed.sort();
    assert_eq!(lines[2..], pushed);
    let aux = told.messages.last().unwrap().aux.clone().unwrap();
    assert_eq!(aux["Digest"], Digest::of(&text).as_str());
    for (at, content) in [b"one", b"two"].into_iter().enumerate() {
        let digest = manifest["layers"][at]["digest"].as_str().unwrap();
        assert!(ungzip(&target.blob("x/y", digest)) == tar(content));
    }
    let config = manifest["config"]["digest"].as_str().unwrap();
    assert_eq!(target.blob("x/y", config), image.config);

    let before = target.server.lines().len();
    let again = push(&open, &repo, "t");
    assert_eq!(again.failure, None);
    assert!(again.lines().contains(&format!("{}: Layer already exists", one.short())));
    assert_eq!(target.lines_since(before), ["PUT /v2/x/y/manifests/t"]);

    let other = target.name("z");
    tag(&open, &format!("{repo}:t"), &other, "t");
    let before = target.server.lines().len();
    let mounted = push(&open, &other, "t");
    assert_eq!(mounted.failure, None);
    assert!(mounted.lines().contains(&format!("{}: Mounted from x/y", two.short())));
    assert_eq!(target.manifest_bytes("z", "t"), text);
    // Only the configuration is sent.
    let sent = target.lines_since(before);
    assert_eq!(sent.iter().filter(|line| line.starts_with("PATCH")).count(), 1, "{sent:?}");
    let before = target.server.lines().len();
    assert_eq!(push(&open, &other, "t").failure, None);
    assert_eq!(target.server.lines()[before..], ["PUT /v2/z/manifests/t"]);

    let shown = open.block_on(open.engine().inspect_image(&format!("{repo}:t"))).unwrap();
    assert!(shown.repo_digests.contains(&format!("{repo}@{}", Digest::of(&text))));
}

#[test]
fn root_an_image_goes_in_the_form_that_it_came_in() {
    let Some(dirs) = Dirs::new("root_an_image_goes_in_the_form_that_it_came_in") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    for media_type in [DOCKER, OCI] {
        let image = Image::new(media_type, &[media_type.as_bytes()]);
        registry.put("a", &image);
        assert_eq!(pull(&open, &registry.name("a:1")).failure, None);
        tag(&open, &registry.name("a:1"), &registry.name("b"), "1");
        assert_eq!(push(&open, &registry.name("b"), "1").failure, None);
        let (sent_as, sent) = registry.manifest("b", "1");
        assert_eq!(sent_as, media_type);
        let came: serde_json::Value = serde_json::from_slice(&image.manifest).unwrap();
        assert_eq!(sent, came);
    }
}

#[test]
fn root_every_tag_is_pushed_when_none_is_named() {
    let Some(dirs) = Dirs::new("root_every_tag_is_pushed_when_none_is_named") else { return };
    let open = dirs.open().unwrap();
    open.import(b"content");
    let registry = Registry::new();
    let repo = registry.name("a");
    for name in ["1", "2"] {
        tag(&open, "test:latest", &repo, name);
    }
    let told = push(&open, &repo, "");
    assert_eq!(told.failure, None);
    assert_eq!(registry.manifest_bytes("a", "1"), registry.manifest_bytes("a", "2"));
}

#[test]
fn root_failures_of_a_push_are_dockers() {
    let Some(dirs) = Dirs::new("root_failures_of_a_push_are_dockers") else { return };
    let open = dirs.open().unwrap();
    open.import(b"content");
    let registry = Registry::new();
    let repo = registry.name("a");
    tag(&open, "test:latest", &repo, "1");
    let none = registry.name("none");
    #[rustfmt::skip]
    let table = [
        (&none, "1", format!("An image does not exist locally with the tag: {none}")),
        (&repo, "9", format!("tag does not exist: {repo}:9")),
    ];
    for (name, tag, expected) in table {
        let told = push(&open, name, tag);
        assert_eq!(told.failure, Some(expected));
        assert_eq!(told.lines(), [format!("The push refers to repository [{name}]")]);
    }
    registry.set_fault(|request| {
        let denied =
            super::mock::error(403, "DENIED", "requested access to the resource is denied");
        request.path.contains("/uploads/").then_some(denied)
    });
    let failure = push(&open, &repo, "1").failure;
    assert_eq!(failure, Some("denied: requested access to the resource is denied".to_owned()));
}

#[test]
fn root_an_upload_that_fails_in_passing_is_begun_again() {
    let Some(dirs) = Dirs::new("root_an_upload_that_fails_in_passing_is_begun_again") else {
        return;
    };
    let open = dirs.open().unwrap();
    open.import(b"content");
    let registry = Registry::new();
    let repo = registry.name("a");
    tag(&open, "test:latest", &repo, "1");
    let failed = std::sync::atomic::AtomicBool::new(false);
    let failed_config = std::sync::atomic::AtomicBool::new(false);
    registry.set_fault(move |request| {
        let order = std::sync::atomic::Ordering::Relaxed;
        let failed = if is_layer(request) { &failed } else { &failed_config };
        let is_first = request.method == "PATCH" && !failed.swap(true, order);
        is_first.then(|| Reply::new(502, ""))
    });
    let told = push(&open, &repo, "1");
    assert_eq!(told.failure, None);
    assert!(told.lines().iter().any(|line| line.ends_with("Retrying in 1 second")));
    assert_eq!(registry.server.lines().iter().filter(|l| l.starts_with("PATCH")).count(), 4);
}

/// What a registry lost, and what it says all the same.
type Lost = (&'static str, bool, fn(&Request) -> Option<Reply>);

#[test]
fn root_a_registry_that_lost_blobs_gets_them_again() {
    let Some(dirs) = Dirs::new("root_a_registry_that_lost_blobs_gets_them_again") else { return };
    let open = dirs.open().unwrap();
    let says_it_has_them = |request: &Request| {
        let is_asked = request.method == "HEAD" && request.path.contains("/blobs/");
        is_asked.then(|| Reply { claims: Some(99), ..Reply::new(200, "") })
    };
    let says_it_mounts_them =
        |request: &Request| request.query.contains("mount=").then(|| Reply::new(201, ""));
    #[rustfmt::skip]
    let table: [Lost; 4] = [
        ("everything",                              false, |_| None),
        ("all blobs",                               true,  |_| None),
        ("all blobs, and says that it has them",    true,  says_it_has_them),
        ("all blobs, and says that it mounts them", true,  says_it_mounts_them),
    ];
    for (what, keeps_manifests, fault) in table {
        let (source, target) = (Registry::new(), Registry::new());
        source.put("a", &Image::new(DOCKER, &[b"one", what.as_bytes()]));
        assert_eq!(pull(&open, &source.name("a:1")).failure, None);
        for repo in ["other", "x/y"] {
            tag(&open, &source.name("a:1"), &target.name(repo), "t");
            assert_eq!(push(&open, &target.name(repo), "t").failure, None);
        }
        let (blobs, manifest) = (target.blobs("x/y"), target.manifest_bytes("x/y", "t"));
        target.wipe(keeps_manifests);
        target.set_fault(fault);
        let again = push(&open, &target.name("x/y"), "t");
        assert_eq!(again.failure, None, "{what}");
        assert_eq!(target.blobs("x/y"), blobs, "{what}");
        // It has shown once more that it looks.
        let before = target.server.lines().len();
        assert_eq!(push(&open, &target.name("x/y"), "t").failure, None, "{what}");
        assert_eq!(target.lines_since(before), ["PUT /v2/x/y/manifests/t"], "{what}");
        assert!(target.manifest_bytes("x/y", "t") == manifest, "{what}");
    }
}

/// A layer's content that does not get smaller.
fn noise(size: usize) -> Vec<u8> {
    let mut state = 1_u64;
    let next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        state.to_be_bytes()[0]
    };
    std::iter::repeat_with(next).take(size).collect()
}

/// Configurations are sent with their length.
fn is_layer(request: &Request) -> bool {
    request.method == "PATCH" && request.header("content-length").is_none()
}

/// How many bytes each `PATCH` of a layer brought, and how often an upload was begun.
fn sent(registry: &Registry) -> (Vec<usize>, usize) {
    let seen = registry.server.seen();
    let patches = seen.iter().filter(|request| is_layer(request));
    let begun = seen.iter().filter(|request| request.method == "POST");
    (patches.map(|request| request.body.len()).collect(), begun.count())
}

/// The registry, how often it cuts, what it says then; how often an upload is begun, and whether it
/// goes on.
type Cut = (&'static str, usize, fn(&Request) -> Option<Reply>, usize, bool);

#[test]
fn root_an_upload_that_is_cut_goes_on_where_it_ended() {
    const CUT: usize = 300_000;
    let Some(dirs) = Dirs::new("root_an_upload_that_is_cut_goes_on_where_it_ended") else {
        return;
    };
    let open = dirs.open().unwrap();
    open.import(&noise(1 << 20));
    let forgets = |request: &Request| {
        let is_asked = request.method == "GET" && request.path.contains("/uploads/");
        is_asked.then(|| super::mock::error(404, "BLOB_UPLOAD_UNKNOWN", "blob upload unknown"))
    };
    let says_too_much = |request: &Request| {
        let is_asked = request.method == "GET" && request.path.contains("/uploads/");
        is_asked.then(|| Reply::new(204, "").with("Range", "0-399999"))
    };
    #[rustfmt::skip]
    let table: [Cut; 4] = [
        // the registry        cuts  what it says    begun  goes on
        ("knows",              1,    |_| None,       1,     true),
        ("cuts twice",         2,    |_| None,       1,     true),
        ("forgets",            1,    forgets,        2,     false),
        ("says too much",      1,    says_too_much,  2,     false),
    ];
    for (what, cuts, fault, begun, goes_on) in table {
        let registry = Registry::new();
        let repo = registry.name("a");
        tag(&open, "test:latest", &repo, "1");
        registry.set_fault(fault);
        let left = std::sync::atomic::AtomicUsize::new(cuts);
        registry.set_cut(move |request| {
            let less = |left: usize| left.checked_sub(1);
            let order = std::sync::atomic::Ordering::Relaxed;
            let is_cut = is_layer(request) && left.fetch_update(order, order, less).is_ok();
            is_cut.then_some(CUT)
        });
        assert_eq!(push(&open, &repo, "1").failure, None, "{what}");
        let (_, manifest) = registry.manifest("a", "1");
        let layer = &manifest["layers"][0];
        let size = usize::try_from(layer["size"].as_u64().unwrap()).unwrap();
        assert_eq!(registry.blob("a", layer["digest"].as_str().unwrap()).len(), size, "{what}");
        let (patches, posts) = sent(&registry);
        // One more for the configuration.
        assert_eq!(posts, begun + 1, "{what}");
        let expected = match (goes_on, what) {
            (true, _) => [vec![CUT; cuts], vec![size - cuts * CUT]].concat(),
            (false, "forgets") => vec![CUT, size],
            (false, _) => vec![CUT, size - 400_000, size],
        };
        assert_eq!(patches, expected, "{what}");
    }
}

#[test]
fn root_an_upload_that_is_always_cut_fails_in_the_end() {
    let Some(dirs) = Dirs::new("root_an_upload_that_is_always_cut_fails_in_the_end") else {
        return;
    };
    let open = dirs.open().unwrap();
    open.import(&noise(1 << 20));
    let registry = Registry::new();
    let repo = registry.name("a");
    tag(&open, "test:latest", &repo, "1");
    registry.set_cut(|request| is_layer(request).then_some(1000));
    let told = push(&open, &repo, "1");
    assert!(told.failure.is_some());
    let (patches, _) = sent(&registry);
    assert_eq!(patches, [1000; 3]);
}
