//! What an administrator who knows Docker's driver finds.

use std::fs::{self, File};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use berth_types::{LayerId, Owner};
use testkit::zpool::Zpool;

use super::{Zfs, open, opts};
use crate::suite::{content, layer, listed, rw, same, write};
use crate::{Access, CreateOptions, LayerState, Mounted, StorageDriver as _};

fn asking(key: &str, value: &str) -> CreateOptions {
    let storage_opt = [(key.to_owned(), value.to_owned())].into();
    CreateOptions { storage_opt, ..rw() }
}

/// Names below a dataset, without it.
fn below(pool: &Zpool, name: &str) -> Vec<String> {
    let begin = format!("{}/", pool.dataset(name));
    let list = pool.zfs(&["list", "-H", "-r", "-t", "all", "-o", "name", &pool.dataset(name)]);
    list.lines().filter_map(|line| line.strip_prefix(&begin)).map(str::to_owned).collect()
}

#[test]
fn vm_zfs_datasets_mounts_and_status_are_dockers() {
    let Some(pool) = Zpool::or_skip("vm_zfs_datasets_mounts_and_status_are_dockers") else {
        return;
    };
    let home = pool.create("docker", &["compression=lz4"]).join("zfs");
    let driver = open(&home);
    for dir in [home.clone(), home.join("graph")] {
        assert_eq!(dir.metadata().unwrap().mode() & 0o7777, 0o710, "{}", dir.display());
    }
    let dataset = pool.dataset("docker");
    let status = driver.status();
    #[rustfmt::skip]
    let expected = [
        ("Zpool", "berth"), ("Zpool Health", "ONLINE"), ("Parent Dataset", dataset.as_str()),
        ("Space Used By Parent", ""), ("Space Available", ""), ("Parent Quota", "no"),
        ("Compression", "lz4"),
    ];
    assert_eq!(status.len(), expected.len(), "{status:?}");
    for ((key, value), (wanted, begin)) in status.iter().zip(expected) {
        assert!(key == wanted && value.starts_with(begin), "{key}: {value}");
    }
    for at in [3, 4] {
        assert!(status[at].1.parse::<u64>().unwrap() > 0, "{status:?}");
    }
    let base = layer(&driver, None, &["a"]);
    let top = LayerId::random();
    driver.create(&top, Some(&base), &asking("size", "20M")).unwrap();
    let mut expected = vec![base.to_string(), format!("{base}@committed"), top.to_string()];
    let mut found = below(&pool, "docker");
    expected.sort();
    found.sort();
    assert_eq!(found, expected);
    let data = driver.metadata(&top).unwrap().unwrap();
    let at = home.join("graph").join(top.as_str());
    let expected =
        [("Dataset", format!("{dataset}/{top}")), ("Mountpoint", at.display().to_string())];
    assert_eq!(data, expected.map(|(key, value)| (key.to_owned(), value)).into());
    let columns = "mountpoint,quota,origin,mounted";
    let values = pool.zfs(&["get", "-H", "-p", "-o", "value", columns, &data["Dataset"]]);
    assert_eq!(values, format!("legacy\n20971520\n{dataset}/{base}@committed\nno\n"));
    {
        let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
        assert_eq!(mounted.root(), at);
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let line = format!("{dataset}/{top} {} zfs rw,", at.display());
        assert!(mounts.contains(&line), "{line} is not in {mounts}");
    }
    assert!(!at.try_exists().unwrap(), "the mount point goes with the mount");
    for id in [&top, &base] {
        driver.remove(id).unwrap();
    }
    driver.reap().unwrap();
    assert_eq!(below(&pool, "docker"), [""; 0]);
}

