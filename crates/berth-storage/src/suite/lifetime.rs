//! Removal, recovery, and what others put into the home directory.

use std::fs::{self, File};
use std::mem::ManuallyDrop;
use std::path::Path;
use std::process::Command;

use berth_types::{Classify as _, ErrorKind, LayerId};

use super::{Open, content, files_in, id, layer, listed, rw, same, write};
use crate::{Access, CreateOptions, LayerState, Mounted, StorageDriver};

pub(super) fn removal_is_quick_and_reaping_deletes(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let top = id();
    driver.create(&top, Some(&base), &rw()).expect("a layer");
    // Never released: removal must undo it.
    let plan = driver.prepare(&top, Access::Write).expect("a plan");
    let mounted = Mounted::new(plan).expect("mounts");
    driver.remove(&top).expect("removed although mounted");
    assert_eq!(listed(&*driver), [(base.clone(), LayerState::Committed)]);
    drop(mounted);
    driver.create(&top, Some(&base), &rw()).expect("the id is free at once");
    driver.remove(&top).expect("removed again");
    let before = kept(&*driver, &base, home);
    driver.reap().expect("the trash goes");
    assert!(kept(&*driver, &base, home) < before, "reaping deletes");
    driver.reap().expect("nothing to reap");
    driver.remove(&base).expect("removed");
    drop(driver);
    let driver = open(home);
    driver.recover(&|_| false).expect("recovery");
    driver.reap().expect("a new process reaps what the last one removed");
    assert!(listed(&*driver).is_empty());
}

/// How many files and directories there are; or datasets, where layers are some.
fn kept(driver: &dyn StorageDriver, base: &LayerId, home: &Path) -> usize {
    let data = driver.metadata(base).expect("it is there").unwrap_or_default();
    let Some((dataset, _)) = data.get("Dataset").and_then(|name| name.rsplit_once('/')) else {
        return entries(home);
    };
    let mut list = Command::new("zfs");
    list.args(["list", "-H", "-r", "-o", "name", dataset]);
    let output = list.output().expect("zfs runs");
    assert!(output.status.success(), "{output:?}");
    output.stdout.split(|&byte| byte == b'\n').count()
}

/// How many files and directories there are.
fn entries(dir: &Path) -> usize {
    let mut count = 0;
    for entry in fs::read_dir(dir).expect("a directory") {
        let entry = entry.expect("an entry");
        count += 1;
        if entry.file_type().expect("its type").is_dir() {
            count += entries(&entry.path());
        }
    }
    count
}

pub(super) fn layers_survive_reopening_and_recovery(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let held = id();
    let left = id();
    for id in [&held, &left] {
        driver.create(id, Some(&base), &rw()).expect("a layer");
        write(&*driver, id, &["b"]);
    }
    driver.sync().expect("synced");
    let before = listed(&*driver);
    let held_mount = Mounted::new(driver.prepare(&held, Access::Write).expect("a plan"));
    let held_mount = held_mount.expect("mounts");
    let left_mount = Mounted::new(driver.prepare(&left, Access::Write).expect("a plan"));
    // As if the process that mounted it had died.
    let left_mount = ManuallyDrop::new(left_mount.expect("mounts"));
    drop(driver);
    let driver = open(home);
    for _ in 0..2 {
        driver.recover(&|id| *id == held).expect("recovery");
        assert_eq!(listed(&*driver), before);
        assert_eq!(files_in(held_mount.root()), same(&["a", "b"]));
    }
    if !driver.prepare(&left, Access::Write).expect("a plan").mounts.is_empty() {
        let is_mounted = berth_sys::mount::is_mount_point(left_mount.root());
        assert!(!is_mounted.expect("the mounts"), "the left mount is gone");
    }
    drop(held_mount);
    assert_eq!(content(&*driver, &left), same(&["a", "b"]));
    assert_eq!(content(&*driver, &held), same(&["a", "b"]));
}

pub(super) fn a_layer_set_aside_keeps_every_byte(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let lost = home.with_file_name("lost+found");
    let to = driver.set_aside(&base, &lost).expect("set aside");
    assert!(to.starts_with(&lost), "{}", to.display());
    let name = to.file_name().expect("a name").to_string_lossy().into_owned();
    let prefix = format!("{}-{base}-", driver.name());
    assert!(name.starts_with(&prefix), "{name}");
    assert!(listed(&*driver).is_empty());
    let mut todo = vec![to];
    let mut found = Vec::new();
    while let Some(dir) = todo.pop() {
        for entry in fs::read_dir(dir).expect("a directory") {
            let entry = entry.expect("an entry");
            if entry.file_type().expect("its type").is_dir() {
                todo.push(entry.path());
            }
            found.push(entry.file_name());
        }
    }
    assert!(found.iter().any(|name| name == "a"), "{found:?}");
    driver.recover(&|_| false).expect("recovery");
    let error = driver.set_aside(&base, &lost).expect_err("it is gone");
    assert_eq!(error.kind(), ErrorKind::NotFound);
}

