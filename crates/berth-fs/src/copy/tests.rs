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
