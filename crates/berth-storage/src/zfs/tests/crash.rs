//! A process that stops at any step leaves nothing that the next one does not undo.

use std::path::Path;
use std::process::Command;

use berth_types::{LayerId, Owner};
use testkit::zpool::Zpool;

use super::super::Zfs;
use super::open;
use crate::suite::{content, layer, listed, rw, same, write};
use crate::{LayerState, StorageDriver as _};

const STOP: &str = "BERTH_TEST_STOP_AT";
const HOME: &str = "BERTH_TEST_HOME";
const CHILD: &str = "zfs::tests::crash::vm_zfs_child_that_stops";

/// Ends this process, if it is a child that was told to end here.
pub(in super::super) fn stop_at(name: &str) {
    if std::env::var_os(STOP).is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// What the child does until it stops; also what must be possible afterwards.
fn work(home: &Path) -> LayerId {
    let driver = Zfs::open_for(home, &[], Owner { uid: 1000, gid: 1000 }).unwrap();
    driver.recover(&|_| false).unwrap();
    let base = layer(&driver, None, &["base"]);
    let container = LayerId::random();
    driver.create(&container, Some(&base), &rw()).unwrap();
    write(&driver, &container, &["own"]);
    assert_eq!(content(&driver, &container), same(&["base", "own"]));
    driver.remove(&container).unwrap();
    driver.reap().unwrap();
    base
}

#[test]
fn vm_zfs_child_that_stops() {
    if let Some(home) = std::env::var_os(HOME) {
        work(Path::new(&home));
    }
}

fn stop(home: &Path, at: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([CHILD, "--exact"]).env(HOME, home).env(STOP, at);
    let output = child.output().unwrap();
    assert!(!output.status.success(), "{at} is never reached: {output:?}");
}

#[rustfmt::skip]
const STEPS: [&str; 7] = [
    "zfs.home.written", "zfs.create.staged", "zfs.create.made", "zfs.commit.written",
    "zfs.commit.frozen", "zfs.remove.renamed", "zfs.reap.destroyed",
];

/// Of each kind one; the others are for long runs.
const FEW: [&str; 3] = ["zfs.home.written", "zfs.create.staged", "zfs.remove.renamed"];

#[test]
fn vm_zfs_a_stop_at_each_step_is_undone() {
    let Some(pool) = Zpool::or_skip("vm_zfs_a_stop_at_each_step_is_undone") else { return };
    let home = pool.create("docker", &[]).join("zfs");
    let mut kept = None;
    for at in STEPS.into_iter().filter(|at| testkit::is_soak() || FEW.contains(at)) {
        // The first one before there is anything, the others with something to lose.
        stop(&home, at);
        let kept = kept.get_or_insert_with(|| work(&home));
        let driver = open(&home);
        driver.recover(&|_| false).unwrap();
        for (id, _) in listed(&driver) {
            // Made and acknowledged to nobody, whole all the same.
            content(&driver, &id);
            if id != *kept {
                driver.remove(&id).unwrap();
            }
        }
        driver.reap().unwrap();
        assert_eq!(listed(&driver), [(kept.clone(), LayerState::Committed)], "{at}");
        assert_eq!(content(&driver, kept), same(&["base"]), "{at}");
        let all = pool.zfs(&["list", "-H", "-r", "-o", "name", "berth/docker"]);
        assert_eq!(all, format!("berth/docker\nberth/docker/{kept}\n"), "{at}");
    }
}

#[test]
fn vm_zfs_what_a_power_cut_tore_is_removed_and_nothing_else() {
    let test = "vm_zfs_what_a_power_cut_tore_is_removed_and_nothing_else";
    let Some(pool) = Zpool::or_skip(test) else { return };
    let home = pool.create("docker", &[]).join("zfs");
    let driver = open(&home);
    let base = layer(&driver, None, &["a"]);
    // The file system without its properties, which the kernel sets a moment later.
    let (torn, received, mounted) = (LayerId::random(), LayerId::random(), LayerId::random());
    pool.create(&format!("docker/{torn}"), &["canmount=noauto"]);
    pool.create(&format!("docker/{received}"), &["canmount=noauto"]);
    pool.zfs(&["snapshot", &format!("berth/docker/{received}@sent")]);
    pool.create(&format!("docker/{mounted}"), &["mountpoint=legacy"]);
    let left = format!("berth/docker/.berth-creating-{torn}");
    pool.zfs(&["create", "-o", "mountpoint=legacy", &left]);
    assert_eq!(listed(&driver), [(base.clone(), LayerState::Committed)]);
    driver.recover(&|_| false).unwrap();
    driver.reap().unwrap();
    let all = pool.zfs(&["list", "-H", "-r", "-o", "name", "berth/docker"]);
    let mut expected = [base.clone(), received.clone(), mounted].map(|id| id.to_string());
    expected.sort();
    let found: Vec<_> = all.lines().filter_map(|name| name.strip_prefix("berth/docker/")).collect();
    assert_eq!(found, expected);
    // A name that is taken by what nobody knows stays taken.
    let error = driver.create(&received, Some(&base), &rw()).unwrap_err();
    assert!(matches!(error, crate::StorageError::LayerExists { .. }), "{error}");
    driver.create(&torn, Some(&base), &rw()).unwrap();
    assert_eq!(content(&driver, &torn), same(&["a"]));
}
