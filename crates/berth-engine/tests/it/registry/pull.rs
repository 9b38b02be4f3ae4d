//! What a pull tells, records and shares.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_db::sql::Connection;
use berth_engine::Depth;
use berth_engine::images::RemoveOptions;
use berth_engine::storage::Changes;
use berth_types::Digest;
use serde_json::json;
use testkit::http::{Gate, Reply};

use super::mock::{DOCKER, DOCKER_LIST, Image, OCI, Registry, architecture, error};
use super::{Told, begin_pull, pull, pull_for};
use crate::kit::{Dirs, Open, finish, is_clean};

fn inspected(open: &Open, name: &str) -> berth_api::image::ImageInspect {
    open.block_on(open.engine().inspect_image(name)).unwrap()
}

fn downloads(dirs: &Dirs) -> Vec<u64> {
    let entries = fs::read_dir(dirs.data_root().join("downloads")).unwrap();
    entries.map(|entry| entry.unwrap().metadata().unwrap().len()).collect()
}

#[test]
fn root_an_image_is_pulled_in_dockers_words() {
    let Some(dirs) = Dirs::new("root_an_image_is_pulled_in_dockers_words") else { return };
    for driver in ["", "vfs"] {
        let dirs = if driver.is_empty() { &dirs } else { &Dirs::new("again").unwrap() };
        let open = dirs.open_on(driver).unwrap();
        let registry = Registry::new();
        let image = Image::new(OCI, &[b"one", b"two", b"three"]);
        registry.put("a/b", &image);
        let name = registry.name("a/b:1");
        let told = pull(&open, &name);
        assert_eq!(told.failure, None);
        let mut lines = told.lines();
        let shorts = image.shorts();
        let begun = shorts.iter().map(|id| format!("{id}: Pulling fs layer"));
        let expected: Vec<_> =
            ["1: Pulling from a/b".to_owned()].into_iter().chain(begun).collect();
        assert_eq!(lines.drain(..4).collect::<Vec<_>>(), expected);
        let ended = [
            format!("Digest: {}", image.digest()),
            format!("Status: Downloaded newer image for {name}"),
        ];
        assert_eq!(lines.split_off(lines.len() - 2), ended);
        let mut expected: Vec<_> = shorts
            .iter()
            .flat_map(|id| [format!("{id}: Download complete"), format!("{id}: Pull complete")])
            .collect();
        lines.sort();
        expected.sort();
        assert_eq!(lines, expected);

        let shown = inspected(&open, &name);
        assert_eq!(shown.id, image.id());
        assert_eq!(*shown.repo_tags, vec![name.clone()]);
        let by_digest = format!("{}@{}", registry.name("a/b"), image.digest());
        assert_eq!(*shown.repo_digests, vec![by_digest.clone()]);
        assert_eq!(downloads(dirs), Vec::<u64>::new());

        let again = [
            "1: Pulling from a/b".to_owned(),
            format!("{}: Already exists", shorts[0]),
            format!("{}: Already exists", shorts[1]),
            format!("{}: Already exists", shorts[2]),
            format!("Digest: {}", image.digest()),
            format!("Status: Image is up to date for {name}"),
        ];
        let told = pull(&open, &name);
        let known: Vec<_> =
            again.iter().filter(|line| !line.ends_with("exists")).cloned().collect();
        assert_eq!(told.lines(), known);

        let told = pull(&open, &by_digest);
        assert_eq!(told.failure, None);
        assert_eq!(told.lines()[0], format!("{by_digest}: Pulling from a/b"));
    }
}

#[test]
fn root_layers_that_are_there_are_not_fetched() {
    let Some(dirs) = Dirs::new("root_layers_that_are_there_are_not_fetched") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    registry.put("base", &Image::new(DOCKER, &[b"base"]));
    let image = Image::new(DOCKER, &[b"base", b"top"]);
    registry.put("more", &image);
    assert_eq!(pull(&open, &registry.name("base:1")).failure, None);
    let before = registry.server.lines().len();
    let told = pull(&open, &registry.name("more:1"));
    assert_eq!(told.failure, None);
    assert!(told.lines().contains(&format!("{}: Already exists", image.shorts()[0])));
    let base = Digest::of(&image.blobs[0]).to_string();
    let lines = registry.lines_since(before);
    assert!(!lines.iter().any(|line| line.contains(&base)), "{lines:?}");
}

