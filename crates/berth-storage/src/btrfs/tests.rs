//! Tests of what is particular to btrfs: Docker's layout, options and texts, nested subvolumes.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use berth_fs::reserve;
use berth_fs::root::Root;
use berth_types::LayerId;
use testkit::LoopFs;

use super::Btrfs;
use crate::transfer::{self, Transfer};
use crate::{Access, CreateOptions, StorageDriver, suite};

fn opts(options: &[&str]) -> Vec<String> {
    options.iter().map(|&option| option.to_owned()).collect()
}

fn sized(key: &str, value: &str) -> CreateOptions {
    let storage_opt = [(key.to_owned(), value.to_owned())].into();
    CreateOptions { writable: true, storage_opt, mount_label: String::new() }
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

fn subvolume(path: &Path) {
    let parent = File::open(path.parent().unwrap()).unwrap();
    berth_sys::btrfs::create_subvolume(parent, path.file_name().unwrap()).unwrap();
}

#[test]
fn root_btrfs_keeps_the_contract() {
    let Some(fs) = LoopFs::or_skip("root_btrfs_keeps_the_contract", "btrfs") else { return };
    suite::run(&|home| Arc::new(Btrfs::open(home, &[]).unwrap()), &fs.path());
}

#[test]
fn it_is_refused_where_there_is_no_btrfs() {
    let dir = tempfile::tempdir().unwrap();
    for options in [&[][..], &["foo"], &["overlay2.size=1G"]] {
        let error = Btrfs::open(&dir.path().join("btrfs"), &opts(options)).unwrap_err();
        assert_eq!(
            error.to_string(),
            "prerequisites for driver not satisfied (wrong filesystem?)",
            "{options:?}"
        );
    }
    assert_eq!(names(dir.path()), [""; 0]);
}

#[test]
fn root_btrfs_is_laid_out_as_dockers() {
    let Some(fs) = LoopFs::or_skip("root_btrfs_is_laid_out_as_dockers", "btrfs") else { return };
    let home = fs.path().join("btrfs");
    let driver = Btrfs::open(&home, &[]).unwrap();
    assert_eq!(names(&home), ["quotas", "subvolumes"]);
    #[rustfmt::skip]
    let modes = [("", 0o710), ("quotas", 0o700), ("subvolumes", 0o710)];
    for (name, expected) in modes {
        assert_eq!(mode(&home.join(name)), expected, "{name}");
    }
    let base = LayerId::random();
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.commit(&base).unwrap();
    let container = LayerId::random();
    for (id, below) in [(container.init(), &base), (container.clone(), &container.init())] {
        driver.create(&id, Some(below), &sized("size", "20M")).unwrap();
        let quota = fs::read_to_string(home.join("quotas").join(id.as_str())).unwrap();
        assert_eq!(quota, "20971520");
        assert_eq!(mode(&home.join("subvolumes").join(id.as_str())), 0o755);
        assert!(
            berth_sys::btrfs::is_subvolume(&home.join("subvolumes").join(id.as_str())).unwrap()
        );
    }
    assert_eq!(driver.metadata(&container).unwrap(), None);
    assert_eq!(driver.status(), [("Btrfs".to_owned(), String::new())]);
    for id in [container.clone(), container.init(), base] {
        driver.remove(&id).unwrap();
    }
    driver.reap().unwrap();
    assert_eq!(names(&home.join("quotas")), [""; 0]);
    assert_eq!(names(&home.join("subvolumes")), [reserve::NAME]);
}

#[test]
fn root_btrfs_options_have_dockers_texts() {
    let Some(fs) = LoopFs::or_skip("root_btrfs_options_have_dockers_texts", "btrfs") else {
        return;
    };
    let home = fs.path().join("btrfs");
    #[rustfmt::skip]
    let table: &[(&str, &str)] = &[
        ("overlay2.size=1G",  "Unknown option overlay2.size"),
        ("btrfs.min_space=x", "invalid size: 'x'"),
        ("foo",               "Unable to parse key/value option: foo"),
    ];
    for (option, text) in table {
        let error = Btrfs::open(&home, &opts(&[option])).unwrap_err();
        assert_eq!(error.to_string(), *text, "{option}");
    }
    assert_eq!(names(&fs.path()), [""; 0]);
    let driver = Btrfs::open(&home, &opts(&["Btrfs.Min_Space = 10G"])).unwrap();
    #[rustfmt::skip]
    let table = [
        ("size", "0",   "btrfs: invalid storage size: 0B"),
        ("size", "1x",  "invalid size: '1x'"),
        ("size", "1G",  "btrfs: storage size cannot be less than 10.74GB"),
        ("foo",  "1",   "Unknown option foo"),
    ];
    for (key, value, text) in table {
        let error = driver.create(&LayerId::random(), None, &sized(key, value)).unwrap_err();
        assert_eq!(error.to_string(), text, "{key}={value}");
    }
    assert_eq!(driver.list().unwrap(), []);
    assert_eq!(names(&home.join("quotas")), [""; 0]);
    driver.create(&LayerId::random(), None, &sized("size", "10G")).unwrap();
}

#[test]
fn root_btrfs_holds_a_container_to_its_size() {
    let Some(fs) = LoopFs::or_skip("root_btrfs_holds_a_container_to_its_size", "btrfs") else {
        return;
    };
    let home = fs.path().join("btrfs");
    let driver = Btrfs::open(&home, &[]).unwrap();
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.commit(&base).unwrap();
    driver.create(&top, Some(&base), &sized("size", "2M")).unwrap();
    let fill = |driver: &Btrfs, name: &str| {
        let root = driver.prepare(&top, Access::Write).unwrap().root;
        let mut file = File::create(root.join(name)).unwrap();
        file.write_all(&vec![1; 8 << 20]).and_then(|()| file.sync_all())
    };
    assert_eq!(fill(&driver, "a").unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
    drop(driver);
    // The saved size is put into effect again, wherever quotas stand.
    let quotas_off = std::process::Command::new("btrfs")
        .args(["quota", "disable"])
        .arg(fs.path())
        .status()
        .unwrap();
    assert!(quotas_off.success());
    let driver = Btrfs::open(&home, &[]).unwrap();
    fs::remove_file(driver.prepare(&top, Access::Read).unwrap().root.join("a")).unwrap();
    assert_eq!(fill(&driver, "b").unwrap_err().kind(), std::io::ErrorKind::QuotaExceeded);
}

#[test]
fn root_btrfs_removes_what_a_container_nested() {
    let Some(fs) = LoopFs::or_skip("root_btrfs_removes_what_a_container_nested", "btrfs") else {
        return;
    };
    let home = fs.path().join("btrfs");
    let driver = Btrfs::open(&home, &[]).unwrap();
    let id = LayerId::random();
    driver.create(&id, None, &CreateOptions::default()).unwrap();
    let root = driver.prepare(&id, Access::Write).unwrap().root;
    let mut deep = root.join("deep");
    fs::create_dir(&deep).unwrap();
    for _ in 0..100 {
        deep.push("n");
        subvolume(&deep);
        deep.push("d");
        fs::create_dir(&deep).unwrap();
    }
    for at in 0..300 {
        subvolume(&root.join(format!("many{at}")));
    }
    subvolume(&root.join("sealed"));
    subvolume(&root.join("sealed/inner"));
    File::create(root.join("sealed/inner/f")).unwrap();
    for path in ["sealed/inner", "sealed"] {
        berth_sys::btrfs::set_read_only(File::open(root.join(path)).unwrap(), true).unwrap();
    }
    // A container that saw this coming.
    fs::create_dir_all(root.join(".berth-deep-1/x")).unwrap();
    driver.commit(&id).unwrap();
    let child = LayerId::random();
    driver.create(&child, Some(&id), &CreateOptions::default()).unwrap();
    driver.remove(&child).unwrap();
    driver.remove(&id).unwrap();
    driver.reap().unwrap();
    assert_eq!(names(&home.join("subvolumes")), [reserve::NAME]);
}

#[test]
fn root_btrfs_interrupted_creations_are_removed() {
    let Some(fs) = LoopFs::or_skip("root_btrfs_interrupted_creations_are_removed", "btrfs") else {
        return;
    };
    let home = fs.path().join("btrfs");
    let driver = Btrfs::open(&home, &[]).unwrap();
    let (id, kept) = (LayerId::random(), LayerId::random());
    driver.create(&kept, None, &sized("size", "30M")).unwrap();
    let left = home.join("subvolumes").join(format!(".berth-creating-{id}"));
    subvolume(&left);
    fs::create_dir_all(left.join("half/made")).unwrap();
    for sent in [&kept, &kept.init()] {
        subvolume(&home.join("subvolumes").join(format!(".berth-creating-{sent}-backup")));
    }
    File::create(home.join("quotas").join(id.as_str())).unwrap();
    driver.recover(&|_| false).unwrap();
    assert_eq!(names(&home.join("subvolumes")), [reserve::NAME, kept.as_str()]);
    assert_eq!(names(&home.join("quotas")), [kept.as_str()]);
    File::create(home.join("quotas").join(kept.as_str())).unwrap();
    let error = driver.prepare(&kept, Access::Write).unwrap_err();
    assert_eq!(error.to_string(), format!("the quota of layer {kept} is damaged"));
}

#[test]
fn root_btrfs_sends_a_layer_while_others_are_removed() {
    let test = "root_btrfs_sends_a_layer_while_others_are_removed";
    let (Some(fs), Some(other)) = (LoopFs::or_skip(test, "btrfs"), LoopFs::or_skip(test, "btrfs"))
    else {
        return;
    };
    let driver = Btrfs::open(&fs.path().join("btrfs"), &[]).unwrap();
    let id = LayerId::random();
    driver.create(&id, None, &CreateOptions::default()).unwrap();
    let root = driver.prepare(&id, Access::Write).unwrap().root;
    File::create(root.join("file")).unwrap().write_all(b"content").unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                driver.reap().unwrap();
            }
        });
        let copied = (0..10).try_for_each(|n| {
            let to = other.path().join(n.to_string());
            transfer::make_home("btrfs", &to)?;
            let target = Root::open(&to.join("btrfs")).unwrap();
            let mut all = Transfer::open("btrfs", &fs.path(), &to, &target)?;
            all.layer(&id, None)?;
            let there = fs::read(to.join("btrfs/subvolumes").join(id.as_str()).join("file"));
            assert_eq!(there.unwrap(), b"content");
            Ok::<_, crate::StorageError>(())
        });
        done.store(true, Ordering::Relaxed);
        copied.unwrap();
    });
}
