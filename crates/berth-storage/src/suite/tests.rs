//! The suite over the file systems that each driver works on, on loop devices.

use std::path::Path;
use std::sync::Arc;

use berth_types::LayerId;
use testkit::LoopFs;

use crate::aufs::Aufs;
use crate::btrfs::Btrfs;
use crate::fuse_overlayfs::FuseOverlayfs;
use crate::overlay::Overlay;
use crate::overlay2::Overlay2;
use crate::twin::BlockTwin;
use crate::vfs::Vfs;
use crate::{LayerState, StorageDriver, StorageError, suite};
use suite::{content, layer, listed, rw, same};

type Opened = Result<Arc<dyn StorageDriver>, StorageError>;

fn run(test: &str, kinds: &[&str], open: impl Fn(&Path) -> Opened) {
    for kind in kinds {
        let Some(fs) = LoopFs::or_skip(test, kind) else { continue };
        match open(&fs.path().join("probe")) {
            Ok(_) => {}
            Err(error) if error.is_not_supported() => {
                testkit::skip(test, &format!("the driver over {kind}"));
                continue;
            }
            Err(error) => panic!("{kind}: {error}"),
        }
        let dir = fs.path().join("suite");
        std::fs::create_dir(&dir).unwrap();
        suite::run(&|home| open(home).unwrap(), &dir);
    }
}

const ALL: [&str; 3] = ["ext4", "xfs", "btrfs"];

#[test]
fn root_overlay2_keeps_the_contract_on_each_file_system() {
    let test = "root_overlay2_keeps_the_contract_on_each_file_system";
    run(test, &ALL, |home| Ok(Arc::new(Overlay2::open(home, &[])?)));
}

#[test]
fn vm_aufs_keeps_the_contract_on_each_file_system() {
    let test = "vm_aufs_keeps_the_contract_on_each_file_system";
    if !testkit::in_vm(test) {
        return;
    }
    run(test, &ALL[..2], |home| Ok(Arc::new(Aufs::open(home, &[])?)));
}

#[test]
fn root_overlay_keeps_the_contract_on_each_file_system() {
    let test = "root_overlay_keeps_the_contract_on_each_file_system";
    run(test, &ALL[..2], |home| Ok(Arc::new(Overlay::open(home, &[])?)));
}

#[test]
fn root_fuse_overlayfs_keeps_the_contract_on_each_file_system() {
    let test = "root_fuse_overlayfs_keeps_the_contract_on_each_file_system";
    run(test, &ALL, |home| Ok(Arc::new(FuseOverlayfs::open(home, &[])?)));
}

#[test]
fn root_btrfs_keeps_the_contract_on_each_file_system() {
    let test = "root_btrfs_keeps_the_contract_on_each_file_system";
    run(test, &ALL[2..], |home| Ok(Arc::new(Btrfs::open(home, &[])?)));
}

#[test]
fn root_vfs_keeps_the_contract_on_each_file_system() {
    let test = "root_vfs_keeps_the_contract_on_each_file_system";
    run(test, &ALL, |home| Ok(Arc::new(Vfs::open(home, &[])?)));
}

#[test]
fn root_the_block_twin_keeps_the_contract_and_is_deactivated_after_each_use() {
    let test = "root_the_block_twin_keeps_the_contract_and_is_deactivated_after_each_use";
    let Some(fs) = LoopFs::or_skip(test, "ext4") else { return };
    suite::run(&|home| Arc::new(BlockTwin::open(home).unwrap()), &fs.path());
    let mut homes = 0;
    for case in std::fs::read_dir(fs.path()).unwrap() {
        let active = case.unwrap().path().join("home/active");
        let Ok(left) = std::fs::read_dir(active) else { continue };
        assert_eq!(left.count(), 0);
        homes += 1;
    }
    assert_eq!(homes, suite::CASES.len());
}

/// Layers that were synced are whole after a power cut, and what was removed does not come back
/// once it is reaped. Says whether a container's layer is there that was made just before and
/// that nobody synced.
fn after_a_cut(test: &str, kind: &str, open: &dyn Fn(&Path) -> Opened) -> Option<bool> {
    let fs = LoopFs::or_skip(test, kind)?;
    let driver = match open(&fs.path().join("home")) {
        Err(error) if error.is_not_supported() => {
            testkit::skip(test, &format!("the driver over {kind}"));
            return None;
        }
        other => other.unwrap(),
    };
    let base = layer(&*driver, None, &["a"]);
    let top = layer(&*driver, Some(&base), &["b"]);
    let gone = layer(&*driver, Some(&base), &["c"]);
    driver.sync().unwrap();
    driver.remove(&gone).unwrap();
    driver.reap().unwrap();
    let container = LayerId::random();
    for (id, below) in [(container.init(), &top), (container.clone(), &container.init())] {
        driver.create(&id, Some(below), &rw()).unwrap();
    }
    let options = if kind == "xfs" { "loop,nouuid" } else { "loop" };
    let cut = match fs.cut(options) {
        Ok(cut) => cut,
        Err(need) => {
            testkit::skip(test, &format!("two file systems of one identity: {need}"));
            return None;
        }
    };
    let driver = open(&cut.path().join("home")).unwrap();
    driver.recover(&|_| false).unwrap();
    let all = listed(&*driver);
    for (id, names) in [(&base, &["a"][..]), (&top, &["a", "b"])] {
        assert!(all.contains(&(id.clone(), LayerState::Committed)), "{kind}");
        assert_eq!(content(&*driver, id), same(names), "{kind}");
    }
    assert!(all.iter().all(|(id, _)| *id != gone), "{kind}");
    Some(all.contains(&(container, LayerState::Active)))
}

#[test]
fn fault_what_was_synced_survives_a_power_cut() {
    let test = "fault_what_was_synced_survives_a_power_cut";
    for kind in ALL {
        after_a_cut(test, kind, &|home| Ok(Arc::new(Overlay2::open(home, &[])?)));
        after_a_cut(test, kind, &|home| Ok(Arc::new(Vfs::open(home, &[])?)));
        after_a_cut(test, kind, &|home| Ok(Arc::new(FuseOverlayfs::open(home, &[])?)));
    }
    for kind in &ALL[..2] {
        after_a_cut(test, kind, &|home| Ok(Arc::new(Overlay::open(home, &[])?)));
    }
    let kept = after_a_cut(test, "btrfs", &|home| Ok(Arc::new(Btrfs::open(home, &[])?)));
    assert_ne!(kept, Some(false), "a snapshot is on the disk when it is made");
}
