//! Tests of what is particular to fuse-overlayfs: the helper, options and texts.

use std::fs::{self, File};
use std::io::Write as _;
use std::mem::ManuallyDrop;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_types::LayerId;

use super::FuseOverlayfs;
use super::helpers::served_by;
use crate::{Access, CreateOptions, Mounted, StorageDriver, suite};

/// A directory on the machine's own file system, or a named skip.
fn home_for(test: &str) -> Option<tempfile::TempDir> {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return None;
    }
    if !testkit::has_program("fuse-overlayfs") {
        testkit::skip(test, "fuse-overlayfs (Debian: fuse-overlayfs)");
        return None;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    match FuseOverlayfs::open(&dir.path().join("probe"), &[]) {
        Ok(_) => Some(dir),
        Err(error) if error.is_not_supported() => {
            testkit::skip(test, "fuse-overlayfs over /var/tmp");
            None
        }
        Err(error) => panic!("{error}"),
    }
}

fn open(home: &Path) -> FuseOverlayfs {
    FuseOverlayfs::open(home, &[]).unwrap()
}

fn rw() -> CreateOptions {
    CreateOptions { writable: true, ..CreateOptions::default() }
}

/// A base layer and one on top of it.
fn two(driver: &FuseOverlayfs) -> (LayerId, LayerId) {
    let (base, top) = (LayerId::random(), LayerId::random());
    driver.create(&base, None, &CreateOptions::default()).unwrap();
    driver.commit(&base).unwrap();
    driver.create(&top, Some(&base), &rw()).unwrap();
    (base, top)
}

fn helpers(home: &Path) -> Vec<i32> {
    let pids = fs::read_dir("/proc").unwrap();
    let pids = pids.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
    pids.filter(|&pid| served_by(pid, home).is_some()).collect()
}

