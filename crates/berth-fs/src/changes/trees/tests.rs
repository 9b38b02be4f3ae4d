//! Random trees, changed at random, beside a comparison that is too simple to be wrong.

use std::collections::BTreeSet;
use std::fs::{self, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{
    MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _, lchown, symlink,
};
use std::path::{Path, PathBuf};

use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use rustix::fs::{AtFlags, CWD, FileType, Mode, OFlags, Timespec, Timestamps};

use berth_sys::btrfs;

use super::{Base, CAPABILITY, Change, ChangeKind, Known, between};
use crate::copy::{self, Xattrs};
use crate::root::{MAX_DEPTH, Root};

/// Something done to a tree: what, where, and a number to do it with.
type Step = (u8, u8, u8);

const STEPS: u8 = 15;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    proptest::collection::vec((0..STEPS, 0..64_u8, 0..6_u8), 0..60)
}

/// One of a few names, at most three directories deep, so that steps meet.
fn place(tree: &Path, number: u8) -> PathBuf {
    let depth = usize::from(number % 3) + 1;
    let letters =
        [number / 16, number / 4 % 4, number % 4].map(|at| ["a", "b", "c", "d"][at as usize]);
    tree.join(letters[..depth].iter().collect::<PathBuf>())
}

fn try_step(tree: &Path, other: Option<&Path>, (what, at, with): Step) -> io::Result<()> {
    let path = place(tree, at);
    let special = |kind, device| Ok(rustix::fs::mknodat(CWD, &path, kind, Mode::RUSR, device)?);
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent)?;
    }
    match what {
        0 => {
            // A pipe that nobody reads is no reason to wait.
            let nonblock = OFlags::NONBLOCK.bits().cast_signed();
            let mut options = fs::OpenOptions::new();
            options.write(true).create(true).truncate(true).custom_flags(nonblock);
            let mut file = options.open(&path)?;
            io::Write::write_all(&mut file, &[b'a' + at % 4; 6][..usize::from(with)])
        }
        1 => fs::create_dir(&path),
        2 if path.is_dir() && !path.is_symlink() => fs::remove_dir_all(&path),
        2 => fs::remove_file(&path),
        3 => symlink(["a", "b/c"][usize::from(with) % 2], &path),
        4 => special(FileType::Fifo, 0),
        5 => special(FileType::Socket, 0),
        6 => fs::set_permissions(&path, Permissions::from_mode(0o700 | u32::from(with))),
        7 => {
            let time = Timespec { tv_sec: 5 + i64::from(with) / 4, tv_nsec: i64::from(with) % 4 };
            let times = Timestamps { last_access: time, last_modification: time };
            Ok(rustix::fs::utimensat(CWD, &path, &times, AtFlags::SYMLINK_NOFOLLOW)?)
        }
        8 => fs::hard_link(place(tree, at.wrapping_mul(5).wrapping_add(with) % 64), &path),
        9 => match other {
            // The same inode on both sides.
            Some(other) => {
                fs::remove_file(&path)?;
                fs::hard_link(place(other, at), &path)
            }
            None => Ok(()),
        },
        10 => special(FileType::CharacterDevice, rustix::fs::makedev(1, 3 + u32::from(with) % 2)),
        11 => {
            let mut value = [0; 20];
            value[3] = 2;
            value[4] = 1 << (with % 3);
            Ok(rustix::fs::lsetxattr(&path, CAPABILITY, &value, rustix::fs::XattrFlags::empty())?)
        }
        12 => fs::rename(place(tree, at.wrapping_mul(7).wrapping_add(with) % 64), &path),
        13 => fs::OpenOptions::new()
            .append(true)
            .custom_flags(OFlags::NONBLOCK.bits().cast_signed())
            .open(&path)
            .and_then(|mut file| io::Write::write_all(&mut file, b"more")),
        _ => lchown(&path, Some(u32::from(with)), None),
    }
}

fn run(tree: &Path, other: Option<&Path>, steps: &[Step]) {
    for &step in steps {
        // Many are impossible where the tree stands: those change nothing.
        if let Err(error) = try_step(tree, other, step) {
            assert!(error.raw_os_error().is_some() || step.0 == 8, "{step:?}: {error}");
        }
    }
}

fn children(dir: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(dir).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into()).collect()
}

