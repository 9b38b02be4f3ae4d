use std::os::unix::fs::MetadataExt as _;

use super::*;
use crate::testing::{Archive, listing, unpack};
use crate::unpack::WhiteoutStyle;

#[test]
fn a_copy_has_everything_of_its_original() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let archive = Archive::new()
        .dir("d", 0o1750)
        .file("d/f", "content")
        .hard_link("d/g", "d/f")
        .symlink("l", "../elsewhere")
        .hard_link("m", "l")
        .file("empty", "")
        .finish();
    unpack(&archive, from.path(), WhiteoutStyle::Plain).unwrap();
    let root = |dir: &tempfile::TempDir| Root::open(dir.path()).unwrap();
    assert_eq!(tree(&root(&from), &root(&to), Xattrs::All).unwrap(), 7);
    assert_eq!(listing(from.path()), listing(to.path()));
    for name in ["", "d", "d/f", "d/g", "l", "empty"] {
        let stat = |dir: &tempfile::TempDir| {
            let stat = std::fs::symlink_metadata(dir.path().join(name)).unwrap();
            (stat.mode(), stat.uid(), stat.gid(), stat.mtime(), stat.mtime_nsec(), stat.size())
        };
        let (before, after) = (stat(&from), stat(&to));
        assert_eq!(
            (before.0, before.1, before.2, before.3, before.4),
            (after.0, after.1, after.2, after.3, after.4),
            "{name}"
        );
    }
    let inode = |name: &str| std::fs::symlink_metadata(to.path().join(name)).unwrap().ino();
    assert_eq!(inode("d/f"), inode("d/g"));
    assert_eq!(inode("l"), inode("m"));
    assert!(crate::changes::between(Some(&root(&from)), &root(&to)).unwrap().is_empty());
    let again = tree(&root(&from), &root(&to), Xattrs::All).unwrap_err();
    assert_eq!(again.to_string(), "cannot create /d");
}

#[test]
fn a_tree_of_links_shares_all_but_its_directories() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    let archive = Archive::new()
        .dir("d", 0o1750)
        .file("d/f", "content")
        .hard_link("d/g", "d/f")
        .symlink("l", "../elsewhere")
        .finish();
    unpack(&archive, from.path(), WhiteoutStyle::Plain).unwrap();
    let root = |dir: &tempfile::TempDir| Root::open(dir.path()).unwrap();
    links(&root(&from), &root(&to)).unwrap();
    assert_eq!(listing(from.path()), listing(to.path()));
    let inode = |dir: &tempfile::TempDir, name: &str| {
        std::fs::symlink_metadata(dir.path().join(name)).unwrap().ino()
    };
    for name in ["d/f", "d/g", "l"] {
        assert_eq!(inode(&from, name), inode(&to, name), "{name}");
    }
    assert_ne!(inode(&from, "d"), inode(&to, "d"));
    let layer = Archive::new().file("d/f", "new").finish();
    unpack(&layer, to.path(), WhiteoutStyle::Apply).unwrap();
    assert_eq!(std::fs::read_to_string(from.path().join("d/f")).unwrap(), "content");
    assert_eq!(std::fs::read_to_string(to.path().join("d/g")).unwrap(), "content");
}

#[test]
fn a_mirror_keeps_links_between_trees_and_sockets() {
    let from = tempfile::tempdir().unwrap();
    let to = tempfile::tempdir().unwrap();
    for name in ["one", "two"] {
        std::fs::create_dir(from.path().join(name)).unwrap();
        std::fs::create_dir(to.path().join(name)).unwrap();
    }
    std::fs::File::create(from.path().join("one/f")).unwrap();
    std::fs::hard_link(from.path().join("one/f"), from.path().join("two/g")).unwrap();
    drop(std::os::unix::net::UnixListener::bind(from.path().join("two/s")).unwrap());
    let target = Root::open(to.path()).unwrap();
    let mut mirror = Mirror::new(&target);
    for name in ["one", "two"] {
        let tree = Root::open(&from.path().join(name)).unwrap();
        mirror.tree(&tree, Path::new(name)).unwrap();
    }
    assert_eq!(listing(from.path()), listing(to.path()));
    let stat = |name: &str| std::fs::symlink_metadata(to.path().join(name)).unwrap();
    assert_eq!(stat("one/f").ino(), stat("two/g").ino());
    let is_socket = FileType::from_raw_mode(stat("two/s").mode()) == FileType::Socket;
    assert!(is_socket);
}

#[test]
fn root_a_mirror_leaves_out_what_is_mounted_and_keeps_what_hides() {
    if !testkit::is_root() {
        testkit::skip("root_a_mirror_leaves_out_what_is_mounted_and_keeps_what_hides", "root");
        return;
    }
    let from = tempfile::tempdir_in("/var/tmp").unwrap();
    let to = tempfile::tempdir_in("/var/tmp").unwrap();
    let outside = tempfile::tempdir_in("/var/tmp").unwrap();
    std::fs::File::create(outside.path().join("outside")).unwrap();
    for name in ["mounted", "opaque"] {
        std::fs::create_dir(from.path().join(name)).unwrap();
    }
    let whiteout = from.path().join("gone");
    let mode = Mode::from_raw_mode(0);
    rustix::fs::mknodat(rustix::fs::CWD, &whiteout, FileType::CharacterDevice, mode, 0).unwrap();
    let opaque = std::fs::File::open(from.path().join("opaque")).unwrap();
    for (name, value) in [(OPAQUE, "y"), ("trusted.overlay.origin", "x"), ("user.own", "z")] {
        rustix::fs::fsetxattr(&opaque, name, value.as_bytes(), XattrFlags::empty()).unwrap();
    }
    let mirrored = berth_sys::mountns::within_private(|| {
        let (source, target) = (outside.path(), from.path().join("mounted"));
        rustix::mount::mount_bind(source, target).unwrap();
        let (source, target) = (Root::open(from.path()).unwrap(), Root::open(to.path()).unwrap());
        Mirror::new(&target).tree(&source, Path::new("."))
    });
    mirrored.unwrap().unwrap();
    assert_eq!(std::fs::read_dir(to.path().join("mounted")).unwrap().count(), 0);
    let gone = std::fs::symlink_metadata(to.path().join("gone")).unwrap();
    assert_eq!((gone.rdev(), FileType::from_raw_mode(gone.mode())), (0, FileType::CharacterDevice));
    let opaque = std::fs::File::open(to.path().join("opaque")).unwrap();
    let has = |name: &str| xattr(opaque.as_fd(), name).unwrap().is_some();
    assert_eq!([OPAQUE, "trusted.overlay.origin", "user.own"].map(has), [true, false, true]);
}
