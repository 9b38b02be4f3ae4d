//! What every driver must do, as one test that each driver's own tests run.
//!
//! Needs root where the driver does. Panics where the driver breaks the contract.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::sync::Arc;

use berth_types::{Classify as _, ErrorKind, LayerId};

use crate::{Access, CreateOptions, LayerState, Mounted, StorageDriver, StorageError};

/// Opens the driver over `home`, which may have been used before.
pub type Open<'a> = &'a dyn Fn(&Path) -> Arc<dyn StorageDriver>;

type Case = fn(Open<'_>, &Path);

/// Runs everything below `dir`, an empty directory on a file system that the driver works on.
pub fn run(open: Open<'_>, dir: &Path) {
    let cases: &[(&str, Case)] = &[
        ("unknown", unknown_layers_are_refused_or_fine),
        ("chain", children_see_their_parents_and_change_nothing_in_them),
        ("twice", a_layer_is_created_once),
        ("frozen", a_committed_layer_is_only_read),
        ("remove", removal_is_quick_and_reaping_deletes),
        ("reopen", layers_survive_reopening_and_recovery),
        ("aside", a_layer_set_aside_keeps_every_byte),
        ("foreign", what_is_not_the_drivers_is_left_alone),
        ("threads", layers_are_made_at_the_same_time),
        ("refuse", options_are_never_ignored),
        ("native", native_layers_are_filled_before_their_parents),
    ];
    for (name, case) in cases {
        let home = dir.join(name);
        fs::create_dir(&home).expect("a home for the case");
        case(open, &home.join("home"));
    }
}

fn id() -> LayerId {
    LayerId::random()
}

fn rw() -> CreateOptions {
    CreateOptions { writable: true, ..CreateOptions::default() }
}

/// Creates a layer in which `files` are written, each with its name as content.
fn layer(driver: &dyn StorageDriver, parent: Option<&LayerId>, files: &[&str]) -> LayerId {
    let id = id();
    driver.create(&id, parent, &CreateOptions::default()).expect("a new layer");
    write(driver, &id, files);
    driver.commit(&id).expect("the layer is frozen");
    id
}

fn write(driver: &dyn StorageDriver, id: &LayerId, files: &[&str]) {
    let mounted = Mounted::new(driver.prepare(id, Access::Write).expect("a plan")).expect("mounts");
    for name in files {
        let mut file = File::create(mounted.root().join(name)).expect("a new file");
        file.write_all(name.as_bytes()).expect("its content");
    }
}

/// Names and contents of the files at the top of a layer.
fn content(driver: &dyn StorageDriver, id: &LayerId) -> Vec<(String, String)> {
    let mounted = Mounted::new(driver.prepare(id, Access::Read).expect("a plan")).expect("mounts");
    files_in(mounted.root())
}

fn files_in(dir: &Path) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).expect("the layer's root") {
        let path = entry.expect("an entry").path();
        let mut text = String::new();
        File::open(&path).and_then(|mut file| file.read_to_string(&mut text)).expect("a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        found.push((name, text));
    }
    found.sort();
    found
}

fn same(names: &[&str]) -> Vec<(String, String)> {
    names.iter().map(|&name| (name.to_owned(), name.to_owned())).collect()
}

fn listed(driver: &dyn StorageDriver) -> Vec<(LayerId, LayerState)> {
    let mut all = driver.list().expect("the list");
    all.sort_by(|a, b| a.0.cmp(&b.0));
    all
}

fn unknown_layers_are_refused_or_fine(open: Open<'_>, home: &Path) {
    let driver = open(home);
    assert!(listed(&*driver).is_empty());
    let unknown = id();
    for result in [
        driver.commit(&unknown),
        driver.prepare(&unknown, Access::Read).map(drop),
        driver.metadata(&unknown).map(drop),
        driver.create(&id(), Some(&unknown), &CreateOptions::default()),
    ] {
        assert!(matches!(result, Err(StorageError::UnknownLayer { .. })), "{result:?}");
    }
    driver.remove(&unknown).expect("nothing to remove");
    driver.release(&unknown).expect("nothing to release");
    assert!(listed(&*driver).is_empty());
}

fn children_see_their_parents_and_change_nothing_in_them(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let mut top = layer(&*driver, None, &["base"]);
    let base = top.clone();
    let mut names = vec!["base".to_owned()];
    for at in 0..20 {
        let name = format!("f{at:02}");
        top = layer(&*driver, Some(&top), &[&name]);
        names.push(name);
    }
    let container = id();
    driver.create(&container.init(), Some(&top), &rw()).expect("an init layer");
    write(&*driver, &container.init(), &[]);
    driver.commit(&container.init()).expect("the init layer is frozen");
    driver.create(&container, Some(&container.init()), &rw()).expect("a container's layer");
    {
        let plan = driver.prepare(&container, Access::Write).expect("a plan");
        let mounted = Mounted::new(plan).expect("mounts");
        fs::remove_file(mounted.root().join("base")).expect("the file of the base layer");
        let mut file = File::create(mounted.root().join("f00")).expect("a file to change");
        file.write_all(b"changed").expect("its content");
    }
    driver.release(&container).expect("releasing twice is fine");
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    assert_eq!(content(&*driver, &top), same(&names));
    assert_eq!(content(&*driver, &base), same(&["base"]));
    let mut expected = same(&names[1..]);
    "changed".clone_into(&mut expected[0].1);
    assert_eq!(content(&*driver, &container), expected);
}