#[test]
fn vm_zfs_refusals_have_dockers_texts() {
    let Some(pool) = Zpool::or_skip("vm_zfs_refusals_have_dockers_texts") else { return };
    let home = pool.create("docker", &[]).join("zfs");
    let elsewhere = tempfile::tempdir().unwrap();
    let prerequisites = "prerequisites for driver not satisfied (wrong filesystem?)";
    let missing = "Cannot find root filesystem berth/nosuch: zfs get: cannot open 'berth/nosuch': \
                   dataset does not exist";
    let invalid = "Cannot find root filesystem -r: invalid name of a dataset";
    #[rustfmt::skip]
    let table: &[(&Path, &[&str], &str)] = &[
        (&home,            &["foo"],                      "Unable to parse key/value option: foo"),
        (&home,            &["overlay2.size=1G"],         "Unknown option overlay2.size"),
        (&home,            &["zfs.fsname=berth/nosuch"],  missing),
        (&home,            &["zfs.fsname=-r"],            invalid),
        (elsewhere.path(), &[],                           prerequisites),
        (elsewhere.path(), &["overlay2.size=1G"],         prerequisites),
    ];
    for (home, options, text) in table {
        let error = Zfs::open(home, &opts(options)).unwrap_err();
        assert_eq!(berth_types::kind::chain(&error), *text, "{options:?}");
    }
    assert!(!home.try_exists().unwrap(), "nothing was made");
    let driver = open(&home);
    let base = layer(&driver, None, &["a"]);
    let id = LayerId::random();
    let name = format!("berth/docker/{id}");
    #[rustfmt::skip]
    let table = [
        ("foo",  "1",   "Unknown option foo".to_owned()),
        ("size", "x",   format!("cannot create '{name}': bad numeric value 'x'")),
        ("size", "1x",  format!("cannot create '{name}': invalid numeric suffix 'x'")),
        ("size", "0",   format!("cannot create '{name}': use 'none' to disable quota/refquota")),
        ("size", "1G,readonly=on", format!("cannot create '{name}': invalid numeric suffix 'G,readonly=on'")),
    ];
    for (key, value, text) in table {
        for parent in [None, Some(&base)] {
            let error = driver.create(&id, parent, &asking(key, value)).unwrap_err();
            assert_eq!(error.to_string(), text, "{key}={value}");
            let kind = berth_types::Classify::kind(&error);
            assert_eq!(kind, berth_types::ErrorKind::InvalidParameter, "{key}={value}");
        }
    }
    assert_eq!(listed(&driver), [(base, LayerState::Committed)]);
}

#[test]
fn vm_zfs_holds_a_container_to_its_size_and_no_other() {
    let Some(pool) = Zpool::or_skip("vm_zfs_holds_a_container_to_its_size_and_no_other") else {
        return;
    };
    let home = pool.create("docker", &[]).join("zfs");
    let driver = open(&home);
    let base = layer(&driver, None, &["a"]);
    let (small, free) = (LayerId::random(), LayerId::random());
    driver.create(&small, Some(&base), &asking("SIZE", "2M")).unwrap();
    driver.create(&free, Some(&base), &rw()).unwrap();
    drop(driver);
    let driver = open(&home);
    let fill = |id: &LayerId| {
        let mounted = Mounted::new(driver.prepare(id, Access::Write).unwrap()).unwrap();
        let mut file = File::create(mounted.root().join("big")).unwrap();
        file.write_all(&vec![1; 8 << 20]).and_then(|()| file.sync_all())
    };
    assert_eq!(fill(&small).unwrap_err().kind(), ErrorKind::QuotaExceeded);
    fill(&free).unwrap();
}

