//! Stops at every point: nothing that was recorded is lost, and nothing else stays.

use std::fs;
use std::mem::ManuallyDrop;
use std::sync::Arc;

use berth_fs::reserve;
use berth_layers::{LayerError, RecoverReport};
use berth_types::{ContainerId, LayerId};

use crate::fixture::{
    Open, Stopping, commit, container, load, mount, names, on_each_driver, prepare, remove_all,
    tar_of, top_of,
};

fn tars() -> [Vec<u8>; 3] {
    [tar_of("base"), tar_of("mid"), tar_of("top")]
}

/// Everything the store does once, in one process.
fn workload(open: &Open) -> Result<(), LayerError> {
    let tars = tars();
    let top = load(open, &tars, "image:1")?;
    let id = container(open, Some(&top))?;
    let chain = commit(open, &id, "image:2")?;
    let mut removed = open.db.write(|tx| open.store.remove_rw(tx, &id))?;
    removed.extend(open.db.write(|tx| open.store.release(tx, &chain, "image:2"))?);
    open.store.purge(&removed)?;
    open.store.reap()
}

#[test]
fn fault_root_a_stop_at_any_driver_call_is_recovered_from() {
    on_each_driver("fault_root_a_stop_at_any_driver_call_is_recovered_from", |root| {
        let kept = load(&root.open(), &[tar_of("kept")], "kept").unwrap();
        for calls in 0.. {
            let mut driver = None;
            let open = root.open_with(|inner| {
                let stopping = Stopping::after(inner, calls);
                driver = Some(Arc::clone(&stopping));
                stopping
            });
            let outcome = workload(&open);
            drop(open);
            let stopped = driver.unwrap().failed().is_some();
            assert_eq!(outcome.is_err(), stopped, "call {calls}: {outcome:?}");
            let (open, report) = root.recover();
            let expected = RecoverReport {
                removed: report.removed.clone(),
                rebuilt: report.rebuilt.clone(),
                ..RecoverReport::default()
            };
            assert_eq!(report, expected, "call {calls}");
            assert!(open.store.get(&kept).unwrap().is_some(), "call {calls}");
            clear(&open);
            if !stopped {
                assert!(calls > 20, "the workload makes many calls");
                break;
            }
        }
    });
}

/// Removes what the workload had recorded by then.
fn clear(open: &Open) {
    remove_all(open, &["image:1", "image:2"]);
}

#[test]
fn fault_root_after_a_failing_driver_call_the_store_goes_on() {
    on_each_driver("fault_root_after_a_failing_driver_call_the_store_goes_on", |root| {
        for calls in 0.. {
            let mut driver = None;
            let open = root.open_with(|inner| {
                let failing = Stopping::once_after(inner, calls);
                driver = Some(Arc::clone(&failing));
                failing
            });
            let outcome = workload(&open);
            let driver = driver.unwrap();
            let failed = driver.failed();
            // What was read is whole, whether or not its layer can be released.
            let is_told = !matches!(failed, None | Some("release"));
            assert_eq!(outcome.is_err(), is_told, "call {calls}, {failed:?}: {outcome:?}");
            driver.heal();
            clear(&open);
            root.check(&open.store);
            assert_eq!(open.store.list().unwrap().len(), 0, "call {calls}");
            workload(&open).unwrap_or_else(|error| panic!("call {calls}: {error}"));
            clear(&open);
            root.check(&open.store);
            if failed.is_none() {
                assert!(calls > 20, "the workload makes many calls");
                break;
            }
        }
        let (_, report) = root.recover();
        assert_eq!(report, RecoverReport::default());
    });
}

#[test]
fn root_a_stop_at_any_step_of_a_load_is_recovered_from() {
    on_each_driver("root_a_stop_at_any_step_of_a_load_is_recovered_from", |root| {
        let tars = tars();
        let top = top_of(&tars);
        for step in ["begun", "applied", "renamed", "before-record", "after-record"] {
            let open = root.open();
            let recorded = step == "after-record";
            match step {
                "begun" => {
                    let layers = crate::fixture::stack(&tars);
                    let ingest = open.store.begin("load", layers).unwrap();
                    let _stopped = ManuallyDrop::new(ingest);
                }
                "applied" => {
                    let layers = crate::fixture::stack(&tars);
                    let ingest = open.store.begin("load", layers).unwrap();
                    ingest.apply(0, tars[0].as_slice()).unwrap();
                    let _stopped = ManuallyDrop::new(ingest);
                }
                _ => {
                    let ingest = ManuallyDrop::new(prepare(&open.store, &tars).unwrap());
                    let written = open.db.write(|tx| {
                        if step != "renamed" {
                            ingest.record(tx)?;
                            open.store.retain(tx, &top, "image")?;
                        }
                        if recorded { Ok(()) } else { Err(LayerError::NotApplied { slot: 0 }) }
                    });
                    assert_eq!(written.is_ok(), recorded);
                }
            }
            drop(open);
            let (open, report) = root.recover();
            assert!(report.set_aside.is_empty(), "{step}");
            assert_eq!(
                report.removed.is_empty(),
                recorded || step == "begun" && !root.is_concurrent(),
                "{step}"
            );
            assert_eq!(open.store.list().unwrap().len(), if recorded { 3 } else { 0 }, "{step}");
        }
    });
}

