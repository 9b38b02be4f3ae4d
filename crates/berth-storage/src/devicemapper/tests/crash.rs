//! A process that stops at any step leaves nothing that the next one does not undo.

use std::path::Path;
use std::process::Command;

use berth_types::LayerId;

use super::{Devicemapper, active, disk, small};
use crate::devicemapper::lvm_extend::{self, Wipe};
use crate::suite::{content, layer, listed, rw, same, write};
use crate::{LayerState, StorageDriver as _, ThinPool as _};

const STOP: &str = "BERTH_TEST_STOP_AT";
const HOME: &str = "BERTH_TEST_HOME";
const WHAT: &str = "BERTH_TEST_WHAT";
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
        let home = Path::new(&home);
        let what = std::env::var(WHAT).unwrap();
        match what.split_once(':') {
            None => drop(work(home)),
            Some(("spare", _)) => drop(super::spare::take(home)),
            Some(("open", option)) => drop(Devicemapper::open(home, &[option.to_owned()])),
            Some(("grow", bytes)) => small(home, &[]).grow(bytes.parse().ok(), None).unwrap(),
            Some(("extend", device)) => {
                lvm_extend::extend("docker-thinpool", Path::new(device), Wipe::Yes).unwrap();
            }
            Some(_) => panic!("{what}"),
        }
    }
}

/// Has a child do something that stops at a step: `work`, `spare:`, `open:OPTION`, `grow:BYTES` of data,
/// or `extend:DISK`, which is added to the pool of somebody else.
pub(super) fn stop(home: &Path, at: &str, what: &str) {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args([CHILD, "--exact"]).env(HOME, home).env(STOP, at).env(WHAT, what);
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
            stop(&new, at, "work");
            work(&new);
        }
        if at.starts_with("dm.base") {
            continue;
        }
        stop(&used, at, "work");
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
    // A file that has grown is noticed by the next pool on it.
    let total = || small(&used, &[]).usage().unwrap().data.total;
    let larger = total() + (64 << 20);
    stop(&used, "dm.grow.file", &format!("grow:{larger}"));
    assert_eq!(total(), larger);
    assert_eq!(content(&small(&used, &[]), &kept), same(&["base"]));
}
