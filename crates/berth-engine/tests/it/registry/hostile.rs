//! Registries that lie. Whatever they say, nothing of it stays.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use berth_types::Digest;
use serde_json::json;
use testkit::http::Reply;

use super::mock::{DOCKER, Image, OCI, Registry, gzip, tar};
use super::pull;
use crate::kit::Dirs;

/// Every path below the data root but what records and their like are in.
fn paths(root: &Path) -> BTreeSet<PathBuf> {
    let mut all = BTreeSet::new();
    let mut left = vec![root.to_owned()];
    while let Some(path) = left.pop() {
        if path.is_dir() && !path.is_symlink() {
            // Directories may go while this looks at them.
            let entries = fs::read_dir(&path).into_iter().flatten();
            left.extend(entries.filter_map(|entry| Some(entry.ok()?.path())));
        }
        let is_record =
            path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("berth.db"));
        if !is_record {
            all.insert(path);
        }
    }
    all
}

/// What is wrong with an image, and the failure.
type Case = (&'static str, Image, Option<Reply>, String);

fn cases() -> Vec<Case> {
    let image = Image::new(DOCKER, &[b"one", b"two"]);
    let digest = Digest::of(&image.blobs[1]);
    let size = image.blobs[1].len();
    let other = gzip(&tar(b"six"));
    let many: Vec<_> = (0..10_000).map(|_| image.blobs[0].clone()).collect();
    let many_diffs: Vec<_> = (0..10_000).map(|_| Digest::of(&tar(b"one"))).collect();
    let many_config = json!({
        "os": "linux", "architecture": "amd64", "rootfs": { "type": "layers", "diff_ids": many_diffs },
    });
    let config_of = |diffs: serde_json::Value| {
        json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": diffs } })
            .to_string()
            .into_bytes()
    };
    let foreign = Image::of_parts(
        OCI,
        config_of(json!([Digest::of(b"not its tar")])),
        vec![image.blobs[0].clone()],
    );
    let garbage = Image::of_parts(
        OCI,
        config_of(json!([Digest::of(b"x")])),
        vec![gzip(&b"no tar at all".repeat(100))],
    );
    let wrong_config = image.with(|manifest| {
        manifest["config"]["digest"] = json!(Digest::of(&image.blobs[0]));
    });
    let config_digest = Digest::of(&image.blobs[0]);
    let short = image.with(|manifest| drop(manifest["layers"].as_array_mut().unwrap().pop()));
    let huge = image.with(|manifest| manifest["x"] = json!("x".repeat(5 << 20)));
    let windows = Image::of_parts(
        DOCKER,
        json!({ "os": "windows", "rootfs": { "type": "layers", "diff_ids": [] } })
            .to_string()
            .into_bytes(),
        Vec::new(),
    );
    let sizes = |got: usize| format!("blob {digest} has {got} bytes, and its manifest says {size}");
    #[rustfmt::skip]
    let cases = vec![
        ("another blob",      image.clone(), Some(Reply::new(200, vec![0; size])), format!("filesystem layer verification failed for digest {digest}")),
        ("a longer blob",     image.clone(), Some(Reply::new(200, vec![0; size + 9])), sizes(size + 9)),
        ("a shorter blob",    image.clone(), Some(Reply::new(200, vec![0; size - 9])), sizes(size - 9)),
        ("another tar",       image.clone(), Some(Reply::new(200, other)), String::new()),
        ("no blob",           image.clone(), Some(Reply::new(404, r#"{"errors":[{"code":"BLOB_UNKNOWN","message":"blob unknown"}]}"#)), "blob unknown: blob unknown".to_owned()),
        ("no access to it",   image.clone(), Some(Reply::new(403, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#)), "denied: no".to_owned()),
        ("a foreign layer",   foreign,       None, "layers from manifest don't match image configuration".to_owned()),
        ("no tar",            garbage,       None, String::new()),
        ("too few layers",    short,         None, "layers from manifest don't match image configuration".to_owned()),
        ("another config",    wrong_config,  None, format!("error pulling image configuration: image config verification failed for digest {config_digest}")),
        ("10,000 layers",     Image::of_parts(DOCKER, many_config.to_string().into_bytes(), many), None, "max depth exceeded".to_owned()),
        ("a huge manifest",   huge,          None, "the answer to a manifest has more than 4194304 bytes, which is more than is taken from a registry".to_owned()),
        ("another system",    windows,       None, "image operating system \"windows\" cannot be used on this platform".to_owned()),
    ];
    cases
}

#[test]
fn root_nothing_stays_of_what_a_registry_lied_about() {
    let Some(dirs) = Dirs::new("root_nothing_stays_of_what_a_registry_lied_about") else { return };
    drop(dirs.open().unwrap());
    let before = paths(&dirs.data_root());
    for (what, image, reply, failure) in cases() {
        let open = dirs.open().unwrap();
        let registry = Registry::new();
        registry.put("a", &image);
        let digest = image.blobs.last().map(|blob| Digest::of(blob).to_string());
        if let (Some(reply), Some(digest)) = (reply, digest) {
            registry
                .set_fault(move |request| request.path.ends_with(&digest).then(|| reply.clone()));
        }
        let told = pull(&open, &registry.name("a:1"));
        let said = told.failure.unwrap_or_else(|| panic!("{what} was taken"));
        assert!(failure.is_empty() || said == failure, "{what}: {said}");
        assert_eq!(open.images(), Vec::<String>::new(), "{what}");
        assert_eq!(settled(&dirs, &before), before, "{what}");
    }
}

/// A small blob that is a large file: it is as large as the disk allows, and gone again.
#[test]
fn root_a_bomb_ends_where_the_disk_does() {
    let test = "root_a_bomb_ends_where_the_disk_does";
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return;
    }
    let disk = match testkit::LoopFs::with("ext4", &["-m", "0"], "loop") {
        Ok(disk) => disk,
        Err(need) => return testkit::skip(test, &format!("ext4 on a loop device: {need}")),
    };
    let dirs = Dirs::below(&disk.path());
    fill(&disk.path().join("filler"), 16 << 20);
    drop(dirs.open_on("vfs").unwrap());
    let before = paths(&dirs.data_root());
    let image = bomb(40);
    assert!(image.blobs[0].len() < 1 << 20);
    let registry = Registry::new();
    registry.put("bomb", &image);
    registry.put("small", &Image::new(DOCKER, &[b"small"]));
    let open = dirs.open_on("vfs").unwrap();
    let failure = pull(&open, &registry.name("bomb:1")).failure.unwrap();
    assert!(failure.starts_with("failed to register layer: "), "{failure}");
    assert!(failure.ends_with("no space left on device"), "{failure}");
    assert_eq!(settled(&dirs, &before), before);
    assert_eq!(pull(&open, &registry.name("small:1")).failure, None);
}

/// The paths once they are as before; what is deleted in the background takes its time.
fn settled(dirs: &Dirs, before: &BTreeSet<PathBuf>) -> BTreeSet<PathBuf> {
    for _ in 0..1000 {
        if paths(&dirs.data_root()) == *before {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(20));
    }
    paths(&dirs.data_root())
}

/// A layer with one file of so many MiB of zeros.
fn bomb(mib: usize) -> Image {
    let mut header = tar::Header::new_ustar();
    header.set_path("zeros").unwrap();
    header.set_mode(0o644);
    header.set_size((mib as u64) << 20);
    header.set_cksum();
    // Members of gzip may stand one after another, so one MiB is compressed once.
    let zeros = gzip(&vec![0; 1 << 20]).repeat(mib);
    let blob = [gzip(header.as_bytes()), zeros, gzip(&[0; 1024])].concat();
    let diffs = json!([Digest::of(b"never seen")]);
    let config = json!({ "os": "linux", "rootfs": { "type": "layers", "diff_ids": diffs } });
    Image::of_parts(DOCKER, config.to_string().into_bytes(), vec![blob])
}

/// Takes the space of a file system but for so many bytes.
fn fill(file: &Path, but: u64) {
    let file = fs::File::create(file).unwrap();
    let free = rustix::fs::fstatvfs(&file).unwrap();
    let taken = (free.f_bavail * free.f_frsize).checked_sub(but).unwrap();
    rustix::fs::fallocate(&file, rustix::fs::FallocateFlags::empty(), 0, taken).unwrap();
}