#[test]
fn vm_zfs_a_dataset_serves_one_data_root() {
    let Some(pool) = Zpool::or_skip("vm_zfs_a_dataset_serves_one_data_root") else { return };
    let first = pool.create("docker", &[]).join("zfs");
    let fsname = |name: &str| opts(&[&format!("zfs.fsname={}", pool.dataset(name))]);
    let driver = open(&first);
    let base = layer(&driver, None, &["a"]);
    // Elsewhere, while it is open and afterwards.
    let other = tempfile::tempdir().unwrap();
    let second = other.path().join("zfs");
    let refused = |home: &Path, name: &str, begin: &str| {
        let error = Zfs::open(home, &fsname(name)).unwrap_err().to_string();
        assert!(error.starts_with(begin), "{error}");
    };
    let theirs = "dataset berth/docker belongs to another data root (berth:home=";
    refused(&second, "docker", theirs);
    drop(driver);
    refused(&second, "docker", theirs);
    // A mark is not inherited, and a data root on another file system has its layers here.
    pool.create("docker/inner", &[]);
    let inner = Zfs::open(&second, &fsname("docker/inner")).unwrap();
    let own = layer(&inner, None, &["b"]);
    assert_eq!(listed(&inner), [(own, LayerState::Committed)]);
    drop(inner);
    refused(&second, "docker", theirs);
    pool.create("new", &[]);
    refused(&second, "new", "the layers of this data root are in dataset berth/docker/inner, not");
    // Its neighbour is not touched.
    let driver = open(&first);
    driver.recover(&|_| false).unwrap();
    assert_eq!(listed(&driver), [(base.clone(), LayerState::Committed)]);
    drop(driver);

    // Another engine's layers are not touched either.
    let foreign = LayerId::random();
    pool.create(&format!("new/{foreign}"), &["mountpoint=legacy"]);
    let third = tempfile::tempdir().unwrap();
    refused(&third.path().join("zfs"), "new", "dataset berth/new has layers of another engine");
    assert_eq!(below(&pool, "new"), [foreign.to_string()]);
    // What lost its mark says how to mark it, and what was renamed is known by its mark.
    pool.zfs(&["inherit", "berth:home", "berth/docker"]);
    refused(&first, "docker", "dataset berth/docker has layers and does not say that they are");
    let record = fs::read_to_string(first.join(".berth-home")).unwrap();
    let number = record.lines().nth(1).unwrap();
    pool.zfs(&["set", &format!("berth:home={number}"), "berth/docker"]);
    pool.zfs(&["rename", "berth/docker", "berth/renamed"]);
    let first = pool.path().join("renamed/zfs");
    assert_eq!(content(&open(&first), &base), same(&["a"]));
}

#[test]
fn vm_zfs_a_layer_outlives_what_it_stands_on() {
    let Some(pool) = Zpool::or_skip("vm_zfs_a_layer_outlives_what_it_stands_on") else { return };
    let home = pool.create("docker", &[]).join("zfs");
    let driver = open(&home);
    let base = layer(&driver, None, &["a"]);
    let middle = layer(&driver, Some(&base), &["b"]);
    let top = layer(&driver, Some(&middle), &["c"]);
    // Snapshots and file systems of an administrator's are no obstacle; one that he made elsewhere
    // of a layer is.
    pool.zfs(&["snapshot", "-r", "berth/docker@auto"]);
    let inner = format!("berth/docker/{middle}/inner");
    pool.zfs(&["create", "-o", "mountpoint=legacy", &inner]);
    pool.zfs(&["clone", &format!("berth/docker/{base}@auto"), "berth/copy"]);
    for id in [&base, &middle] {
        driver.remove(id).unwrap();
        driver.reap().unwrap();
    }
    let removed = |id: &LayerId| format!(".berth-removing-{id}-0");
    let trash = || below(&pool, "docker").into_iter().filter(|name| !name.contains(['@', '/']));
    let mut expected = vec![removed(&base), removed(&middle), top.to_string()];
    expected.sort();
    assert_eq!(trash().collect::<Vec<_>>(), expected);
    drop(driver);
    let driver = open(&home);
    driver.recover(&|_| false).unwrap();
    driver.reap().unwrap();
    assert_eq!(listed(&driver), [(top.clone(), LayerState::Committed)]);
    assert_eq!(content(&driver, &top), same(&["a", "b", "c"]));
    let above = LayerId::random();
    driver.create(&above, Some(&top), &rw()).unwrap();
    write(&driver, &above, &["d"]);
    assert_eq!(content(&driver, &above), same(&["a", "b", "c", "d"]));
    for id in [&above, &top] {
        driver.remove(id).unwrap();
    }
    driver.reap().unwrap();
    assert_eq!(trash().collect::<Vec<_>>(), [removed(&base)]);
    pool.zfs(&["destroy", "berth/copy"]);
    driver.reap().unwrap();
    assert_eq!(trash().count(), 0);
}

#[test]
fn vm_zfs_a_removed_layer_goes_with_its_last_user() {
    let Some(pool) = Zpool::or_skip("vm_zfs_a_removed_layer_goes_with_its_last_user") else {
        return;
    };
    let home = pool.create("docker", &[]).join("zfs");
    let driver = open(&home);
    let id = LayerId::random();
    driver.create(&id, None, &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&id, Access::Write).unwrap()).unwrap();
    let held = File::create(mounted.root().join("held")).unwrap();
    driver.remove(&id).unwrap();
    driver.reap().unwrap();
    assert_eq!(below(&pool, "docker"), [format!(".berth-removing-{id}-0")]);
    (&held).write_all(b"still there").unwrap();
    drop(held);
    while !below(&pool, "docker").is_empty() {
        std::thread::sleep(std::time::Duration::from_millis(100));
    }
}