fn capability(path: &Path) -> Option<Vec<u8>> {
    let mut value = [0; 64];
    rustix::fs::lgetxattr(path, CAPABILITY, &mut value[..]).ok().map(|size| value[..size].to_vec())
}

fn look(path: &Path) -> Metadata {
    fs::symlink_metadata(path).unwrap()
}

/// What a regular file or a link has in it.
fn content(path: &Path) -> Option<Vec<u8>> {
    let kind = look(path).file_type();
    if kind.is_symlink() {
        return Some(fs::read_link(path).unwrap().into_os_string().into_encoded_bytes());
    }
    kind.is_file().then(|| fs::read(path).unwrap())
}

fn is_changed(old: &Path, new: &Path) -> bool {
    let facts = |path: &Path| {
        let it = look(path);
        let dated = (!it.is_dir()).then(|| (it.size(), it.mtime()));
        (it.mode(), it.uid(), it.gid(), it.rdev(), dated, capability(path))
    };
    if facts(old) != facts(new) {
        return true;
    }
    let [before, after] = [old, new].map(|path| look(path).mtime_nsec());
    if look(new).is_dir() || before == after {
        return false;
    }
    before != 0 && after != 0 || content(old) != content(new)
}

/// Docker's comparison, as one would write it down: `at` is where the trees were entered.
fn slow(old: Option<&Path>, new: &Path, at: &Path, list: &mut Vec<Change>) {
    let before = old.map(children).unwrap_or_default();
    let after = children(new);
    for name in &after {
        let (below, path) = (new.join(name), at.join(name));
        let older = old.filter(|_| before.contains(name)).map(|old| old.join(name));
        let inode = |path: &Path| (look(path).dev(), look(path).ino());
        if older.as_ref().is_some_and(|older| inode(older) == inode(&below)) {
            continue;
        }
        let kind = match &older {
            None => Some(ChangeKind::Added),
            Some(older) => is_changed(older, &below).then_some(ChangeKind::Modified),
        };
        let mut inside = Vec::new();
        if look(&below).is_dir() {
            let older = older.filter(|older| look(older).is_dir());
            slow(older.as_deref(), &below, &path, &mut inside);
        }
        let kind = kind.or((!inside.is_empty()).then_some(ChangeKind::Modified));
        list.extend(kind.map(|kind| Change { path, kind }));
        list.extend(inside);
    }
    for name in before.difference(&after) {
        list.push(Change { path: at.join(name), kind: ChangeKind::Deleted });
    }
}

fn has_capabilities(tree: &Path) -> bool {
    children(tree).iter().map(|name| tree.join(name)).any(|path| {
        rustix::fs::lgetxattr(&path, CAPABILITY, &mut [0; 64][..]).is_ok()
            || look(&path).is_dir() && has_capabilities(&path)
    })
}

fn check(old: &Path, new: &Path) {
    let roots = [old, new].map(|path| Root::open(path).unwrap());
    let mut expected = Vec::new();
    slow(Some(old), new, Path::new("/"), &mut expected);
    let base = Base::from(&roots[0]);
    assert_eq!(between(Some(base), &roots[1]).unwrap(), expected);
    if !has_capabilities(old) {
        let base = Base { capabilities: false, ..base };
        assert_eq!(between(Some(base), &roots[1]).unwrap(), expected);
    }
    let mut everything = Vec::new();
    slow(None, new, Path::new("/"), &mut everything);
    assert_eq!(between(None, &roots[1]).unwrap(), everything);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(32))]

    /// As root, devices, owners and capabilities are among the steps that succeed.
    #[test]
    fn trees_changed_at_random_compare_as_in_a_simple_walk(base in steps(), later in steps()) {
        let dir = tempfile::tempdir_in("/var/tmp").unwrap();
        let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
        for path in [&old, &new] {
            fs::create_dir(path).unwrap();
        }
        run(&old, None, &base);
        let roots = [&old, &new].map(|path| Root::open(path).unwrap());
        copy::tree(&roots[0], &roots[1], Xattrs::All).unwrap();
        check(&old, &new);
        run(&new, Some(&old), &later);
        check(&old, &new);
    }
}