fn within(patience: Duration, what: impl Fn() -> bool) -> bool {
    let until = Instant::now() + patience;
    while Instant::now() < until {
        if what() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    false
}

const PATIENCE: Duration = Duration::from_secs(10);

#[test]
fn root_fuse_overlayfs_keeps_the_contract() {
    let Some(dir) = home_for("root_fuse_overlayfs_keeps_the_contract") else { return };
    suite::run(&|home| Arc::new(open(home)), dir.path());
}

#[test]
fn root_fuse_overlayfs_keeps_the_contract_below_an_odd_path() {
    let Some(dir) = home_for("root_fuse_overlayfs_keeps_the_contract_below_an_odd_path") else {
        return;
    };
    let odd = dir.path().join("b,c\\d e");
    fs::create_dir(&odd).unwrap();
    suite::run(&|home| Arc::new(open(home)), &odd);
    // The helper takes a colon in the path of the directory that it writes for a separator.
    let colon = dir.path().join("a:b");
    fs::create_dir(&colon).unwrap();
    let refused = FuseOverlayfs::open(&colon.join("home"), &[]);
    if let Err(error) = refused {
        assert_eq!(error.to_string(), "driver not supported");
    }
}

#[test]
fn root_fuse_overlayfs_is_refused_where_nothing_can_be_marked() {
    let Some(dir) = home_for("root_fuse_overlayfs_is_refused_where_nothing_can_be_marked") else {
        return;
    };
    let ram = dir.path().join("ram");
    fs::create_dir(&ram).unwrap();
    let error = berth_sys::mountns::within_private(|| {
        let mount = berth_sys::mount::MountRequest {
            fs_type: "ramfs",
            source: Path::new("none"),
            target: &ram,
            work_dir: None,
            options: &[],
        };
        berth_sys::mount::mount(&mount).unwrap();
        let refused = FuseOverlayfs::open(&ram.join("home"), &[]).unwrap_err();
        assert!(fs::read_dir(&ram).unwrap().next().is_none(), "nothing is left");
        refused
    });
    assert_eq!(error.unwrap().to_string(), "driver not supported");
}

#[test]
fn root_fuse_overlayfs_plans_mounts_by_its_helper() {
    let Some(dir) = home_for("root_fuse_overlayfs_plans_mounts_by_its_helper") else { return };
    let home = dir.path().join("fuse-overlayfs");
    let driver = open(&home);
    let (base, top) = two(&driver);
    let (h, link) = (home.display(), |id: &LayerId| {
        fs::read_to_string(home.join(id.as_str()).join("link")).unwrap()
    });
    let plan = driver.prepare(&top, Access::Write).unwrap();
    assert_eq!(plan.mounts[0].fs_type, "fuse.fuse-overlayfs");
    assert_eq!(
        plan.mounts[0].options,
        [
            "dev".to_owned(),
            "writeback=0".to_owned(),
            format!("lowerdir={h}/l/{}", link(&base)),
            format!("upperdir={h}/{top}/diff"),
            format!("workdir={h}/{top}/work"),
        ]
    );
    let mounted = Mounted::new(plan).unwrap();
    assert_eq!(helpers(&home).len(), 1);
    // Written means written: the directory of changes has it before the file is closed.
    let mut file = File::create(mounted.root().join("f")).unwrap();
    file.write_all(b"content").unwrap();
    let own = driver.native().unwrap().diff_dir(&top).join("f");
    assert_eq!(fs::read_to_string(own).unwrap(), "content");
    drop(file);
    drop(mounted);
    assert!(within(PATIENCE, || helpers(&home).is_empty()), "the helper ends with its mount");
    assert_eq!(driver.status(), []);
    let data = driver.metadata(&top).unwrap().unwrap();
    assert_eq!(data["LowerDir"], format!("{h}/{base}/diff"));
}

#[test]
fn root_fuse_overlayfs_options_have_dockers_texts() {
    let Some(dir) = home_for("root_fuse_overlayfs_options_have_dockers_texts") else { return };
    let home = dir.path().join("fuse-overlayfs");
    #[rustfmt::skip]
    let table = [
        ("overlay2.size=1G", "fuse-overlayfs: unknown option overlay2.size"),
        ("foo",              "Unable to parse key/value option: foo"),
    ];
    for (option, text) in table {
        let error = FuseOverlayfs::open(&home, &[option.to_owned()]).unwrap_err();
        assert_eq!(error.to_string(), text, "{option}");
    }
    assert!(!home.try_exists().unwrap());
    let storage_opt = [("size".to_owned(), "1G".to_owned())].into();
    let options = CreateOptions { storage_opt, ..rw() };
    let error = open(&home).create(&LayerId::random(), None, &options).unwrap_err();
    assert_eq!(error.to_string(), "--storage-opt is not supported for fuse-overlayfs");
}

#[test]
fn root_fuse_overlayfs_clears_mounts_whose_helper_was_killed() {
    let test = "root_fuse_overlayfs_clears_mounts_whose_helper_was_killed";
    let Some(dir) = home_for(test) else { return };
    let home = dir.path().join("fuse-overlayfs");
    let driver = open(&home);
    let (_, top) = two(&driver);
    let mounted = Mounted::new(driver.prepare(&top, Access::Write).unwrap()).unwrap();
    let mounted = ManuallyDrop::new(mounted);
    for pid in helpers(&home) {
        let process = berth_sys::process::pidfd_open(pid).unwrap();
        berth_sys::process::pidfd_send_signal(&process, 9).unwrap();
    }
    assert!(within(PATIENCE, || fs::read_dir(mounted.root()).is_err()), "nobody serves it");
    driver.recover(&|_| false).unwrap();
    assert!(!mounted.root().try_exists().unwrap());
    driver.remove(&top).unwrap();
}

#[test]
fn root_fuse_overlayfs_ends_helpers_that_nobody_can_unmount() {
    let test = "root_fuse_overlayfs_ends_helpers_that_nobody_can_unmount";
    let Some(dir) = home_for(test) else { return };
    let home = dir.path().join("fuse-overlayfs");
    let driver = open(&home);
    let (base, top) = two(&driver);
    let kept = LayerId::random();
    driver.create(&kept, Some(&base), &rw()).unwrap();
    for id in [&top, &kept] {
        let plan = driver.prepare(id, Access::Write).unwrap();
        // As if the daemon had been killed while it looked into a container.
        let left = berth_sys::mountns::within_private(|| {
            ManuallyDrop::new(Mounted::new(plan).unwrap()).root().to_owned()
        });
        assert!(fs::read_dir(left.unwrap()).unwrap().next().is_none());
    }
    assert_eq!(helpers(&home).len(), 2);
    driver.recover(&|id| *id == kept).unwrap();
    assert!(within(PATIENCE, || helpers(&home).len() == 1), "only that of the kept layer is left");
    driver.recover(&|_| false).unwrap();
    assert!(within(PATIENCE, || helpers(&home).is_empty()));
}
