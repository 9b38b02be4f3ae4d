use std::path::Path;
use std::process::Command;

use berth_types::IdMap;

use super::*;
use crate::changes::{between, of_upper};
use crate::marks::{Marks, OPAQUE};
use crate::tar::Reader;
use crate::testing::{Archive, listing, unpack};
use crate::unpack::WhiteoutStyle;

/// One line for each entry: name, type, mode, size, seconds, link.
fn entries(tar: &[u8]) -> Vec<String> {
    let mut reader = Reader::new(tar);
    let mut lines = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        let name = entry.name();
        let link = String::from_utf8_lossy(&entry.link).into_owned();
        lines.push(
            format!("{name} {:?} {:o} {} {link}", entry.kind, entry.mode, entry.size)
                .trim_end()
                .to_owned(),
        );
    }
    lines
}

#[test]
fn a_tree_is_packed_sorted_with_its_hard_links() {
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::new()
        .dir("b", 0o700)
        .file("b/two", "22")
        .file("a", "1")
        .hard_link("c", "a")
        .symlink("b/link", "/a")
        .file(".wh.odd", "x")
        .finish();
    unpack(&archive, dir.path(), WhiteoutStyle::Plain).unwrap();
    drop(std::os::unix::net::UnixListener::bind(dir.path().join("socket")).unwrap());
    let root = Root::open(dir.path()).unwrap();
    let mut out = Vec::new();
    let packed = tree(&root, &IdMaps::default(), &mut out).unwrap();
    assert_eq!(packed, Packed { entries: 6, content: 4, skipped: 1 });
    let expected = [
        ".wh.odd File 644 1",
        "a File 644 1",
        "b/ Directory 700 0",
        "b/link Symlink 777 0 /a",
        "b/two File 644 2",
        "c HardLink 644 0 a",
    ];
    assert_eq!(entries(&out), expected);
    let mut again = Vec::new();
    tree(&root, &IdMaps::default(), &mut again).unwrap();
    assert!(out == again);

    let ids = IdMaps::default();
    let plain = Attributes { ids: &ids, mode: None };
    let mut part = Vec::new();
    rebased(&root, Path::new("/b"), Path::new("new"), plain, &mut part).unwrap();
    let expected = ["new/ Directory 700 0", "new/link Symlink 777 0 /a", "new/two File 644 2"];
    assert_eq!(entries(&part), expected);
    let mut part = Vec::new();
    rebased(&root, Path::new("/b/."), Path::new("."), plain, &mut part).unwrap();
    assert_eq!(entries(&part)[0], "./ Directory 700 0");
    let mut part = Vec::new();
    rebased(&root, Path::new("b/two"), Path::new("x"), plain, &mut part).unwrap();
    assert_eq!(entries(&part), ["x File 644 2"]);
    let mut part = Vec::new();
    let changed = Attributes { mode: Some(0o4750), ..plain };
    rebased(&root, Path::new("/b"), Path::new("n"), changed, &mut part).unwrap();
    let expected = ["n/ Directory 4750 0", "n/link Symlink 777 0 /a", "n/two File 4750 2"];
    assert_eq!(entries(&part), expected);
}

#[test]
fn root_marks_that_fuse_overlayfs_leaves_are_no_files_of_the_layer() {
    if !rustix::process::geteuid().is_root() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let archive = Archive::new().dir("d", 0o755).file("d/n", "new").file("d/.wh..wh..opq", "");
    unpack(&archive.finish(), dir.path(), WhiteoutStyle::Plain).unwrap();
    let device = rustix::fs::FileType::CharacterDevice;
    let mark = dir.path().join("d/.wh..opq");
    rustix::fs::mknodat(rustix::fs::CWD, mark, device, Mode::from_raw_mode(0o700), 0).unwrap();
    let opaque = rustix::fs::XattrFlags::empty();
    rustix::fs::setxattr(dir.path().join("d"), OPAQUE, b"y", opaque).unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut out = Vec::new();
    upper_dir(&root, Marks::Overlay, &IdMaps::default(), &mut out).unwrap();
    let expected = ["d/ Directory 755 0", "d/.wh..wh..opq File 755 0", "d/n File 644 3"];
    assert_eq!(entries(&out), expected);
    let changes = of_upper(&root, &[], Marks::Overlay).unwrap();
    let changes: Vec<_> = changes.iter().map(|change| change.path.display().to_string()).collect();
    assert_eq!(changes, ["/d", "/d/n"]);
}

/// An overlay, unmounted at the end.
struct Overlay(tempfile::TempDir);

