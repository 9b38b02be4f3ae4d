//! Tests of what is particular to overlay2: Docker's layout, options and texts.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;

use berth_fs::reserve;
use berth_types::{IdMap, IdMaps, LayerId, Owner};

use super::Overlay2;
use crate::overlayfs::Overlayfs;
use crate::quota::Quotas;
use crate::{Access, CreateOptions, Mapping, Mounted, StorageDriver, StorageError, suite};

/// A directory on the machine's own file system, or a named skip.
fn home_for(test: &str) -> Option<tempfile::TempDir> {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return None;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    match Overlay2::open(&dir.path().join("probe"), &[]) {
        Ok(_) => Some(dir),
        Err(error) if error.is_not_supported() => {
            testkit::skip(test, "overlayfs over /var/tmp");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn mode(path: &Path) -> u32 {
    fs::symlink_metadata(path).unwrap().mode() & 0o7777
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> = fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    names.sort();
    names
}

fn diff_dir(driver: &Overlay2, id: &LayerId) -> std::path::PathBuf {
    driver.native().unwrap().diff_dir(id)
}

fn put(path: impl AsRef<Path>, content: &str) {
    fs::File::create(path).unwrap().write_all(content.as_bytes()).unwrap();
}

fn rw() -> CreateOptions {
    CreateOptions { writable: true, ..CreateOptions::default() }
}

#[test]
fn root_overlay2_keeps_the_contract() {
    let Some(dir) = home_for("root_overlay2_keeps_the_contract") else { return };
    suite::run(&|home| Arc::new(Overlay2::open(home, &[]).unwrap()), dir.path());
}

#[test]
fn root_overlay2_keeps_the_contract_below_a_path_with_colons() {
    let Some(dir) = home_for("root_overlay2_keeps_the_contract_below_a_path_with_colons") else {
        return;
    };
    let odd = dir.path().join("a:b,c\\d");
    fs::create_dir(&odd).unwrap();
    suite::run(&|home| Arc::new(Overlay2::open(home, &[]).unwrap()), &odd);
}

/// Opens the driver with an index, or names what is missing.
fn open_indexed(test: &str, home: &Path) -> Option<Overlay2> {
    match Overlay2::open(home, &["overlay2.index=on".to_owned()]) {
        Ok(driver) => Some(driver),
        Err(error) => {
            assert!(error.to_string().starts_with("Storage option overlay2.index not supported"));
            testkit::skip(test, "overlayfs with an index");
            None
        }
    }
}

#[test]
fn root_overlay2_keeps_the_contract_with_an_index() {
    let test = "root_overlay2_keeps_the_contract_with_an_index";
    let Some(dir) = home_for(test) else { return };
    if open_indexed(test, &dir.path().join("probe")).is_none() {
        return;
    }
    let index = ["overlay2.index=on".to_owned()];
    suite::run(&|home| Arc::new(Overlay2::open(home, &index).unwrap()), dir.path());
}

/// A container's layer on an image with a file `one`, which is also `two`.
fn linked(driver: &Overlay2) -> (LayerId, LayerId) {
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    let diff = diff_dir(driver, &base);
    put(diff.join("one"), "old");
    fs::hard_link(diff.join("one"), diff.join("two")).unwrap();
    driver.commit(&base).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    (base, top)
}

fn read_both(driver: &Overlay2, id: &LayerId, access: Access) -> [String; 2] {
    let mounted = Mounted::new(driver.prepare(id, access).unwrap()).unwrap();
    ["one", "two"].map(|name| fs::read_to_string(mounted.root().join(name)).unwrap())
}

#[test]
fn root_hard_links_are_broken_as_dockers_and_kept_with_an_index() {
    let test = "root_hard_links_are_broken_as_dockers_and_kept_with_an_index";
    let Some(dir) = home_for(test) else { return };
    let home = dir.path().join("overlay2");
    let Some(indexed) = open_indexed(test, &home) else { return };
    let plain = Overlay2::open(&home, &[]).unwrap();
    for (driver, native, expected) in
        [(&plain, true, ["new", "old"]), (&indexed, false, ["new", "new"])]
    {
        let status = driver.status();
        let line = ("Native Overlay Diff".to_owned(), native.to_string());
        assert!(status.contains(&line), "{status:?}");
        let (_, top) = linked(driver);
        let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
        put(mounted.root().join("one"), "new");
        drop(mounted);
        assert_eq!(names(&diff_dir(driver, &top)), ["one"]);
        assert_eq!(driver.native().unwrap().lacks_changes(&top).unwrap(), !native);
        // What a layer needs is known on the disk, whatever the option says later.
        for later in [&["overlay2.index=off".to_owned()][..], &["overlay2.index=on".to_owned()]] {
            let again = Overlay2::open(&home, later).unwrap();
            again.recover(&|_| false).unwrap();
            for access in [Access::Read, Access::Write] {
                assert_eq!(read_both(&again, &top, access), expected, "{later:?} {access:?}");
            }
        }
    }
    for (value, text) in [
        ("yes", "invalid overlay2.index: \"yes\" is neither on nor off"),
        ("", "invalid overlay2.index: \"\" is neither on nor off"),
    ] {
        let error = Overlay2::open(&home, &[format!("overlay2.index={value}")]).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
}

/// The kernel refuses to mount it with `ESTALE`.
#[test]
fn root_an_index_of_other_directories_is_set_aside() {
    let test = "root_an_index_of_other_directories_is_set_aside";
    let Some(dir) = home_for(test) else { return };
    let (home, moved) = (dir.path().join("overlay2"), dir.path().join("moved"));
    let Some(driver) = open_indexed(test, &home) else { return };
    let (_, top) = linked(&driver);
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
    put(mounted.root().join("one"), "new");
    drop((mounted, driver));
    let copied = std::process::Command::new("cp").arg("-a").args([&home, &moved]).status();
    assert!(copied.unwrap().success());

    let driver = open_indexed(test, &moved).unwrap();
    Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap_err();
    for _ in 0..2 {
        driver.recover(&|_| false).unwrap();
        assert_eq!(read_both(&driver, &top, Access::Write), ["new", "old"]);
    }
    let expected = ["diff", "index-stale-0", "link", "lower", "work"];
    assert_eq!(names(&moved.join(top.as_str())), expected);
}

const ROOT: Owner = Owner { uid: 100_000, gid: 200_000 };

fn ids() -> IdMaps {
    let map = |host| IdMap::from_subordinate(&[(host, 1000)]);
    IdMaps { uids: map(ROOT.uid), gids: map(ROOT.gid) }
}

fn open_for_ids(dir: &Path, maps: bool) -> Result<Overlay2, StorageError> {
    let (ids, run) = (ids(), dir.join("run"));
    let mapping = maps.then_some(Mapping { ids: &ids, dir: &run });
    Overlay2::open_for(&dir.join("overlay2"), &[], ROOT, mapping)
}

/// Opens a driver whose image layers hold ids of containers, or names what is missing.
fn open_mapped(test: &str, dir: &Path) -> Option<Overlay2> {
    let driver = open_for_ids(dir, true).unwrap();
    if driver.native().unwrap().maps_ids() {
        return Some(driver);
    }
    testkit::skip(test, "id-mapped mounts below overlayfs");
    None
}

fn owner(path: impl AsRef<Path>) -> (u32, u32) {
    let meta = fs::symlink_metadata(path).unwrap();
    (meta.uid(), meta.gid())
}

#[test]
fn root_image_layers_hold_ids_of_containers_and_mounts_show_the_hosts() {
    let test = "root_image_layers_hold_ids_of_containers_and_mounts_show_the_hosts";
    let Some(dir) = home_for(test) else { return };
    let Some(driver) = open_mapped(test, dir.path()) else { return };
    let (base, middle, container) = (LayerId::random(), LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    put(diff_dir(&driver, &base).join("f"), "content");
    driver.create(&middle, Some(&base), &CreateOptions::default()).unwrap();
    put(diff_dir(&driver, &middle).join("g"), "content");
    std::os::unix::fs::chown(diff_dir(&driver, &middle).join("g"), Some(5), Some(6)).unwrap();
    for layer in [&base, &middle] {
        driver.commit(layer).unwrap();
        assert_eq!(owner(diff_dir(&driver, layer)), (0, 0));
    }
    driver.create(&container.init(), Some(&middle), &rw()).unwrap();
    driver.commit(&container.init()).unwrap();
    driver.create(&container, Some(&container.init()), &rw()).unwrap();
    assert_eq!(owner(diff_dir(&driver, &container)), (ROOT.uid, ROOT.gid));

    for (layer, access) in [
        (&base, Access::Read),
        (&middle, Access::Read),
        (&container, Access::Read),
        (&container, Access::Write),
    ] {
        let mounted = Mounted::new(driver.prepare(layer, access).unwrap()).unwrap();
        let at = |name: &str| mounted.root().join(name);
        assert_eq!(owner(at("")), (ROOT.uid, ROOT.gid), "{access:?}");
        assert_eq!(owner(at("f")), (ROOT.uid, ROOT.gid));
        if *layer != base {
            assert_eq!(owner(at("g")), (ROOT.uid + 5, ROOT.gid + 6));
        }
        if access == Access::Write {
            fs::File::options().append(true).open(at("g")).unwrap().set_len(1).unwrap();
            fs::remove_file(at("f")).unwrap();
            fs::create_dir(at("made")).unwrap();
        }
    }
    let upper = diff_dir(&driver, &container);
    assert_eq!(names(&upper), ["f", "g", "made"]);
    assert_eq!(owner(upper.join("g")), (ROOT.uid + 5, ROOT.gid + 6));
    assert_eq!(owner(diff_dir(&driver, &middle).join("g")), (5, 6));
    let shown = driver.native().unwrap().shown_lower_dirs(&container).unwrap();
    let shown: Vec<_> = shown.iter().map(owner).collect();
    assert_eq!(shown, [(ROOT.uid, ROOT.gid); 3]);
}

#[test]
fn root_tall_stacks_are_mounted_with_other_ids() {
    let test = "root_tall_stacks_are_mounted_with_other_ids";
    let Some(dir) = home_for(test) else { return };
    let Some(driver) = open_mapped(test, dir.path()) else { return };
    let mut top = LayerId::random();
    driver.create(&top, None, &CreateOptions::default()).unwrap();
    for at in 0..125 {
        let next = LayerId::random();
        driver.create(&next, Some(&top), &CreateOptions::default()).unwrap();
        fs::File::create(diff_dir(&driver, &next).join(format!("f{at}"))).unwrap();
        top = next;
        // Within a page with whole paths, and with short ones.
        if ![10, 70, 124].contains(&at) {
            continue;
        }
        let container = LayerId::random();
        driver.create(&container.init(), Some(&top), &rw()).unwrap();
        driver.commit(&container.init()).unwrap();
        driver.create(&container, Some(&container.init()), &rw()).unwrap();
        let plan = driver.prepare(&container, Access::Write).unwrap();
        let mounted = Mounted::new(plan).unwrap();
        assert_eq!(names(mounted.root()).len(), at + 1);
        assert_eq!(owner(mounted.root().join("f0")), (ROOT.uid, ROOT.gid));
    }
}

#[test]
fn root_a_home_keeps_the_form_that_its_image_layers_have() {
    let test = "root_a_home_keeps_the_form_that_its_image_layers_have";
    let Some(dir) = home_for(test) else { return };
    let [shifted, mapped] = ["shifted", "mapped"].map(|name| dir.path().join(name));
    fs::create_dir(&shifted).unwrap();
    fs::create_dir(&mapped).unwrap();
    let driver = open_for_ids(&shifted, false).unwrap();
    driver.create(&LayerId::random(), None, &CreateOptions::default()).unwrap();
    drop(driver);
    assert!(!open_for_ids(&shifted, true).unwrap().native().unwrap().maps_ids());

    let Some(driver) = open_mapped(test, &mapped) else { return };
    driver.create(&LayerId::random(), None, &CreateOptions::default()).unwrap();
    // A daemon that was killed leaves the mount.
    Box::leak(Box::new(driver));
    assert!(open_for_ids(&mapped, true).unwrap().native().unwrap().maps_ids());
    assert_eq!(names(&mapped.join("run")), [""; 0], "nothing stays mounted");
    let error = berth_types::kind::chain(&open_for_ids(&mapped, false).unwrap_err());
    let expected = format!(
        "cannot use {}: its image layers hold ids of containers, for which this kernel and file system \
         must have id-mapped mounts (Linux 5.19), and --userns-remap must be given",
        mapped.join("overlay2").display()
    );
    assert_eq!(error, expected);
}

#[test]
fn root_overlay2_is_laid_out_as_dockers() {
    let Some(dir) = home_for("root_overlay2_is_laid_out_as_dockers") else { return };
    let home = dir.path().join("overlay2");
    let driver = Overlay2::open(&home, &[]).unwrap();
    assert_eq!((mode(&home), mode(&home.join("l"))), (0o710, 0o700));
    assert_eq!(names(&home), [reserve::NAME, "l"]);

    let base = LayerId::random();
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.commit(&base).unwrap();
    let container = LayerId::random();
    driver.create(&container.init(), Some(&base), &rw()).unwrap();
    driver.commit(&container.init()).unwrap();
    driver.create(&container, Some(&container.init()), &rw()).unwrap();

    let base_dir = home.join(base.as_str());
    let init_dir = home.join(container.init().as_str());
    let dir = home.join(container.as_str());
    assert_eq!(names(&base_dir), ["committed", "diff", "link"]);
    assert_eq!(names(&init_dir), ["committed", "diff", "link", "lower", "work"]);
    assert_eq!(names(&dir), ["diff", "link", "lower", "work"]);
    #[rustfmt::skip]
    let modes = [("", 0o710), ("diff", 0o755), ("link", 0o644), ("lower", 0o644), ("work", 0o700)];
    for (name, expected) in modes {
        assert_eq!(mode(&dir.join(name)), expected, "{name}");
    }
    assert_eq!(mode(&base_dir.join("committed")), 0o600);

    let link = |dir: &Path| fs::read_to_string(dir.join("link")).unwrap();
    for (dir, id) in [(&base_dir, base.clone()), (&init_dir, container.init())] {
        assert_eq!(link(dir).len(), 26);
        let target = fs::read_link(home.join("l").join(link(dir))).unwrap();
        assert_eq!(target, Path::new("..").join(id.as_str()).join("diff"));
    }
    let (init_link, base_link) = (link(&init_dir), link(&base_dir));
    let lower = fs::read_to_string(dir.join("lower")).unwrap();
    assert_eq!(lower, format!("l/{init_link}:l/{base_link}"));

    let h = home.display();
    let plan = driver.prepare(&container, Access::Write).unwrap();
    let options: Vec<_> = plan.mounts[0].options.iter().filter(|o| !o.ends_with("=off")).collect();
    assert_eq!(
        options,
        [
            &format!("lowerdir={h}/l/{init_link}:{h}/l/{base_link}"),
            &format!("upperdir={h}/{container}/diff"),
            &format!("workdir={h}/{container}/work"),
        ]
    );
    let mounted = Mounted::new(plan).unwrap();
    assert_eq!(mode(&dir.join("diff")), 0o755);
    assert_eq!(mounted.root(), dir.join("merged"));
    drop(mounted);
    assert_eq!(names(&dir), ["diff", "link", "lower", "work"]);

    let data = driver.metadata(&container).unwrap().unwrap();
    let data: Vec<_> = data.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
    assert_eq!(
        data,
        [
            ("LowerDir", &*format!("{h}/{container}-init/diff:{h}/{base}/diff")),
            ("MergedDir", &*format!("{h}/{container}/merged")),
            ("UpperDir", &*format!("{h}/{container}/diff")),
            ("WorkDir", &*format!("{h}/{container}/work")),
        ]
    );
    assert!(!driver.metadata(&base).unwrap().unwrap().contains_key("LowerDir"));

    for id in [container.clone(), container.init(), base] {
        driver.remove(&id).unwrap();
    }
    assert_eq!(fs::read_dir(home.join("l")).unwrap().count(), 0);
    driver.reap().unwrap();
    assert_eq!(names(&home), [reserve::NAME, "l"]);
}

/// Docker stops at 128, for want of room in a page of mount options.
#[test]
fn root_overlay2_mounts_as_many_layers_as_the_kernel_can() {
    let Some(dir) = home_for("root_overlay2_mounts_as_many_layers_as_the_kernel_can") else {
        return;
    };
    let home = dir.path().join("overlay2");
    let driver = Overlay2::open(&home, &[]).unwrap();
    let most = Overlayfs::open("overlay2", &home, &[]).unwrap().max_lowers();
    let mut top = LayerId::random();
    driver.create(&top, None, &CreateOptions::default()).unwrap();
    for at in 0..most {
        let next = LayerId::random();
        driver.create(&next, Some(&top), &CreateOptions::default()).unwrap();
        fs::File::create(diff_dir(&driver, &next).join(format!("f{at}"))).unwrap();
        top = next;
        if ![127, 399, most - 1].contains(&at) {
            continue;
        }
        let plan = driver.prepare(&top, Access::Write).unwrap();
        assert_eq!(plan.mounts[0].work_dir.as_deref(), Some(&*home), "{at}");
        let mounted = Mounted::new(plan).unwrap();
        assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), at + 1);
        fs::File::create(mounted.root().join("written")).unwrap();
        drop(mounted);
        fs::remove_file(diff_dir(&driver, &top).join("written")).unwrap();
    }
    let error = driver.create(&LayerId::random(), Some(&top), &rw()).unwrap_err();
    assert_eq!(error.to_string(), "max depth exceeded");
    assert_eq!(driver.list().unwrap().len(), most + 1);
    // Its own directory is one more then.
    let mounted = Mounted::new(driver.prepare(&top, Access::Read).unwrap()).unwrap();
    assert_eq!(fs::read_dir(mounted.root()).unwrap().count(), most);
}

#[test]
fn root_overlay2_mends_what_a_power_cut_tore() {
    let Some(dir) = home_for("root_overlay2_mends_what_a_power_cut_tore") else { return };
    let home = dir.path().join("overlay2");
    let driver = Overlay2::open(&home, &[]).unwrap();
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    fs::File::create(diff_dir(&driver, &top).join("kept")).unwrap();
    let file = |id: &LayerId, name: &str| home.join(id.as_str()).join(name);
    let lower = fs::read_to_string(file(&top, "lower")).unwrap();
    let link = fs::read_to_string(file(&base, "link")).unwrap();

    fs::File::create(file(&base, "link")).unwrap();
    fs::File::create(file(&top, "lower")).unwrap();
    fs::File::create(file(&top, "link")).unwrap();
    fs::remove_dir(file(&top, "work")).unwrap();
    let left = home.join(format!(".berth-creating-{}", LayerId::random()));
    fs::create_dir(&left).unwrap();
    let dead = home.join("l/ABCDEFGHIJKLMNOPQRSTUVWXYZ");
    std::os::unix::fs::symlink(format!("../{}/diff", LayerId::random()), &dead).unwrap();

    driver.recover(&|_| false).unwrap();
    driver.native().unwrap().stand_on(&top, Some(&base)).unwrap();
    assert_eq!(fs::read_to_string(file(&base, "link")).unwrap(), link);
    assert_eq!(fs::read_to_string(file(&top, "lower")).unwrap(), lower);
    fs::remove_file(home.join("l").join(&link)).unwrap();
    driver.recover(&|_| false).unwrap();
    assert!(!left.try_exists().unwrap());
    assert!(fs::symlink_metadata(&dead).is_err(), "a short name of no layer");
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
    assert_eq!(names(mounted.root()), ["kept"]);
}

#[test]
fn root_overlay2_options_have_dockers_texts() {
    let Some(dir) = home_for("root_overlay2_options_have_dockers_texts") else { return };
    let home = dir.path().join("overlay2");
    let backing = berth_sys::fsinfo::fs_name(dir.path()).unwrap();
    let quota = match backing {
        "extfs" | "xfs" => {
            "Storage option overlay2.size not supported. Filesystem does not support \
                            Project Quota: Filesystem does not support, or has not enabled quotas"
                .to_owned()
        }
        other => {
            format!("Storage Option overlay2.size only supported for backingFS XFS. Found {other}")
        }
    };
    let has_quotas = Quotas::below(dir.path()).is_some();
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("dm.basesize=1G",                   "overlay2: unknown option dm.basesize"),
        ("foo",                              "Unable to parse key/value option: foo"),
        ("overlay2.size=x",                  "invalid size: 'x'"),
        ("overlay2.override_kernel_check=x", "strconv.ParseBool: parsing \"x\": invalid syntax"),
    ];
    for (option, text) in table {
        let error = Overlay2::open(&home, &[(*option).to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), *text, "{option}");
    }
    if !has_quotas {
        let error = Overlay2::open(&home, &["overlay2.size=1G".to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), quota);
    }
    assert!(!home.try_exists().unwrap());
    let fine = ["overlay2.override_kernel_check=T", " OVERLAY2.size = 0 "];
    let driver = Overlay2::open(&home, &fine.map(str::to_owned)).unwrap();
    #[rustfmt::skip]
    let table = [
        (true,  "--storage-opt is supported only for overlay over xfs with 'pquota' mount option"),
        (false, "--storage-opt size is only supported for ReadWrite Layers"),
    ];
    for (writable, text) in table {
        if writable && has_quotas {
            continue;
        }
        let storage_opt = [("size".to_owned(), "1G".to_owned())].into();
        let options = CreateOptions { writable, storage_opt, mount_label: String::new() };
        let error = driver.create(&LayerId::random(), None, &options).unwrap_err();
        assert_eq!(error.to_string(), text);
    }
    let status: Vec<_> =
        driver.status().into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let expected = [
        format!("Backing Filesystem: {backing}"),
        "Supports d_type: true".to_owned(),
        "Using metacopy: false".to_owned(),
        "Native Overlay Diff: true".to_owned(),
        "userxattr: false".to_owned(),
    ];
    assert_eq!(status, expected);
}

#[test]
fn root_overlay2_is_refused_over_itself() {
    let Some(dir) = home_for("root_overlay2_is_refused_over_itself") else { return };
    let driver = Overlay2::open(&dir.path().join("overlay2"), &[]).unwrap();
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
    let error = Overlay2::open(&mounted.root().join("inner"), &[]).unwrap_err();
    assert_eq!(error.to_string(), "backing file system is unsupported for this graph driver");
    assert_eq!(names(mounted.root()), [""; 0]);
}
