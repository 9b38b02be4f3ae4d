//! What each call promises.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;

use berth_types::{Classify as _, ErrorKind};

use super::{Open, content, id, layer, listed, rw, same, write};
use crate::{Access, CreateOptions, Mounted, StorageError};

pub(super) fn unknown_layers_are_refused_or_fine(open: Open<'_>, home: &Path) {
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

pub(super) fn children_see_their_parents_and_change_nothing_in_them(open: Open<'_>, home: &Path) {
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

pub(super) fn a_layer_is_created_once(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let first = layer(&*driver, None, &["kept"]);
    let again = driver.create(&first, None, &CreateOptions::default());
    let error = again.expect_err("the layer exists");
    assert_eq!(error.kind(), ErrorKind::Conflict, "{error}");
    assert_eq!(content(&*driver, &first), same(&["kept"]));
}

pub(super) fn a_committed_layer_is_only_read(open: Open<'_>, home: &Path) {
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
    driver.release(&top).expect("a plan that was not carried out is undone as well");
}

pub(super) fn a_size_is_kept_or_refused(open: Open<'_>, home: &Path) {
    let driver = open(home);
    let base = layer(&*driver, None, &["a"]);
    let top = id();
    let storage_opt = [("size".to_owned(), "4M".to_owned())].into();
    let before = listed(&*driver);
    if let Err(error) = driver.create(&top, Some(&base), &CreateOptions { storage_opt, ..rw() }) {
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
        assert_eq!(listed(&*driver), before, "a refused layer leaves nothing");
        return;
    }
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).expect("a plan"));
    let mounted = mounted.expect("mounts");
    let mut file = File::create(mounted.root().join("big")).expect("a new file");
    let written = file.write_all(&vec![1; 16 << 20]).and_then(|()| file.sync_all());
    written.expect_err("more than its size");
}

pub(super) fn options_are_never_ignored(open: Open<'_>, home: &Path) {
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

pub(super) fn native_layers_are_filled_before_their_parents(open: Open<'_>, home: &Path) {
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