#[test]
fn root_every_tag_is_pulled_when_none_is_named() {
    let Some(dirs) = Dirs::new("root_every_tag_is_pulled_when_none_is_named") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let (one, two) = (Image::new(DOCKER, &[b"one"]), Image::new(DOCKER, &[b"two"]));
    registry.put("a/b", &two);
    registry.put_manifest("a/b", "2", DOCKER, &two.manifest);
    registry.put("a/b", &one);
    let name = registry.name("a/b");
    let told = pull(&open, &name);
    assert_eq!(told.failure, None);
    assert_eq!(inspected(&open, &format!("{name}:1")).id, one.id());
    assert_eq!(inspected(&open, &format!("{name}:2")).id, two.id());
    assert_eq!(told.lines().last().unwrap(), &format!("Status: Downloaded newer image for {name}"));
}

#[test]
fn root_the_image_for_the_platform_is_chosen() {
    let Some(dirs) = Dirs::new("root_the_image_for_the_platform_is_chosen") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let (own, other) = (Image::new(DOCKER, &[b"own"]), Image::new(DOCKER, &[b"other"]));
    let entry = |image: &Image, architecture: &str| {
        json!({
            "mediaType": DOCKER, "size": image.manifest.len(), "digest": image.digest(),
            "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let list = |entries: &[serde_json::Value]| {
        json!({ "schemaVersion": 2, "mediaType": DOCKER_LIST, "manifests": entries }).to_string()
    };
    registry.put("a", &own);
    registry.put("a", &other);
    let both = list(&[entry(&other, "mips64le"), entry(&own, architecture())]);
    registry.put_manifest("a", "both", DOCKER_LIST, both.as_bytes());
    registry.put_manifest("a", "other", DOCKER_LIST, list(&[entry(&other, "mips64le")]).as_bytes());
    let name = registry.name("a:both");
    let told = pull(&open, &name);
    assert_eq!(told.failure, None);
    assert_eq!(inspected(&open, &name).id, own.id());
    let digest = Digest::of(both.as_bytes());
    assert!(told.lines().contains(&format!("Digest: {digest}")), "{:?}", told.lines());

    let other_name = registry.name("a:other");
    let expected =
        format!("no matching manifest for linux/{} in the manifest list entries", architecture());
    assert_eq!(pull(&open, &other_name).failure, Some(expected));
    let asked = open
        .block_on(async { Told::all(pull_for(&open, &other_name, "linux/mips64le").await).await });
    assert_eq!(asked.failure, None);
    assert_eq!(inspected(&open, &other_name).id, other.id());
}

#[test]
fn root_failures_before_anything_is_told_are_dockers() {
    let Some(dirs) = Dirs::new("root_failures_before_anything_is_told_are_dockers") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    registry.put("a/b", &Image::new(DOCKER, &[b"one"]));
    let denied = || error(403, "DENIED", "requested access to the resource is denied");
    registry.set_fault(move |request| request.path.contains("/secret/").then(denied));
    let name = |name: &str| registry.name(name);
    #[rustfmt::skip]
    let table = [
        (name("a/b:2"),     format!("manifest for {} not found: manifest unknown: manifest unknown", name("a/b:2"))),
        (name("a/c"),       format!("repository {} not found: name unknown: repository name not known to registry", name("a/c"))),
        (name("secret/c:1"), format!("pull access denied for {}, repository does not exist or may require 'docker login': denied: requested access to the resource is denied", name("secret/c"))),
        ("scratch".to_owned(),     "'scratch' is a reserved name".to_owned()),
        ("UPPER".to_owned(),       "invalid reference format: repository name (library/UPPER) must be lowercase".to_owned()),
    ];
    for (asked, expected) in table {
        let told = pull(&open, &asked);
        assert_eq!(told.failure, Some(expected));
        assert!(told.messages.is_empty(), "{asked}");
    }
}

#[test]
fn root_a_mirror_is_asked_first_and_never_told_the_password() {
    let test = "root_a_mirror_is_asked_first_and_never_told_the_password";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open().unwrap();
    let mirror = Registry::new();
    let image = Image::new(DOCKER, &[b"one"]);
    mirror.put("library/only-here", &image);
    let mut reloadable = open.engine().reloadable();
    reloadable.registry.options.mirrors = vec![format!("http://{}/", mirror.server.host())];
    open.block_on(async { open.engine().reload(reloadable, std::collections::BTreeMap::new()) });
    let told = pull(&open, "only-here:1");
    assert_eq!(told.failure, None);
    assert_eq!(told.lines()[0], "1: Pulling from library/only-here");
    assert_eq!(told.lines().last().unwrap(), "Status: Downloaded newer image for only-here:1");
    assert!(mirror.server.seen().iter().all(|seen| seen.header("authorization").is_none()));
}

/// A registry whose requests for the blob stop in the middle until the gate is opened.
fn stopped(registry: &Registry, blob: &[u8]) -> Arc<Gate> {
    let gate = Arc::new(Gate::default());
    let (digest, blob) = (Digest::of(blob).to_string(), blob.to_vec());
    registry.set_fault({
        let gate = Arc::clone(&gate);
        move |request| {
            let gate = Some(Arc::clone(&gate));
            let reply = Reply { gate, gate_at: 10, ..Reply::new(200, blob.clone()) };
            request.path.ends_with(&digest).then_some(reply)
        }
    });
    gate
}

#[test]
fn root_pulls_at_the_same_time_fetch_a_layer_once() {
    let Some(dirs) = Dirs::new("root_pulls_at_the_same_time_fetch_a_layer_once") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let (one, two) = (Image::new(DOCKER, &[b"base", b"1"]), Image::new(DOCKER, &[b"base", b"2"]));
    registry.put("one", &one);
    registry.put("two", &two);
    let gate = stopped(&registry, &one.blobs[0]);
    let names = ["one:1", "two:1", "one:1"].map(|name| registry.name(name));
    let told = open.block_on(async {
        let mut begun = Vec::new();
        for name in &names {
            begun.push(begin_pull(&open, name).await);
        }
        gate.wait_for_somebody();
        gate.open();
        let mut told = Vec::new();
        for one in begun {
            told.push(Told::all(one).await);
        }
        told
    });
    for told in told {
        assert_eq!(told.failure, None);
    }
    let base = format!("GET /v2/one/blobs/{}", Digest::of(&one.blobs[0]));
    let lines = registry.lines_since(0);
    let base = lines.iter().filter(|line| line.ends_with(base.rsplit('/').next().unwrap()));
    assert_eq!(base.count(), 1, "{lines:?}");
    assert_eq!(inspected(&open, &names[0]).id, one.id());
    assert_eq!(inspected(&open, &names[1]).id, two.id());
    assert_eq!(downloads(&dirs), Vec::<u64>::new());
}

#[test]
fn root_a_client_that_leaves_ends_its_pull_and_no_other() {
    let test = "root_a_client_that_leaves_ends_its_pull_and_no_other";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let image = Image::new(DOCKER, &[&[7; 5000]]);
    registry.put("a", &image);
    let gate = stopped(&registry, &image.blobs[0]);
    let name = registry.name("a:1");
    let told = open.block_on(async {
        let leaves = begin_pull(&open, &name).await.unwrap();
        let mut stays = begin_pull(&open, &name).await.unwrap();
        // Both have the same download by then.
        for one in [&mut stays, &mut { leaves }] {
            while one.rest.recv().await.unwrap().status.as_deref() != Some("Downloading") {}
        }
        gate.open();
        Told::all(Ok(stays)).await
    });
    assert_eq!(told.failure, None);
    assert_eq!(registry.lines_since(0).iter().filter(|l| l.contains("/blobs/")).count(), 3);

    registry.put("b", &Image::new(DOCKER, &[&[8; 5000]]));
    let image = Image::new(DOCKER, &[&[8; 5000]]);
    let gate = stopped(&registry, &image.blobs[0]);
    let name = registry.name("b:1");
    open.block_on(async {
        let alone = begin_pull(&open, &name).await.unwrap();
        gate.wait_for_somebody();
        drop(alone);
    });
    drop(open);
    gate.open();
    // What had arrived stays for the next time, and nothing else.
    let open = dirs.open().unwrap();
    assert!(open.block_on(open.engine().inspect_image(&name)).is_err());
    registry.heal();
    assert_eq!(pull(&open, &name).failure, None);
    assert_eq!(downloads(&dirs), Vec::<u64>::new());
}

#[test]
fn root_a_cut_download_goes_on_after_a_restart() {
    let Some(dirs) = Dirs::new("root_a_cut_download_goes_on_after_a_restart") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let noise: Vec<u8> =
        (0_u32..20_000).flat_map(|n| n.wrapping_mul(2_654_435_761).to_le_bytes()).collect();
    let image = Image::new(DOCKER, &[&noise]);
    registry.put("a", &image);
    let digest = Digest::of(&image.blobs[0]).to_string();
    registry.set_fault({
        let (digest, blob) = (digest.clone(), image.blobs[0].clone());
        move |request| {
            let is_rest = request.header("range").is_some();
            let cut = Reply { cut: Some(30_000), ..Reply::new(200, blob.clone()) };
            let reply = if is_rest { Reply::new(500, "") } else { cut };
            request.path.ends_with(&digest).then_some(reply)
        }
    });
    let name = registry.name("a:1");
    let failure = pull(&open, &name).failure;
    assert_eq!(
        failure,
        Some("received unexpected HTTP status: 500 Internal Server Error".to_owned())
    );
    assert_eq!(downloads(&dirs), [30_000]);
    drop(open);
    let open = dirs.open().unwrap();
    registry.heal();
    assert_eq!(pull(&open, &name).failure, None);
    let seen = registry.server.seen();
    let last = seen.iter().rev().find(|request| request.path.ends_with(&digest)).unwrap();
    assert_eq!(last.header("range"), Some("bytes=30000-"));
    drop(seen);
    assert_eq!(downloads(&dirs), Vec::<u64>::new());
    assert_eq!(inspected(&open, &name).id, image.id());
}

#[test]
fn root_a_prune_takes_what_nobody_goes_on_with() {
    let Some(dirs) = Dirs::new("root_a_prune_takes_what_nobody_goes_on_with") else { return };
    let open = dirs.open().unwrap();
    let left = dirs.data_root().join("downloads").join(format!("sha256-{}", "a".repeat(64)));
    crate::kit::put(&left, b"1234");
    let pruned = open.block_on(open.engine().prune_images(berth_api::filters::Filters::default()));
    assert_eq!(pruned.unwrap().space_reclaimed, 4);
    assert_eq!(downloads(&dirs), Vec::<u64>::new());
}

/// They would be written to the disk with the layers, for nothing.
#[test]
fn root_the_files_of_blobs_go_before_their_image_is_recorded() {
    let test = "root_the_files_of_blobs_go_before_their_image_is_recorded";
    let Some(dirs) = Dirs::new(test) else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let image = Image::new(DOCKER, &[b"base", b"top"]);
    registry.put("a", &image);
    let gate = stopped(&registry, &image.blobs[1]);
    let name = registry.name("a:1");
    let database = Connection::open(dirs.data_root().join("berth.db")).unwrap();
    let told = open.block_on(async {
        let begun = begin_pull(&open, &name).await;
        gate.wait_for_somebody();
        // Nothing can be recorded from here on.
        database.execute_batch("BEGIN IMMEDIATE").unwrap();
        gate.open();
        let deadline = Instant::now() + Duration::from_secs(5);
        while !downloads(&dirs).is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(downloads(&dirs), Vec::<u64>::new());
        assert!(open.engine().inspect_image(&name).await.is_err());
        database.execute_batch("ROLLBACK").unwrap();
        Told::all(begun).await
    });
    assert_eq!(told.failure, None);
    assert_eq!(inspected(&open, &name).id, image.id());
}

/// As a stop leaves them while another pull still has the same blobs.
#[test]
fn root_a_start_takes_what_is_recorded() {
    let Some(dirs) = Dirs::new("root_a_start_takes_what_is_recorded") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let image = Image::new(DOCKER, &[b"one"]);
    registry.put("a", &image);
    assert_eq!(pull(&open, &registry.name("a:1")).failure, None);
    drop(open);
    for blob in [&image.blobs[0][..], b"another"] {
        let name = format!("sha256-{}", Digest::of(blob).hex());
        crate::kit::put(&dirs.data_root().join("downloads").join(name), blob);
    }
    drop(dirs.open().unwrap());
    assert_eq!(downloads(&dirs), [7]);
}

/// The base that a pull counts on is removed while its top layer arrives.
#[test]
fn root_a_removal_takes_no_layer_from_a_pull() {
    let Some(dirs) = Dirs::new("root_a_removal_takes_no_layer_from_a_pull") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let (base, image) = (Image::new(DOCKER, &[b"base"]), Image::new(DOCKER, &[b"base", b"top"]));
    registry.put("base", &base);
    registry.put("more", &image);
    let (base_name, name) = (registry.name("base:1"), registry.name("more:1"));
    assert_eq!(pull(&open, &base_name).failure, None);
    let gate = stopped(&registry, &image.blobs[1]);
    let before = registry.server.lines().len();
    let told = open.block_on(async {
        let begun = begin_pull(&open, &name).await;
        gate.wait_for_somebody();
        let removed = open.engine().remove_image(&base_name, RemoveOptions::default()).await;
        assert!(removed.is_ok(), "{removed:?}");
        let all: berth_api::filters::Filters =
            berth_api::filters::Filters::parse(r#"{"dangling":["false"]}"#).unwrap();
        open.engine().prune_images(all).await.unwrap();
        gate.open();
        Told::all(begun).await
    });
    assert_eq!(told.failure, None);
    assert_eq!(inspected(&open, &name).id, image.id());
    let base_blob = Digest::of(&base.blobs[0]).to_string();
    assert!(!registry.lines_since(before).iter().any(|line| line.contains(&base_blob)));
    // Every byte of it is there.
    open.block_on(async {
        let mut saved = open.engine().save_images(vec![name.clone()]).await.unwrap();
        while let Some(piece) = saved.recv().await {
            piece.unwrap();
        }
    });
}

#[test]
fn root_a_pull_mends_a_damaged_layer() {
    for driver in ["overlay2", "vfs"] {
        let Some(dirs) = Dirs::new("root_a_pull_mends_a_damaged_layer") else { return };
        let open = dirs.open_on(driver).unwrap();
        let registry = Registry::new();
        let image = Image::new(DOCKER, &[b"base", b"top"]);
        registry.put("a", &image);
        let name = registry.name("a:1");
        assert_eq!(pull(&open, &name).failure, None);
        let own = format!("file-{}", Digest::of(b"base").short());
        for file in named(&dirs.data_root().join(driver), &own) {
            crate::kit::put(&file, b"bane");
        }
        let repaired = open.begin(|engine| engine.repair_storage(Depth::Content, Changes::Made));
        assert_ne!(finish(&open, repaired).unwrap()["Repaired"]["Left"], 0, "{driver}");

        let digest = Digest::of(&image.blobs[0]).to_string();
        let other = Reply::new(200, vec![0; image.blobs[0].len()]);
        registry.set_fault(move |request| request.path.ends_with(&digest).then(|| other.clone()));
        let failure = pull(&open, &name).failure.unwrap();
        assert!(failure.starts_with("filesystem layer verification failed"), "{failure}");

        registry.heal();
        let told = pull(&open, &name);
        assert_eq!(told.failure, None, "{driver}");
        let begun = format!("{}: Pulling fs layer", image.shorts()[0]);
        assert!(told.lines().contains(&begun), "{driver}: {:?}", told.lines());
        is_clean(&open);
        assert_eq!(downloads(&dirs), Vec::<u64>::new());
        let told = pull(&open, &name);
        assert_eq!((told.failure.clone(), told.lines().len()), (None, 3), "{:?}", told.lines());
    }
}

/// The files of this name below a directory.
fn named(dir: &Path, name: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path());
    let below = entries.flat_map(|path| match path {
        path if path.is_dir() && !path.is_symlink() => named(&path, name),
        path if path.ends_with(name) => vec![path],
        _ => Vec::new(),
    });
    below.collect()
}
