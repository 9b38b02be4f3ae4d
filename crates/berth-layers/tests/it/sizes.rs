//! Sizes follow Docker's rule. The figures are those of dockerd 20.10 for the same trees.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;

use berth_layers::Reach;
use rustix::fs::{CWD, FileType, Mode, mknodat};

use crate::fixture::{Root, container, load, mount, on_each_driver};

/// The lengths of all but directories, each inode once: written without a look at how the store does it.
fn walk(dir: &Path, seen: &mut BTreeSet<(u64, u64)>) -> u64 {
    let mut total = 0;
    for entry in fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        let meta = fs::symlink_metadata(&path).unwrap();
        if meta.is_dir() {
            total += walk(&path, seen);
        } else if seen.insert((meta.dev(), meta.ino())) {
            total += meta.len();
        }
    }
    total
}

fn put(path: &Path, content: &str) {
    File::create(path).unwrap().write_all(content.as_bytes()).unwrap();
}

/// `gone`, a directory `opaque` with a file, a file with two names, and a link.
fn image() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut add = |name: &str, kind: tar::EntryType, content: &str, link: &str| {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(if kind.is_dir() { 0o755 } else { 0o644 });
        header.set_mtime(1_700_000_000);
        header.set_size(content.len() as u64);
        if link.is_empty() {
            tar.append_data(&mut header, name, content.as_bytes()).unwrap();
        } else {
            tar.append_link(&mut header, name, link).unwrap();
        }
    };
    add("img", tar::EntryType::Directory, "", "");
    add("img/gone", tar::EntryType::Regular, "gonegone", "");
    add("img/opaque", tar::EntryType::Directory, "", "");
    add("img/opaque/in", tar::EntryType::Regular, "in", "");
    add("img/changed", tar::EntryType::Regular, "1234567890", "");
    add("img/hard", tar::EntryType::Link, "", "img/changed");
    add("img/link", tar::EntryType::Symlink, "", "changed");
    tar.into_inner().unwrap()
}

/// What a container does to it: every kind of file, and deletions.
fn change(root: &Path) {
    let at = |name: &str| root.join(name);
    fs::create_dir_all(at("t/d/e")).unwrap();
    put(&at("t/f5"), "12345");
    fs::hard_link(at("t/f5"), at("t/hard")).unwrap();
    symlink("f5", at("t/sym")).unwrap();
    symlink("/a/long/target/of/a/link", at("t/sym2")).unwrap();
    let mode = Mode::from_raw_mode(0o644);
    mknodat(CWD, at("t/fifo"), FileType::Fifo, mode, 0).unwrap();
    mknodat(CWD, at("t/dev"), FileType::CharacterDevice, mode, rustix::fs::makedev(1, 3)).unwrap();
    File::create(at("t/sparse")).unwrap().set_len(1 << 20).unwrap();
    for number in 1..10 {
        put(&at(&format!("t/d/small{number}")), "x");
    }
    fs::remove_file(at("img/gone")).unwrap();
    fs::remove_dir_all(at("img/opaque")).unwrap();
    fs::create_dir(at("img/opaque")).unwrap();
    put(&at("img/opaque/new"), "abc");
    let mut changed = File::options().append(true).open(at("img/changed")).unwrap();
    changed.write_all(b"Z").unwrap();
}

/// Dockerd's figures: of the image, of the container, and of the image made of it.
fn dockerd(root: &Root) -> [u64; 3] {
    // Where layers are directories of changes, links count in images as well; elsewhere the archive's
    // headers say how large an image layer is.
    if root.is_concurrent() { [27, 1_048_630, 1_048_630] } else { [20, 1_048_630, 1_048_604] }
}

#[test]
fn root_sizes_are_dockers_for_every_kind_of_file() {
    on_each_driver("root_sizes_are_dockers_for_every_kind_of_file", |root| {
        let open = root.open();
        let store = &open.store;
        let top = load(&open, &[image()], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let [of_image, of_container, of_commit] = dockerd(root);
        assert_eq!(store.get(&top).unwrap().unwrap().size, of_image, "{}", root.driver_name());
        assert_eq!(store.measure_rw(&id, Reach::AtRest).unwrap(), 0, "{}", root.driver_name());
        {
            let mounted = mount(store, &id);
            change(mounted.root());
        }
        let measured = store.measure_rw(&id, Reach::AtRest).unwrap();
        assert_eq!(measured, of_container, "{}", root.driver_name());
        if let Some(native) = store.driver().native() {
            let own = native.diff_dir(&store.rw(&id).unwrap().unwrap().mount);
            assert_eq!(walk(&own, &mut BTreeSet::new()), measured, "{}", root.driver_name());
        }
        let (ingest, applied) = store.commit_rw("commit", &id, Reach::AtRest).unwrap();
        assert_eq!(applied.size, of_commit, "{}", root.driver_name());
        drop(ingest);
    });
}
