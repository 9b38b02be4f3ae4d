//! Tests of what is particular to aufs. Those without a mount need no kernel that has it.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use berth_fs::atomic;
use berth_types::{LayerId, Owner};
use testkit::LoopFs;

use super::Aufs;
use super::probe::Abilities;
use crate::{
    Access, CreateOptions, LayerState, Mounted, NativeDiff as _, StorageDriver, Upkeep as _,
};

/// A driver that is not asked to mount anything.
fn unmounted() -> (tempfile::TempDir, PathBuf, Aufs) {
    let dir = tempfile::tempdir().unwrap();
    let home = dir.path().join("aufs");
    let driver = reopened(&home);
    (dir, home, driver)
}

fn reopened(home: &Path) -> Aufs {
    let abilities =
        Abilities { backing: "extfs", dirperm1: true, xino: "/dev/shm".into(), links: true };
    Aufs::assemble(home, Owner::ROOT, abilities).unwrap()
}

fn rw() -> CreateOptions {
    CreateOptions { writable: true, ..CreateOptions::default() }
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

fn image_layer(driver: &Aufs, parent: Option<&LayerId>) -> LayerId {
    let id = LayerId::random();
    driver.create(&id, parent, &CreateOptions::default()).unwrap();
    driver.commit(&id).unwrap();
    id
}

#[test]
fn layers_are_laid_out_as_dockers() {
    let (_dir, home, driver) = unmounted();
    let base = image_layer(&driver, None);
    let top = image_layer(&driver, Some(&base));
    let container = LayerId::random();
    driver.create(&container, Some(&top), &rw()).unwrap();

    assert_eq!(names(&home), ["committed", "diff", "layers", "mnt"]);
    for name in ["", "diff", "layers", "mnt"] {
        assert_eq!(mode(&home.join(name)), 0o710, "{name}");
    }
    let text = |id: &LayerId| fs::read_to_string(home.join("layers").join(id.as_str())).unwrap();
    assert_eq!(text(&base), "");
    assert_eq!(text(&top), format!("{base}\n"));
    assert_eq!(text(&container), format!("{top}\n{base}\n"));
    for id in [&base, &top, &container] {
        assert_eq!(mode(&home.join("diff").join(id.as_str())), 0o755);
        assert_eq!(mode(&home.join("mnt").join(id.as_str())), 0o755);
        assert_eq!(mode(&home.join("layers").join(id.as_str())), 0o644);
    }
    let plan = driver.prepare(&base, Access::Read).unwrap();
    assert_eq!(plan.root, home.join("diff").join(base.as_str()));
    assert_eq!((plan.mounts.len(), plan.teardown.len()), (0, 0));
    let plan = driver.prepare(&container, Access::Write).unwrap();
    assert_eq!(plan.root, home.join("mnt").join(container.as_str()));
    let h = home.display();
    let expected = [
        format!("br:{h}/diff/{container}=rw:{h}/diff/{top}=ro+wh:{h}/diff/{base}=ro+wh"),
        "dio".to_owned(),
        "xino=/dev/shm/aufs.xino".to_owned(),
        "dirperm1".to_owned(),
    ];
    assert_eq!(plan.mounts[0].options, expected);
    // Elsewhere the mount point is one that goes.
    let moved = plan.moved_to(Path::new("/elsewhere"));
    assert_eq!(moved.mounts[0].target, Path::new("/elsewhere"));
    assert_eq!(moved.teardown.len(), 1);
    assert_eq!(driver.metadata(&top).unwrap(), None);
    let status: Vec<_> =
        driver.status().into_iter().map(|(key, value)| format!("{key}: {value}")).collect();
    let expected = [
        format!("Root Dir: {h}"),
        "Backing Filesystem: extfs".to_owned(),
        "Dirs: 3".to_owned(),
        "Dirperm1 Supported: true".to_owned(),
    ];
    assert_eq!(status, expected);

    driver.remove(&container).unwrap();
    assert_eq!(driver.list().unwrap().len(), 2);
    for dir in ["layers", "mnt"] {
        assert_eq!(names(&home.join(dir)).len(), 2, "{dir}");
    }
    driver.reap().unwrap();
    assert_eq!(driver.status()[2].1, "2");
}

#[test]
fn options_are_refused_and_have_dockers_texts() {
    let dir = tempfile::tempdir().unwrap();
    #[rustfmt::skip]
    let table = [
        ("aufs.mountopt=x",   "aufs: unknown option aufs.mountopt"),
        ("Overlay2.Size=1G",  "aufs: unknown option overlay2.size"),
        ("foo",               "Unable to parse key/value option: foo"),
    ];
    for (option, text) in table {
        let error = Aufs::open(&dir.path().join("aufs"), &[option.to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), text, "{option}");
    }
    let (_dir, _home, driver) = unmounted();
    for writable in [true, false] {
        let storage_opt = [("size".to_owned(), "1G".to_owned())].into();
        let options = CreateOptions { writable, storage_opt, mount_label: String::new() };
        let error = driver.create(&LayerId::random(), None, &options).unwrap_err();
        assert_eq!(error.to_string(), "--storage-opt is not supported for aufs");
    }
}

#[test]
fn a_kernel_without_aufs_is_told_and_leaves_nothing() {
    let known = fs::read_to_string("/proc/filesystems").unwrap();
    if known.contains("aufs") {
        return testkit::skip("a_kernel_without_aufs_is_told_and_leaves_nothing", "no aufs");
    }
    let dir = tempfile::tempdir().unwrap();
    let error = Aufs::open(&dir.path().join("aufs"), &[]).unwrap_err();
    assert_eq!(error.to_string(), "driver not supported");
    assert!(names(dir.path()).is_empty());
}

#[test]
fn more_layers_than_aufs_has_branches_are_refused() {
    let (_dir, home, driver) = unmounted();
    let mut top = image_layer(&driver, None);
    for _ in 1..127 {
        top = image_layer(&driver, Some(&top));
    }
    let plan = driver.prepare(&top, Access::Read).unwrap();
    let branches = plan.mounts[0].options.join(",").matches("=ro+wh").count();
    assert_eq!(branches, 127);
    let error = driver.create(&LayerId::random(), Some(&top), &rw()).unwrap_err();
    assert_eq!(error.to_string(), "max depth exceeded");
    assert_eq!(names(&home.join("layers")).len(), 127);
    let other = image_layer(&driver, None);
    let error = driver.stand_on(&other, Some(&top)).unwrap_err();
    assert_eq!(error.to_string(), "max depth exceeded");
}

#[test]
fn what_a_power_cut_tore_is_named_and_mended() {
    let (_dir, home, driver) = unmounted();
    let (base, other) = (image_layer(&driver, None), image_layer(&driver, None));
    let top = LayerId::random();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let file = home.join("layers").join(top.as_str());
    for torn in [Some("../../etc\n"), Some(&base.as_str()[..20]), None] {
        match torn {
            Some(torn) => atomic::write(&file, torn.as_bytes()).unwrap(),
            None => fs::remove_file(&file).unwrap(),
        }
        let error = driver.prepare(&top, Access::Write).unwrap_err();
        assert_eq!(error.to_string(), format!("file layers of layer {top} is damaged"));
        fs::remove_dir(home.join("mnt").join(top.as_str())).unwrap();
        driver.stand_on(&top, Some(&base)).unwrap();
        assert_eq!(driver.lower_dirs(&top).unwrap(), [driver.diff_dir(&base)]);
        assert!(home.join("mnt").join(top.as_str()).is_dir());
    }
    driver.stand_on(&top, Some(&other)).unwrap();
    assert_eq!(driver.lower_dirs(&top).unwrap(), [driver.diff_dir(&other)]);
    driver.stand_on(&top, None).unwrap();
    assert_eq!(driver.lower_dirs(&top).unwrap(), [] as [PathBuf; 0]);
}

#[test]
fn recovery_removes_what_belongs_to_no_layer_and_nothing_else() {
    let (_dir, home, driver) = unmounted();
    let base = image_layer(&driver, None);
    let gone = LayerId::random();
    for (dir, name) in [
        ("layers", gone.as_str()),
        ("committed", gone.as_str()),
        ("layers", "notes"),
        ("layers", &format!("{}7", atomic::TEMPORARY_PREFIX)),
    ] {
        File::create(home.join(dir).join(name)).unwrap();
    }
    let removing = format!("{gone}-removing");
    for (dir, name) in [
        ("mnt", gone.as_str()),
        ("mnt", "foreign"),
        ("diff", &format!(".berth-creating-{gone}")),
        ("diff", &removing),
    ] {
        fs::create_dir(home.join(dir).join(name)).unwrap();
    }
    let driver = {
        drop(driver);
        reopened(&home)
    };
    for _ in 0..2 {
        driver.recover(&|_| false).unwrap();
        assert_eq!(names(&home.join("committed")), [base.as_str()]);
        let mut layers = vec![base.as_str(), "notes"];
        layers.sort_unstable();
        assert_eq!(names(&home.join("layers")), layers);
        let mut points = vec![base.as_str(), "foreign"];
        points.sort_unstable();
        assert_eq!(names(&home.join("mnt")), points);
        let own: Vec<_> =
            names(&home.join("diff")).into_iter().filter(|name| name.len() >= 64).collect();
        let mut expected = vec![base.to_string(), removing.clone()];
        expected.sort();
        assert_eq!(own, expected);
    }
    // A name that was left does not freeze the next layer that has it.
    File::create(home.join("committed").join(gone.as_str())).unwrap();
    driver.create(&gone, Some(&base), &rw()).unwrap();
    assert!(driver.list().unwrap().contains(&(gone, LayerState::Active)));
}

#[test]
fn a_layer_takes_the_place_of_another_with_what_it_stands_on() {
    let (_dir, _home, driver) = unmounted();
    let (base, new) = (image_layer(&driver, None), image_layer(&driver, None));
    let place = image_layer(&driver, Some(&base));
    File::create(driver.diff_dir(&new).join("new")).unwrap();
    driver.replace(&place, &new).unwrap();
    assert_eq!(names(&driver.diff_dir(&place)), ["new"]);
    assert_eq!(driver.lower_dirs(&place).unwrap(), [] as [PathBuf; 0]);
    assert_eq!(driver.lower_dirs(&new).unwrap(), [driver.diff_dir(&base)]);
    driver.remove(&place).unwrap();
    driver.replace(&place, &new).unwrap();
    let mut expected = [base.clone(), place.clone()].map(|id| (id, LayerState::Committed));
    expected.sort_by(|a, b| a.0.cmp(&b.0));
    let mut found = driver.list().unwrap();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(found, expected);
    assert_eq!(driver.lower_dirs(&place).unwrap(), [driver.diff_dir(&base)]);
}

/// A driver over a file system of its own, on a kernel that has aufs.
fn mounting(test: &str) -> Option<(LoopFs, PathBuf, Aufs)> {
    if !testkit::in_vm(test) {
        return None;
    }
    if !fs::read_to_string("/proc/filesystems").unwrap().contains("aufs") {
        testkit::skip(test, "a kernel with aufs (--kernel)");
        return None;
    }
    let fs = LoopFs::or_skip(test, "ext4")?;
    let home = fs.path().join("aufs");
    let driver = Aufs::open(&home, &[]).unwrap();
    Some((fs, home, driver))
}

#[test]
fn vm_aufs_marks_what_is_deleted_by_files() {
    let Some((_fs, home, driver)) = mounting("vm_aufs_marks_what_is_deleted_by_files") else {
        return;
    };
    let base = LayerId::random();
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    for dir in ["d/sub", "kept"] {
        fs::create_dir_all(driver.diff_dir(&base).join(dir)).unwrap();
    }
    for file in ["d/f", "d/sub/f", "g", "kept/x", "kept/y"] {
        atomic::write(&driver.diff_dir(&base).join(file), b"old").unwrap();
    }
    driver.commit(&base).unwrap();
    let top = LayerId::random();
    driver.create(&top, Some(&base), &rw()).unwrap();
    {
        let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
        let at = |name: &str| mounted.root().join(name);
        fs::remove_file(at("g")).unwrap();
        fs::remove_dir_all(at("d")).unwrap();
        fs::create_dir(at("d")).unwrap();
        File::create(at("d/n")).unwrap();
        fs::remove_file(at("kept/y")).unwrap();
        File::create(at(".wh.own")).unwrap_err();
        assert_eq!(names(mounted.root()), ["d", "kept"]);
        let shm = fs::read_dir("/dev/shm").unwrap().count();
        assert_eq!(shm, 0, "the file of inode numbers has no name");
    }
    let own = driver.diff_dir(&top);
    let mut marks = vec![".wh..wh.aufs", ".wh..wh.orph", ".wh..wh.plnk", ".wh.g", "d", "kept"];
    if !testkit::has_program("auplink") {
        marks.remove(2);
    }
    assert_eq!(names(&own), marks);
    assert_eq!(names(&own.join("d")), [".wh..wh..opq", "n"]);
    assert_eq!(names(&own.join("kept")), [".wh.y"]);
    let inode = |name: &str| fs::symlink_metadata(own.join(name)).unwrap().ino();
    assert_eq!(inode(".wh.g"), inode(".wh..wh.aufs"));
    assert_eq!(mode(&own.join(".wh.g")), 0o444);
    assert!(home.join("mnt").join(top.as_str()).is_dir(), "the mount point stays");

    let root = |path: &Path| berth_fs::root::Root::open(path).unwrap();
    let (upper, lower) = (root(&own), root(&driver.diff_dir(&base)));
    let found = berth_fs::changes::of_upper(&upper, &[lower], driver.marks()).unwrap();
    let lines: Vec<String> =
        found.iter().map(|change| format!("{:?} {}", change.kind, change.path.display())).collect();
    let expected = [
        "Modified /d",
        "Added /d/n",
        "Deleted /d/f",
        "Deleted /d/sub",
        "Modified /kept",
        "Deleted /kept/y",
        "Deleted /g",
    ];
    assert_eq!(lines, expected);
    assert_eq!(berth_fs::changes::tree_size(&upper).unwrap(), 0);
}

#[test]
fn vm_aufs_is_refused_over_btrfs_and_itself() {
    let test = "vm_aufs_is_refused_over_btrfs_and_itself";
    let Some((_fs, _home, driver)) = mounting(test) else { return };
    let refused = "backing file system is unsupported for this graph driver";
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
    let error = Aufs::open(&mounted.root().join("inner"), &[]).unwrap_err();
    assert_eq!(error.to_string(), refused);
    drop(mounted);
    let Some(fs) = LoopFs::or_skip(test, "btrfs") else { return };
    let error = Aufs::open(&fs.path().join("aufs"), &[]).unwrap_err();
    assert_eq!(error.to_string(), refused);
}

#[test]
fn vm_aufs_mounts_the_same_layer_many_times_at_once() {
    let Some((fs, _home, driver)) = mounting("vm_aufs_mounts_the_same_layer_many_times_at_once")
    else {
        return;
    };
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    File::create(driver.diff_dir(&base).join("f")).unwrap();
    driver.commit(&base).unwrap();
    driver.create(&top, Some(&base), &CreateOptions::default()).unwrap();
    driver.commit(&top).unwrap();
    std::thread::scope(|scope| {
        for at in 0..8 {
            let target = fs.path().join(format!("reader-{at}"));
            let plan = driver.prepare(&top, Access::Read).unwrap().aside(&target);
            scope.spawn(move || {
                for _ in 0..20 {
                    let mounted = Mounted::new(plan.clone()).unwrap();
                    assert_eq!(names(mounted.root()), ["f"]);
                }
            });
        }
    });
}

#[test]
fn vm_aufs_homes_have_any_name() {
    let Some((fs, _home, _driver)) = mounting("vm_aufs_homes_have_any_name") else { return };
    for name in ["a:b", "a,b=rw", "with space", "back\\slash"] {
        let home = fs.path().join(name).join("aufs");
        fs::create_dir(home.parent().unwrap()).unwrap();
        let driver = Aufs::open(&home, &[]).unwrap();
        let mut top = LayerId::random();
        driver.create(&top, None, &CreateOptions::default()).unwrap();
        File::create(driver.diff_dir(&top).join("f")).unwrap();
        for _ in 0..80 {
            let next = LayerId::random();
            driver.create(&next, Some(&top), &rw()).unwrap();
            top = next;
        }
        let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
        File::create(mounted.root().join("g")).unwrap();
        assert_eq!(names(mounted.root()), ["f", "g"], "{name}");
    }
}