fn a_layer_is_created_once(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let first = layer(&*driver, None, &["kept"]);
    let again = driver.create(&first, None, &CreateOptions::default());
    let error = again.expect_err("the layer exists");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(content(&*driver, &first), same(&["kept"]));
}

fn a_committed_layer_is_only_read(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let top = layer(&*driver, Some(&base), &["b"]);
    for id in [&base, &top] {
        let refused = driver.prepare(id, Access::Write);
        assert!(matches!(refused, Err(StorageError::ReadOnly { .. })), "{refused:?}");
        driver.commit(id).expect("freezing twice is fine");
    }
    let plan = driver.prepare(&top, Access::Read).expect("a plan");
    if !plan.mounts.is_empty() {
        let mounted = Mounted::new(plan).expect("mounts");
        File::create(mounted.root().join("c")).expect_err("the mount is read-only");
    }
    let json = serde_json::to_string(&driver.prepare(&top, Access::Read).expect("a plan"));
    let text = json.expect("a plan is plain data");
    let back: crate::Prepared = serde_json::from_str(&text).expect("and comes back");
    assert_eq!(back, driver.prepare(&top, Access::Read).expect("the same plan"));
}

fn removal_is_quick_and_reaping_deletes(open: Open<'_>, home: &Path) {
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
    let before = entries(home);
    driver.reap().expect("the trash goes");
    assert!(entries(home) < before, "reaping deletes");
    driver.reap().expect("nothing to reap");
    driver.remove(&base).expect("removed");
    drop(driver);
    let driver = open(home);
    driver.recover(&|_| false).expect("recovery");
    driver.reap().expect("a new process reaps what the last one removed");
    assert!(listed(&*driver).is_empty());
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

fn layers_survive_reopening_and_recovery(open: Open<'_>, home: &Path) {
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
    let left_mount = std::mem::ManuallyDrop::new(left_mount.expect("mounts"));
    drop(driver);
    let driver = open(home);
    for _ in 0..2 {
        driver.recover(&|id| *id == held).expect("recovery");
        assert_eq!(listed(&*driver), before);
        assert_eq!(files_in(held_mount.root()), same(&["a", "b"]));
    }
    if !driver.prepare(&left, Access::Write).expect("a plan").mounts.is_empty() {
        assert!(!left_mount.root().try_exists().expect("its state"), "the left mount is gone");
    }
    drop(held_mount);
    assert_eq!(content(&*driver, &left), same(&["a", "b"]));
    assert_eq!(content(&*driver, &held), same(&["a", "b"]));
}

fn a_layer_set_aside_keeps_every_byte(open: Open<'_>, home: &Path) {
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

fn what_is_not_the_drivers_is_left_alone(open: Open<'_>, home: &Path) {
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

fn layers_are_made_at_the_same_time(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                for _ in 0..10 {
                    let top = layer(&*driver, Some(&base), &["b"]);
                    assert_eq!(content(&*driver, &top), same(&["a", "b"]));
                    driver.remove(&top).expect("removed");
                    driver.reap().expect("reaped");
                }
            });
        }
    });
    assert_eq!(listed(&*driver), [(base, LayerState::Committed)]);
}

fn options_are_never_ignored(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let storage_opt = [("nonsense".to_owned(), "1".to_owned())].into();
    for options in [
        CreateOptions { storage_opt, ..rw() },
        CreateOptions { mount_label: "system_u:object_r:x".to_owned(), ..rw() },
    ] {
        driver.create(&id(), None, &options).expect_err("an option that nobody knows");
    }
    assert!(listed(&*driver).is_empty());
}

fn native_layers_are_filled_before_their_parents(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let Some(native) = driver.native() else { return };
    let (base, middle, top, other) = (id(), id(), id(), id());
    driver.create(&base, None, &CreateOptions::default()).expect("a layer");
    driver.create(&middle, Some(&base), &CreateOptions::default()).expect("a layer");
    driver.create(&top, Some(&middle), &CreateOptions::default()).expect("a layer");
    for (id, name) in [(&top, "t"), (&middle, "m"), (&base, "b")] {
        let mut file = File::create(native.diff_dir(id).join(name)).expect("a file");
        file.write_all(name.as_bytes()).expect("its content");
        driver.commit(id).expect("frozen");
    }
    assert_eq!(content(&*driver, &top), same(&["b", "m", "t"]));
    let lowers = native.lower_dirs(&top).expect("what is below");
    assert_eq!(lowers, [native.diff_dir(&middle), native.diff_dir(&base)]);
    driver.create(&other, None, &CreateOptions::default()).expect("a layer");
    File::create(native.diff_dir(&other).join("o")).expect("a file");
    for _ in 0..2 {
        native.stand_on(&middle, Some(&other)).expect("moved");
        native.stand_on(&top, Some(&middle)).expect("moved");
    }
    driver.remove(&base).expect("nobody stands on it");
    driver.reap().expect("reaped");
    let mut expected = same(&["m", "o", "t"]);
    expected[1].1.clear();
    assert_eq!(content(&*driver, &top), expected);
}