/// A frozen subvolume that `base` was done to, and a snapshot of it.
fn snapshot(top: &Path, base: &[Step]) -> [PathBuf; 2] {
    let [old, new] = ["old", "new"].map(|name| top.join(name));
    let dir = fs::File::open(top).unwrap();
    for path in [&new, &old] {
        if fs::symlink_metadata(path).is_ok() {
            btrfs::destroy_subvolume(&dir, path.file_name().unwrap()).unwrap();
        }
    }
    btrfs::create_subvolume(&dir, "old".as_ref()).unwrap();
    run(&old, None, base);
    let frozen = fs::File::open(&old).unwrap();
    btrfs::set_read_only(&frozen, true).unwrap();
    btrfs::snapshot(&frozen, &dir, "new".as_ref()).unwrap();
    [old, new]
}

fn known(old: &Path, new: &Path) -> Option<Known> {
    Known::find(fs::File::open(old).unwrap(), fs::File::open(new).unwrap())
}

#[test]
fn root_snapshots_changed_at_random_compare_as_in_a_simple_walk() {
    let test = "root_snapshots_changed_at_random_compare_as_in_a_simple_walk";
    let Some(fs) = testkit::LoopFs::or_skip(test, "btrfs") else { return };
    let mut runner = TestRunner::new(ProptestConfig::with_cases(48));
    let random = (steps(), steps());
    let done = runner.run(&random, |(base, later)| {
        let [old, new] = snapshot(&fs.path(), &base);
        check(&old, &new);
        run(&new, None, &later);
        assert!(known(&old, &new).is_some());
        check(&old, &new);
        Ok(())
    });
    done.unwrap();
}

#[test]
fn root_numbers_that_mean_nothing_are_not_relied_on() {
    let test = "root_numbers_that_mean_nothing_are_not_relied_on";
    let Some(fs) = testkit::LoopFs::or_skip(test, "btrfs") else { return };
    let top = fs.path();
    let base: Vec<Step> = (0..64).filter(|at| at % 3 > 0).map(|at| (0, at, 3)).collect();
    let [old, new] = snapshot(&top, &base);
    assert!(known(&old, &new).is_some());
    // Not the tops, not a snapshot, one of something else, one of what was changed later.
    assert!(known(&old.join("a"), &new.join("a")).is_none());
    assert!(known(&new, &old).is_none());
    assert!(known(&old, &top).is_none());
    let writable = fs::File::open(&old).unwrap();
    btrfs::set_read_only(&writable, false).unwrap();
    assert!(known(&old, &new).is_none());
    fs::File::create(old.join("later")).unwrap();
    berth_sys::fsinfo::sync_fs_of(&top).unwrap();
    btrfs::set_read_only(&writable, true).unwrap();
    assert!(known(&old, &new).is_none());
    check(&old, &new);
    // A subvolume that was made in it has numbers of its own, which may be those of the old tree.
    let [old, new] = snapshot(&top, &base);
    fs::remove_dir_all(new.join("a")).unwrap();
    btrfs::create_subvolume(fs::File::open(&new).unwrap(), "a".as_ref()).unwrap();
    for step in base {
        run(&new, None, &[(step.0, step.1, 4)]);
    }
    check(&old, &new);
    btrfs::destroy_subvolume(fs::File::open(&new).unwrap(), "a".as_ref()).unwrap();
}

#[test]
fn large_directories_are_compared_in_parts() {
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let [old, new] = ["old", "new"].map(|name| dir.path().join(name));
    for tree in [&old, &new] {
        for inner in ["x", "y/z"] {
            fs::create_dir_all(tree.join(inner)).unwrap();
            for number in 0..1500 {
                let path = tree.join(inner).join(number.to_string());
                fs::File::create(path).unwrap().set_modified(std::time::UNIX_EPOCH).unwrap();
            }
        }
    }
    check(&old, &new);
    for name in ["0", "700", "999"] {
        fs::remove_file(old.join("x").join(name)).unwrap();
        fs::remove_file(new.join("y/z").join(name)).unwrap();
        fs::create_dir_all(new.join("y/z").join(name).join("inner")).unwrap();
    }
    check(&old, &new);
}

#[test]
fn a_tree_that_is_too_deep_is_refused_by_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let deep: PathBuf = ["a"; MAX_DEPTH + 1].iter().collect();
    fs::create_dir_all(dir.path().join(&deep)).unwrap();
    let error = between(None, &Root::open(dir.path()).unwrap()).unwrap_err();
    assert_eq!(error.to_string(), format!("cannot walk /{}", deep.display()));
}