impl Overlay {
    fn mount() -> Self {
        let dir = tempfile::tempdir().unwrap();
        for name in ["lower", "upper", "work", "merged"] {
            std::fs::create_dir(dir.path().join(name)).unwrap();
        }
        let lower = Archive::new()
            .dir("d", 0o755)
            .file("d/f", "old")
            .file("g", "old")
            .dir("same", 0o755)
            .file("same/x", "old")
            .dir("e", 0o755)
            .file("e/y", "old")
            .finish();
        unpack(&lower, &dir.path().join("lower"), WhiteoutStyle::Mark(Marks::Overlay)).unwrap();
        let option = |name: &str, path: &str| format!("{name}={}", dir.path().join(path).display());
        let request = berth_sys::mount::MountRequest {
            fs_type: "overlay",
            source: Path::new("overlay"),
            target: &dir.path().join("merged"),
            work_dir: None,
            options: &[
                option("lowerdir", "lower"),
                option("upperdir", "upper"),
                option("workdir", "work"),
            ],
        };
        berth_sys::mount::mount(&request).unwrap();
        Self(dir)
    }

    fn root(&self, name: &str) -> Root {
        Root::open(&self.0.path().join(name)).unwrap()
    }
}

impl Drop for Overlay {
    fn drop(&mut self) {
        let merged = self.0.path().join("merged");
        berth_sys::mount::unmount(&merged, berth_sys::mount::Unmount::Lazy).unwrap();
    }
}

#[test]
fn root_an_upper_directory_becomes_the_layer_that_docker_makes() {
    if !testkit::is_root() {
        return testkit::skip(
            "root_an_upper_directory_becomes_the_layer_that_docker_makes",
            "root",
        );
    }
    let overlay = Overlay::mount();
    let script = "rm g; rm -r d; mkdir d; echo n >d/n; chmod 700 same; rm e/y; mkdir -p new/sub";
    let merged = overlay.0.path().join("merged");
    let status = Command::new("sh").args(["-ec", script]).current_dir(&merged).status().unwrap();
    assert!(status.success());

    let upper = overlay.root("upper");
    let mut layer = Vec::new();
    upper_dir(&upper, Marks::Overlay, &IdMaps::default(), &mut layer).unwrap();
    let expected = [
        "d/ Directory 755 0",
        "d/.wh..wh..opq File 755 0",
        "d/n File 644 2",
        "e/ Directory 755 0",
        "e/.wh.y File 600 0",
        ".wh.g File 600 0",
        "new/ Directory 755 0",
        "new/sub/ Directory 755 0",
        "same/ Directory 700 0",
    ];
    assert_eq!(entries(&layer), expected);

    let found = of_upper(&upper, &[overlay.root("lower")], Marks::Overlay).unwrap();
    let lines: Vec<String> =
        found.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect();
    let expected = [
        "Modified /d",
        "Added /d/n",
        "Deleted /d/f",
        "Modified /e",
        "Deleted /e/y",
        "Added /new",
        "Added /new/sub",
        "Modified /same",
        "Deleted /g",
    ];
    assert_eq!(lines, expected);
    assert_eq!(
        between(Some((&overlay.root("lower")).into()), &overlay.root("merged")).unwrap(),
        found
    );
    assert_eq!(crate::changes::tree_size(&upper).unwrap(), 2);
    assert_eq!(crate::changes::changed_size(&overlay.root("merged"), &found).unwrap(), 2);

    // Either way of making the layer gives the same tree on top of the image.
    let mut naive = Vec::new();
    changes(&overlay.root("merged"), &found, &IdMaps::default(), &mut naive).unwrap();
    for layer in [layer, naive] {
        let copy = tempfile::tempdir().unwrap();
        let target = Root::open(copy.path()).unwrap();
        crate::copy::tree(&overlay.root("lower"), &target, crate::copy::Xattrs::All).unwrap();
        unpack(&layer, copy.path(), WhiteoutStyle::Apply).unwrap();
        assert_eq!(listing(copy.path()), listing(&merged));
    }
    let again = tempfile::tempdir().unwrap();
    let mut layer = Vec::new();
    upper_dir(&upper, Marks::Overlay, &IdMaps::default(), &mut layer).unwrap();
    unpack(&layer, again.path(), WhiteoutStyle::Mark(Marks::Overlay)).unwrap();
    assert_eq!(listing(again.path()), listing(&overlay.0.path().join("upper")));
}