pub(super) fn a_layer_takes_the_place_of_another(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let Some(upkeep) = driver.upkeep() else { return };
    let base = layer(&*driver, None, &["old"]);
    let top = layer(&*driver, Some(&base), &["top"]);
    let new = layer(&*driver, None, &["new"]);
    upkeep.replace(&base, &new).expect("they change places");
    let above = |driver: &dyn StorageDriver, below: &str| match driver.native() {
        // The others keep what they took from below when they were made.
        Some(_) => assert_eq!(content(driver, &top), same(&[below, "top"])),
        None => assert_eq!(content(driver, &top), same(&["old", "top"])),
    };
    for driver in [&driver, &open(home)] {
        driver.recover(&|_| false).expect("recovery");
        assert_eq!(content(&**driver, &base), same(&["new"]));
        assert_eq!(content(&**driver, &new), same(&["old"]));
        above(&**driver, "new");
    }
    driver.set_aside(&new, &home.join("lost+found")).expect("out of the way");
    driver.recover(&|_| false).expect("recovery");
    above(&*driver, "new");
    driver.create(&new, Some(&base), &CreateOptions::default()).expect("on top of it");
    assert_eq!(content(&*driver, &new), same(&["new"]));

    driver.remove(&new).expect("removed");
    driver.remove(&base).expect("removed, whatever stands on it");
    driver.reap().expect("and deleted");
    let last = layer(&*driver, None, &["last"]);
    driver.upkeep().expect("as before").replace(&base, &last).expect("a place that is empty");
    if let Some(native) = driver.native() {
        native.stand_on(&top, Some(&base)).expect("told again");
    }
    driver.recover(&|_| false).expect("recovery");
    assert_eq!(content(&*driver, &base), same(&["last"]));
    above(&*driver, "last");
    assert_eq!(listed(&*driver).len(), 2);
}

pub(super) fn what_is_made_in_advance_is_no_layer(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let mut made = Vec::new();
    for name in ["a", "b", "c"] {
        driver.keep_spare();
        made.push((layer(&*driver, None, &[name]), LayerState::Committed));
        made.sort_by(|a, b| a.0.cmp(&b.0));
        assert_eq!(listed(&*driver), made);
    }
    driver.keep_spare();
    let kept = made.swap_remove(0);
    for (id, _) in made {
        driver.remove(&id).expect("removed");
    }
    driver.reap().expect("deleted");
    driver.sync().expect("synced");
    drop(driver);
    let driver = open(home);
    driver.recover(&|_| false).expect("recovery");
    let last = layer(&*driver, None, &["d"]);
    assert_eq!(content(&*driver, &last), same(&["d"]));
    assert_eq!(content(&*driver, &kept.0).len(), 1);
    assert_eq!(listed(&*driver).len(), 2);
}

pub(super) fn what_is_not_the_drivers_is_left_alone(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let mut foreign = Vec::new();
    for dir in [home.to_owned(), home.join("dir"), home.join("subvolumes")] {
        if !dir.try_exists().expect("its state") {
            continue;
        }
        for name in ["backup", "0123abcd", &format!("{}.old", id())] {
            fs::create_dir(dir.join(name)).expect("a foreign directory");
            File::create(dir.join(name).join("precious")).expect("a foreign file");
            foreign.push(dir.join(name).join("precious"));
        }
    }
    drop(driver);
    let driver = open(home);
    driver.recover(&|_| false).expect("recovery");
    driver.reap().expect("reaping");
    assert_eq!(listed(&*driver), [(base, LayerState::Committed)]);
    for path in foreign {
        assert!(path.try_exists().expect("its state"), "{}", path.display());
    }
}

pub(super) fn an_id_is_used_again_after_a_crash(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let top = id();
    for round in ["b", "c"] {
        driver.create(&top, Some(&base), &rw()).expect("a layer");
        write(&*driver, &top, &[round]);
        let plan = driver.prepare(&top, Access::Write).expect("a plan");
        let _left = ManuallyDrop::new(Mounted::new(plan).expect("mounts"));
        let driver = open(home);
        driver.recover(&|_| false).expect("recovery");
        assert_eq!(content(&*driver, &top), same(&["a", round]));
        driver.remove(&top).expect("removed");
        // Not reaped: the trash of the last life waits beside the next one.
    }
    driver.create(&top, Some(&base), &rw()).expect("the same id, anew");
    write(&*driver, &top, &["d"]);
    let driver = open(home);
    driver.recover(&|_| false).expect("recovery");
    driver.reap().expect("only the trash goes");
    assert_eq!(content(&*driver, &top), same(&["a", "d"]));
}
