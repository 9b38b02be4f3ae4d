use std::collections::BTreeSet;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use rustix::fs::{FileType, Mode, XattrFlags};

use super::*;
use crate::changes::xattr;
use crate::marks::OPAQUE;
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
    assert!(crate::changes::between(Some((&root(&from)).into()), &root(&to)).unwrap().is_empty());
    std::fs::remove_file(to.path().join("l")).unwrap();
    std::fs::remove_file(to.path().join("m")).unwrap();
    std::fs::remove_dir_all(to.path().join("d")).unwrap();
    let again = tree(&root(&from), &root(&to), Xattrs::All).unwrap_err();
    assert_eq!(again.to_string(), "cannot create /empty");
}

/// What several threads could get wrong: names in a tree, by the file that they are names of, with
/// what each says of itself.
fn names_by_file(top: &Path) -> BTreeSet<(Vec<PathBuf>, (u32, i64, u64))> {
    fn walk(dir: &Path, top: &Path, found: &mut Vec<(u64, PathBuf, (u32, i64, u64))>) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            let meta = std::fs::symlink_metadata(&path).unwrap();
            let size = if meta.is_dir() { 0 } else { meta.len() };
            let name = path.strip_prefix(top).unwrap().to_owned();
            found.push((meta.ino(), name, (meta.mode(), meta.mtime_nsec(), size)));
            if meta.is_dir() {
                walk(&path, top, found);
            }
        }
    }
    let mut found = Vec::new();
    walk(top, top, &mut found);
    found.sort();
    let groups = found.chunk_by(|one, other| one.0 == other.0);
    let names = |group: &[(_, PathBuf, _)]| group.iter().map(|(_, name, _)| name.clone()).collect();
    groups.map(|group| (names(group), group[0].2)).collect()
}

#[test]
fn many_directories_and_links_between_them_are_copied_whole() {
    let from = tempfile::tempdir_in("/var/tmp").unwrap();
    let at = |name: String| from.path().join(name);
    for dir in 0..20 {
        std::fs::create_dir_all(at(format!("{dir}/in/ner"))).unwrap();
        std::fs::create_dir(at(format!("{dir}/empty"))).unwrap();
        for number in 0..40_u32 {
            let name = at(format!("{dir}/in/{number}"));
            if dir > 0 && number % 2 == 0 {
                std::fs::hard_link(at(format!("0/in/{number}")), &name).unwrap();
                continue;
            }
            let file = std::fs::File::create(&name).unwrap();
            file.set_len(number.into()).unwrap();
            let mode = 0o400 + number + (number % 8) * 0o1000;
            file.set_permissions(std::fs::Permissions::from_mode(mode)).unwrap();
        }
    }
    std::fs::create_dir(at("large".to_owned())).unwrap();
    for number in 0..PARTS {
        std::fs::create_dir(at(format!("large/{number}"))).unwrap();
        std::fs::File::create(at(format!("large/{number}-file"))).unwrap();
    }
    for copy in [tree, |from: &Root, to: &Root, _| links(from, to).map(|()| 0)] {
        let to = tempfile::tempdir_in("/var/tmp").unwrap();
        let root = |dir: &tempfile::TempDir| Root::open(dir.path()).unwrap();
        copy(&root(&from), &root(&to), Xattrs::All).unwrap();
        assert_eq!(names_by_file(from.path()), names_by_file(to.path()));
        assert_eq!(root_time(from.path()), root_time(to.path()));
    }
}

/// Names that are more than one part of a directory.
const PARTS: usize = 400;

fn root_time(path: &Path) -> i64 {
    std::fs::metadata(path).unwrap().mtime_nsec()
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