#[test]
fn root_a_failed_record_keeps_nothing_and_a_second_try_works() {
    on_each_driver("root_a_failed_record_keeps_nothing_and_a_second_try_works", |root| {
        let open = root.open();
        let tars = tars();
        let ingest = prepare(&open.store, &tars).unwrap();
        let failed = open.db.write(|tx| {
            ingest.record(tx)?;
            Err::<(), _>(LayerError::NotApplied { slot: 0 })
        });
        failed.unwrap_err();
        drop(ingest);
        load(&open, &tars, "image").unwrap();
        open.store.reap().unwrap();
        root.check(&open.store);
    });
}

#[test]
fn root_without_the_database_everything_is_set_aside() {
    on_each_driver("root_without_the_database_everything_is_set_aside", |root| {
        let open = root.open();
        let top = load(&open, &tars(), "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        fs::File::create(mount(&open.store, &id).root().join("precious")).unwrap();
        drop(open);
        for name in names(root.path()).iter().filter(|name| name.starts_with("berth.db")) {
            fs::remove_file(root.path().join(name)).unwrap();
        }
        let mut before = files(&root.home());
        before.extend(files(&root.path().join("layers")));
        before.retain(|path| !path.starts_with("l/"));
        before.sort();

        let (_, report) = root.recover();
        let templates = usize::from(root.open().store.driver().mounts_to_fill());
        let set_aside = 3 + 2 + templates + 3;
        assert_eq!(report.set_aside.len(), set_aside);
        assert!(report.removed.is_empty());
        let lost = root.path().join("lost+found");
        assert_eq!(names(&lost).len(), set_aside);
        let mut after = files(&lost);
        after.sort();
        assert_eq!(after, before);
    });
}

/// Every file, below the first directory's name, which set-aside layers change.
fn files(dir: &std::path::Path) -> Vec<String> {
    let mut found = Vec::new();
    for first in fs::read_dir(dir).unwrap() {
        let first = first.unwrap().path();
        if first.ends_with(reserve::NAME) {
            continue;
        }
        let prefix = if first.ends_with("l") { "l/" } else { "" };
        let mut todo = vec![first.clone()];
        while let Some(at) = todo.pop() {
            for entry in fs::read_dir(at).unwrap() {
                let entry = entry.unwrap();
                if entry.file_type().unwrap().is_dir() {
                    todo.push(entry.path());
                } else {
                    let below = entry.path();
                    let below = below.strip_prefix(&first).unwrap().display().to_string();
                    found.push(format!("{prefix}{below}"));
                }
            }
        }
    }
    found
}

#[test]
fn root_what_others_put_there_is_left_alone() {
    on_each_driver("root_what_others_put_there_is_left_alone", |root| {
        let open = root.open();
        load(&open, &tars(), "image").unwrap();
        drop(open);
        let foreign = [
            root.home().join("notes"),
            root.path().join("layers/notes"),
            root.path().join("layers/backup.tar"),
        ];
        for path in &foreign {
            fs::File::create(path).unwrap();
        }
        let open = root.open();
        let report = open.store.recover(&|_| false).unwrap();
        open.store.reap().unwrap();
        assert_eq!(report, RecoverReport::default());
        assert!(foreign.iter().all(|path| path.try_exists().unwrap()));
    });
}

#[test]
fn root_missing_layers_are_reported_and_kept_on_record() {
    on_each_driver("root_missing_layers_are_reported_and_kept_on_record", |root| {
        let open = root.open();
        let top = load(&open, &tars(), "image").unwrap();
        let plain = load(&open, &[tar_of("plain")], "image").unwrap();
        let unwritten = container(&open, Some(&plain)).unwrap();
        let written = container(&open, Some(&plain)).unwrap();
        open.db.write(|tx| open.store.set_rw_size(tx, &written, None)).unwrap();
        let remove = |layer: &LayerId| {
            root.thaw(layer);
            fs::remove_dir_all(root.home().join(layer.as_str())).unwrap();
        };
        remove(&open.store.get(&top).unwrap().unwrap().layer);
        let mount_of = |id: &ContainerId| open.store.rw(id).unwrap().unwrap().mount;
        remove(&mount_of(&unwritten));
        remove(&mount_of(&unwritten).init());
        remove(&mount_of(&written));
        fs::remove_dir_all(root.path().join("layers").join(plain.hex())).unwrap();
        drop(open);
        let (open, report) = root.recover();
        let expected = RecoverReport {
            missing: vec![top],
            without_tar: vec![plain],
            rebuilt: vec![unwritten.clone()],
            lost: vec![written],
            ..RecoverReport::default()
        };
        assert_eq!(report, expected);
        assert_eq!(open.store.list().unwrap().len(), 4);
        assert!(names(mount(&open.store, &unwritten).root()).contains("plain"));
    });
}

#[test]
fn root_mounts_of_running_containers_stay() {
    on_each_driver("root_mounts_of_running_containers_stay", |root| {
        let open = root.open();
        let top = load(&open, &tars(), "image").unwrap();
        let running = container(&open, Some(&top)).unwrap();
        let held = mount(&open.store, &running);
        drop(open);
        let open = root.open();
        let report = open.store.recover(&|id| *id == running).unwrap();
        assert_eq!(report, RecoverReport::default());
        assert!(names(held.root()).contains("base"));
        drop(held);
        open.store.release_rw(&running).unwrap();
    });
}