#[test]
fn vm_zfs_a_pool_that_is_not_imported_is_imported() {
    let Some(pool) = Zpool::or_skip("vm_zfs_a_pool_that_is_not_imported_is_imported") else {
        return;
    };
    pool.create("docker", &[]);
    let options = opts(&["zfs.fsname=berth/docker"]);
    let root = tempfile::tempdir().unwrap();
    let home = root.path().join("zfs");
    let driver = Zfs::open(&home, &options).unwrap();
    let base = layer(&driver, None, &["a"]);
    let top = LayerId::random();
    driver.create(&top, Some(&base), &rw()).unwrap();
    write(&driver, &top, &["b"]);
    driver.sync().unwrap();
    let before = listed(&driver);
    drop(driver);
    pool.export();
    let driver = Zfs::open(&home, &options).unwrap();
    driver.recover(&|_| false).unwrap();
    assert_eq!(listed(&driver), before);
    assert_eq!(content(&driver, &top), same(&["a", "b"]));
    let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
    assert!(!mounts.contains("berth/docker "), "what is not needed is not mounted: {mounts}");
    if testkit::is_soak() {
        // Half a minute of looking at disks, where there is no udev.
        let error = Zfs::open(&home, &opts(&["zfs.fsname=nosuch/x"])).unwrap_err();
        let text = "Cannot find root filesystem nosuch: zpool import: cannot import 'nosuch': no \
                    such pool available (see zpool import, then: zpool import nosuch)";
        assert_eq!(berth_types::kind::chain(&error), text);
    }
}

#[test]
fn vm_zfs_a_full_pool_refuses_and_loses_nothing() {
    let Some(pool) = Zpool::or_skip("vm_zfs_a_full_pool_refuses_and_loses_nothing") else { return };
    // A quota of the dataset stands for the size of a pool, and is reached sooner.
    let home = pool.create("docker", &["quota=8M"]).join("zfs");
    let driver = open(&home);
    let base = layer(&driver, None, &["a"]);
    let top = LayerId::random();
    driver.create(&top, Some(&base), &rw()).unwrap();
    {
        let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
        let mut file = File::create(mounted.root().join("big")).unwrap();
        let full = loop {
            if let Err(error) = file.write_all(&vec![1; 1 << 20]) {
                break error;
            }
        };
        assert_eq!(full.kind(), ErrorKind::QuotaExceeded);
    }
    driver.sync().unwrap();
    let next = LayerId::random();
    let mut made = vec![(base.clone(), LayerState::Committed), (top.clone(), LayerState::Active)];
    match driver.create(&next, Some(&base), &rw()) {
        Ok(()) => made.push((next.clone(), LayerState::Active)),
        Err(error) => assert!(error.to_string().starts_with("zfs clone: "), "{error}"),
    }
    made.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(listed(&driver), made);
    // The mount point would be in the dataset that is full: first something goes.
    for id in [&next, &top] {
        driver.remove(id).unwrap();
    }
    driver.reap().unwrap();
    let again = layer(&driver, Some(&base), &["b"]);
    assert_eq!(content(&driver, &again), same(&["a", "b"]));
}

#[test]
fn vm_zfs_roots_belong_to_the_root_of_containers() {
    let Some(pool) = Zpool::or_skip("vm_zfs_roots_belong_to_the_root_of_containers") else {
        return;
    };
    let home = pool.create("docker", &[]).join("zfs");
    let root = Owner { uid: 100_000, gid: 200_000 };
    let driver = Zfs::open_for(&home, &[], root).unwrap();
    let base = layer(&driver, None, &["a"]);
    let top = LayerId::random();
    driver.create(&top, Some(&base), &rw()).unwrap();
    let mounted = Mounted::new(driver.prepare(&top, Access::Read).unwrap()).unwrap();
    let owner = |path: &Path| {
        let meta = path.metadata().unwrap();
        (meta.uid(), meta.gid(), meta.mode() & 0o7777)
    };
    assert_eq!(owner(mounted.root()), (100_000, 200_000, 0o755));
    for dir in [home.clone(), home.join("graph")] {
        assert_eq!(owner(&dir), (0, 200_000, 0o710));
    }
}