/// A layer's directory of changes as aufs leaves it, and what is below it.
#[test]
fn a_directory_of_changes_of_aufs_becomes_a_layer_and_a_list() {
    let plain = |archive: Archive| {
        let dir = tempfile::tempdir().unwrap();
        unpack(&archive.finish(), dir.path(), WhiteoutStyle::Plain).unwrap();
        dir
    };
    let far = plain(
        Archive::new()
            .file("d/f", "old")
            .file("e/x", "")
            .file("e/y", "")
            .file("g", "old")
            .file("hidden/z", "")
            .file("mixed/far", ""),
    );
    let near = plain(Archive::new().file(".wh.hidden", "").file("mixed", "").file("near", ""));
    let own = plain(
        Archive::new()
            .file(".wh..wh.aufs", "")
            .dir(".wh..wh.orph", 0o700)
            .file(".wh..wh.plnk/7.1", "linked")
            .file(".wh.g", "")
            .file(".wh.hidden", "")
            .file(".wh.near", "")
            .file("d/.wh..wh..opq", "")
            .file("d/n", "n\n")
            .file("e/.wh.y", "")
            .dir("mixed", 0o755)
            .dir("new", 0o755),
    );
    let root = |dir: &tempfile::TempDir| Root::open(dir.path()).unwrap();
    let mut layer = Vec::new();
    upper_dir(&root(&own), Marks::Aufs, &IdMaps::default(), &mut layer).unwrap();
    let expected = [
        "d/ Directory 755 0",
        "d/.wh..wh..opq File 755 0",
        "d/n File 644 2",
        "e/ Directory 755 0",
        "e/.wh.y File 600 0",
        ".wh.g File 600 0",
        ".wh.hidden File 600 0",
        "mixed/ Directory 755 0",
        ".wh.near File 600 0",
        "new/ Directory 755 0",
    ];
    assert_eq!(entries(&layer), expected);

    let found = of_upper(&root(&own), &[root(&near), root(&far)], Marks::Aufs).unwrap();
    let lines: Vec<String> =
        found.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect();
    let expected = [
        "Modified /d",
        "Added /d/n",
        "Deleted /d/f",
        "Modified /e",
        "Deleted /e/y",
        "Modified /mixed",
        "Added /new",
        "Deleted /g",
        "Deleted /near",
    ];
    assert_eq!(lines, expected);

    let again = tempfile::tempdir().unwrap();
    unpack(&layer, again.path(), WhiteoutStyle::Mark(Marks::Aufs)).unwrap();
    let listed: String = listing(own.path())
        .lines()
        .filter(|line| !line.starts_with(".wh..wh."))
        .flat_map(|line| [line, "\n"])
        .collect();
    assert_eq!(listing(again.path()), listed);
}

/// `id -u` of the files of `dir`, by name.
fn owners(dir: &Path) -> Vec<(String, u32, u32)> {
    use std::os::unix::fs::MetadataExt as _;
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        found.push((entry.file_name().into_string().unwrap(), meta.uid(), meta.gid()));
    }
    found.sort();
    found
}

#[test]
fn root_owners_are_remapped_on_the_way_in_and_back_on_the_way_out() {
    if !testkit::is_root() {
        let name = "root_owners_are_remapped_on_the_way_in_and_back_on_the_way_out";
        return testkit::skip(name, "root");
    }
    let ids = |host| IdMap::from_subordinate(&[(host, 1000)]);
    let ids = IdMaps { uids: ids(100_000), gids: ids(200_000) };
    let archive = Archive::new()
        .owned("f", "root", (0, 7))
        .symlink("link", "f")
        .owned("implied/x", "y", (999, 999))
        .finish();
    let dir = tempfile::tempdir().unwrap();
    let root = Root::open(dir.path()).unwrap();
    let mut options = crate::unpack::UnpackOptions::layer(WhiteoutStyle::Plain, "/dest");
    options.ids = ids.clone();
    crate::unpack::unpack(&archive[..], root.fd(), &options).unwrap();
    let owner = |name: &str, uid, gid| (name.to_owned(), uid, gid);
    assert_eq!(
        owners(dir.path()),
        [
            owner("f", 100_000, 200_007),
            owner("implied", 100_000, 200_000),
            owner("link", 100_000, 200_000)
        ]
    );
    // What nobody in the container owns is shown as the kernel shows it.
    std::fs::File::create(dir.path().join("stray")).unwrap();
    let mut out = Vec::new();
    tree(&root, &ids, &mut out).unwrap();
    let mut reader = Reader::new(&out[..]);
    let mut found = Vec::new();
    while let Some(entry) = reader.next_entry().unwrap() {
        found.push((entry.name(), entry.uid, entry.gid));
    }
    let entry = |name: &str, uid, gid| (name.to_owned(), uid, gid);
    assert_eq!(
        found,
        [
            entry("f", 0, 7),
            entry("implied/", 0, 0),
            entry("implied/x", 999, 999),
            entry("link", 0, 0),
            entry("stray", 65534, 65534)
        ]
    );
    let archive = Archive::new().owned("g", "", (1000, 0)).finish();
    let refused = crate::unpack::unpack(&archive[..], root.fd(), &options).unwrap_err();
    assert_eq!(refused.to_string(), "Container ID 1000 cannot be mapped to a host ID");
    assert!(!dir.path().join("g").try_exists().unwrap());
}
