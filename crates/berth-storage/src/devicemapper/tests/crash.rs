//! A process that stops at any step leaves nothing that the next one does not undo.

use std::path::Path;
use std::process::Command;

use berth_types::LayerId;

use super::{Devicemapper, active, disk, small};
use crate::suite::{content, layer, listed, rw, same, write};
use crate::{LayerState, StorageDriver as _};

const STOP: &str = "BERTH_TEST_STOP_AT";
const HOME: &str = "BERTH_TEST_HOME";
const OPTIONS: &str = "BERTH_TEST_OPTION";
const CHILD: &str = "devicemapper::tests::crash::vm_devicemapper_child_that_stops";

/// Ends this process, if it is a child that was told to end here.
pub(in super::super) fn stop_at(name: &str) {
    if std::env::var_os(STOP).is_some_and(|wanted| wanted == name) {
        std::process::abort();
    }
}

/// What the child does until it stops; also what must be possible afterwards.
fn work(home: &Path) -> LayerId {
    let driver = small(home, &[]);
    driver.recover(&|_| false).unwrap();
    let base = layer(&driver, None, &["base"]);
    // It stays active: its snapshot suspends it.
    let _held = crate::Mounted::new(driver.prepare(&base, crate::Access::Read).unwrap()).unwrap();
    let container = LayerId::random();
    driver.create(&container, Some(&base), &rw()).unwrap();
    write(&driver, &container, &["own"]);
    assert_eq!(content(&driver, &container), same(&["base", "own"]));
    driver.remove(&container).unwrap();
    driver.reap().unwrap();
    driver.release(&base).unwrap();
    base
}

#[test]
fn vm_devicemapper_child_that_stops() {
    if let Some(home) = std::env::var_os(HOME) {
        match std::env::var(OPTIONS) {
            Ok(option) => drop(Devicemapper::open(Path::new(&home), &[option])),
            Err(_) => drop(work(Path::new(&home))),
        }
    }
}

/// Has a child work, or open a driver with an option, that stops at a step.
pub(super) fn stop(home: &Path, at: &str, option: Option<&str>) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([CHILD, "--exact"]).env(HOME, home).env(STOP, at);
    if let Some(option) = option {
        child.env(OPTIONS, option);
    }
    let output = child.output().unwrap();
    assert!(!output.status.success(), "{at} is never reached: {output:?}");
}

#[rustfmt::skip]
const STEPS: [&str; 12] = [
    "dm.begun", "dm.create.made", "dm.create.recorded", "dm.create.closed", "dm.base.formatted",
    "dm.base.recorded", "dm.create.filled", "dm.create.suspended", "dm.remove.renamed",
    "dm.reap.discarded", "dm.delete.deleted", "dm.delete.forgotten",
];

/// Of each kind one; the others are for long runs.
const FEW: [&str; 3] = ["dm.create.suspended", "dm.base.formatted", "dm.delete.deleted"];

#[test]
fn vm_devicemapper_a_stop_at_each_step_is_undone() {
    if !testkit::in_vm("vm_devicemapper_a_stop_at_each_step_is_undone") {
        return;
    }
    let disk = disk();
    let used = disk.path().join("used");
    let kept = work(&used);
    for at in STEPS.into_iter().filter(|at| testkit::is_soak() || FEW.contains(at)) {
        // In a home that is new, and in one that has something to lose.
        let new = disk.path().join(at);
        let begins = at.starts_with("dm.base") || at == "dm.begun" || at == "dm.create.made";
        if begins {
            stop(&new, at, None);
            work(&new);
        }
        if at.starts_with("dm.base") {
            continue;
        }
        stop(&used, at, None);
        let driver = small(&used, &[]);
        driver.recover(&|_| false).unwrap();
        driver.reap().unwrap();
        for (id, state) in listed(&driver) {
            if id != kept && state == LayerState::Active {
                // Made and acknowledged to nobody, whole all the same.
                content(&driver, &id);
            }
            if id != kept {
                driver.remove(&id).unwrap();
            }
        }
        driver.reap().unwrap();
        assert_eq!(listed(&driver), [(kept.clone(), LayerState::Committed)], "{at}");
        assert_eq!(content(&driver, &kept), same(&["base"]), "{at}");
        let files = std::fs::read_dir(used.join("metadata")).unwrap().count();
        assert!(files <= 4, "{at}: {files} files");
        drop(driver);
        assert_eq!(active(&used), [""; 0], "{at}");
    }
}
