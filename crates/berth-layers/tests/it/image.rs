//! Image layers: made, shared, given back, removed.

use std::fs;
use std::io::Read as _;
use std::process::Command;

use berth_layers::{LayerError, NewLayer, Parent};
use berth_types::{ChainId, Classify as _, ErrorKind};

use crate::fixture::{
    Stopping, container, diff_of, load, mount, names, on_each_driver, prepare, stack, tar_of,
    top_of,
};

fn stacked(count: usize, prefix: &str) -> Vec<Vec<u8>> {
    (0..count).map(|at| tar_of(&format!("{prefix}{at:02}"))).collect()
}

#[test]
fn root_layers_come_back_bit_for_bit() {
    on_each_driver("root_layers_come_back_bit_for_bit", |root| {
        let open = root.open();
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::create_dir_all(at("d/e")).unwrap();
        let long = "n".repeat(180);
        for (name, size) in [("d/one", 10_000), ("d/e/empty", 0), (long.as_str(), 700)] {
            let file = fs::File::create(at(name)).unwrap();
            std::io::copy(&mut std::io::repeat(b'x').take(size), &mut &file).unwrap();
        }
        fs::hard_link(at("d/one"), at("d/two")).unwrap();
        std::os::unix::fs::symlink("../d/one", at("link")).unwrap();
        for format in ["gnu", "pax", "ustar", "v7"] {
            let mut command = Command::new("tar");
            command
                .args(["--format", format, "-C"])
                .arg(dir.path())
                .args(["-cf", "-", "d", "link"]);
            if ["gnu", "pax"].contains(&format) {
                command.arg(&long);
            }
            let Ok(made) = command.output() else {
                testkit::skip("root_layers_come_back_bit_for_bit", "tar");
                return;
            };
            assert!(made.status.success(), "{made:?}");
            let top = load(&open, std::slice::from_ref(&made.stdout), "image").unwrap();
            let mut back = Vec::new();
            open.store.tar_stream(&top).unwrap().read_to_end(&mut back).unwrap();
            assert!(back == made.stdout, "{format}");
        }
        root.check(&open.store);
    });
}

#[test]
fn root_a_changed_file_is_found_while_its_layer_is_read() {
    on_each_driver("root_a_changed_file_is_found_while_its_layer_is_read", |root| {
        let open = root.open();
        let top = load(&open, &[tar_of("file")], "image").unwrap();
        let layer = open.store.get(&top).unwrap().unwrap().layer;
        let path = root.thaw(&layer).join("file");
        let file = fs::OpenOptions::new().write(true).open(path).unwrap();
        std::io::Write::write_all(&mut &file, b"LIFE").unwrap();
        let read = open.store.tar_stream(&top).unwrap().read_to_end(&mut Vec::new());
        let text = read.unwrap_err().to_string();
        assert_eq!(text, "file integrity checksum failed for \"file\"");
    });
}

#[test]
fn root_a_tall_stack_is_filled_at_the_same_time() {
    on_each_driver("root_a_tall_stack_is_filled_at_the_same_time", |root| {
        let open = root.open();
        let tars = stacked(20, "f");
        let mut ingest = open.store.begin("load", stack(&tars)).unwrap();
        if ingest.concurrent() {
            std::thread::scope(|scope| {
                for (slot, tar) in tars.iter().enumerate() {
                    let ingest = &ingest;
                    scope.spawn(move || ingest.apply(slot, tar.as_slice()).unwrap());
                }
            });
        } else {
            let early = ingest.apply(1, tars[1].as_slice()).unwrap_err();
            assert!(matches!(early, LayerError::NotApplied { slot: 0 }), "{early}");
            for (slot, tar) in tars.iter().enumerate() {
                ingest.apply(slot, tar.as_slice()).unwrap();
            }
        }
        let chains = ingest.finish().unwrap();
        assert_eq!(open.store.list().unwrap(), [], "nothing is visible before the record");
        let top = top_of(&tars);
        open.db
            .write(|tx| {
                ingest.record(tx)?;
                open.store.retain(tx, &top, "image")
            })
            .unwrap();
        ingest.done();
        let layers = open.store.list().unwrap();
        assert_eq!(layers.iter().map(|layer| layer.chain.clone()).collect::<Vec<_>>(), chains);
        let last = layers.last().unwrap();
        assert_eq!((last.depth, last.size, last.chain_size), (20, 3, 60));
        assert_eq!(last.parent.as_ref(), Some(&chains[18]));
        let id = container(&open, Some(&top)).unwrap();
        let found = names(mount(&open.store, &id).root());
        assert!((0..20).all(|at| found.contains(&format!("f{at:02}"))), "{found:?}");
        root.recover();
    });
}

#[test]
fn root_a_wrong_digest_or_a_broken_tar_leaves_nothing() {
    on_each_driver("root_a_wrong_digest_or_a_broken_tar_leaves_nothing", |root| {
        let open = root.open();
        let (good, other) = (tar_of("a"), tar_of("b"));
        let layers = stack(&[good.clone(), other.clone()]);
        let ingest = open.store.begin("load", layers).unwrap();
        ingest.apply(0, good.as_slice()).unwrap();
        let error = ingest.apply(1, good.as_slice()).unwrap_err();
        let text = format!(
            "invalid diffID for layer 1: expected \"{}\", got \"{}\"",
            diff_of(&other),
            diff_of(&good)
        );
        assert_eq!((error.to_string(), error.kind()), (text, ErrorKind::InvalidParameter));
        drop(ingest);

        let ingest = open.store.begin("load", stack(std::slice::from_ref(&good))).unwrap();
        ingest.apply(0, &good[..700]).unwrap_err();
        drop(ingest);

        let mut ingest = open.store.begin("load", stack(&[good])).unwrap();
        let error = ingest.finish().unwrap_err();
        assert!(matches!(error, LayerError::NotApplied { slot: 0 }), "{error}");
        drop(ingest);

        open.store.reap().unwrap();
        root.check(&open.store);
        let (_, report) = root.recover();
        assert_eq!(report, berth_layers::RecoverReport::default());
    });
}

#[test]
fn root_two_loads_of_the_same_layers_both_succeed() {
    on_each_driver("root_two_loads_of_the_same_layers_both_succeed", |root| {
        let open = root.open();
        let one = [tar_of("base"), tar_of("mid"), tar_of("one")];
        let two = [tar_of("base"), tar_of("mid"), tar_of("two"), tar_of("more")];
        let first = prepare(&open.store, &one).unwrap();
        let second = prepare(&open.store, &two).unwrap();
        let third = prepare(&open.store, &one).unwrap();
        for (ingest, tars, owner) in
            [(first, &one[..], "1"), (second, &two, "2"), (third, &one, "3")]
        {
            let top = top_of(tars);
            open.db
                .write(|tx| {
                    ingest.record(tx)?;
                    open.store.retain(tx, &top, owner)
                })
                .unwrap();
            ingest.done();
        }
        open.store.reap().unwrap();
        assert_eq!(open.store.list().unwrap().len(), 5);
        for tars in [&one[..], &two] {
            let id = container(&open, Some(&top_of(tars))).unwrap();
            let found = names(mount(&open.store, &id).root());
            assert!(found.contains("base") && found.contains("mid"), "{found:?}");
        }
        root.recover();
    });
}

#[test]
fn root_many_threads_load_the_same_layers() {
    on_each_driver("root_many_threads_load_the_same_layers", |root| {
        let open = root.open();
        std::thread::scope(|scope| {
            for thread in 0..6 {
                let open = &open;
                scope.spawn(move || {
                    let tars = [tar_of("base"), tar_of(&format!("top{}", thread % 2))];
                    load(open, &tars, &format!("image{thread}")).unwrap();
                });
            }
        });
        open.store.reap().unwrap();
        assert_eq!(open.store.list().unwrap().len(), 3);
        root.recover();
    });
}

#[test]
fn root_layers_go_when_nobody_needs_them() {
    on_each_driver("root_layers_go_when_nobody_needs_them", |root| {
        let open = root.open();
        let tars = [tar_of("base"), tar_of("mid"), tar_of("top")];
        let top = load(&open, &tars, "image:1").unwrap();
        let mid = top_of(&tars[..2]);
        open.db.write(|tx| open.store.retain(tx, &mid, "image:2")).unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let release = |chain: &ChainId, owner: &str| {
            let removed = open.db.write(|tx| open.store.release(tx, chain, owner)).unwrap();
            open.store.purge(&removed).unwrap();
            open.store.reap().unwrap();
            removed.into_iter().filter_map(|removed| removed.chain).collect::<Vec<_>>()
        };
        assert_eq!(release(&top, "image:1"), []);
        assert_eq!(release(&mid, "image:2"), []);
        let removed = open.db.write(|tx| open.store.remove_rw(tx, &id)).unwrap();
        open.store.purge(&removed).unwrap();
        let gone: Vec<_> = removed.into_iter().filter_map(|removed| removed.chain).collect();
        assert_eq!(gone, [3, 2, 1].map(|count| top_of(&tars[..count])));
        open.store.reap().unwrap();
        assert_eq!(open.store.list().unwrap(), []);
        root.check(&open.store);
        let error = open.db.write(|tx| open.store.retain(tx, &top, "image:1")).unwrap_err();
        assert_eq!(
            (error.to_string(), error.kind()),
            ("layer does not exist".to_owned(), ErrorKind::NotFound)
        );
        load(&open, &tars, "image:1").unwrap();
        root.recover();
    });
}

#[test]
fn root_an_ingest_keeps_its_parent_alive() {
    on_each_driver("root_an_ingest_keeps_its_parent_alive", |root| {
        let open = root.open();
        let base = load(&open, &[tar_of("base")], "image").unwrap();
        let layers = || vec![NewLayer { parent: Parent::Existing(base.clone()), expected: None }];
        let aborted = open.store.begin("load", layers()).unwrap();
        let mut kept = open.store.begin("load", layers()).unwrap();
        let removed = open.db.write(|tx| open.store.release(tx, &base, "image")).unwrap();
        assert_eq!(removed, []);
        drop(aborted);
        kept.apply(0, tar_of("top").as_slice()).unwrap();
        let top = kept.finish().unwrap().pop().unwrap();
        open.db
            .write(|tx| {
                kept.record(tx)?;
                open.store.retain(tx, &top, "image")
            })
            .unwrap();
        kept.done();
        assert_eq!(open.store.list().unwrap().len(), 2);

        let last = open.store.begin("load", layers()).unwrap();
        let removed = open.db.write(|tx| open.store.release(tx, &top, "image")).unwrap();
        assert_eq!(removed.iter().filter(|removed| removed.chain.is_some()).count(), 1);
        open.store.purge(&removed).unwrap();
        drop(last);
        open.store.reap().unwrap();
        assert_eq!(open.store.list().unwrap(), [], "the last holder takes it along");
        root.check(&open.store);
        let error = open.store.begin("load", layers()).unwrap_err();
        assert!(matches!(error, LayerError::Unknown { .. }), "{error}");
    });
}

#[test]
fn root_the_126th_layer_is_refused() {
    on_each_driver("root_the_126th_layer_is_refused", |root| {
        if root.driver_name() == "vfs" {
            return;
        }
        let open = root.open();
        let tars = stacked(125, "f");
        let top = load(&open, &tars, "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let found = names(mount(&open.store, &id).root());
        assert!((0..125).all(|at| found.contains(&format!("f{at:02}"))), "{found:?}");
        let more = vec![NewLayer { parent: Parent::Existing(top), expected: None }];
        let error = open.store.begin("commit", more).unwrap_err();
        assert_eq!(error.to_string(), "max depth exceeded");
        let error = open.store.begin("load", stack(&stacked(126, "g"))).unwrap_err();
        assert_eq!(error.to_string(), "max depth exceeded");
        assert_eq!(open.store.list().unwrap().len(), 125);
        root.recover();
    });
}

#[test]
fn root_images_may_have_more_layers_where_the_store_is_told_so() {
    let test = "root_images_may_have_more_layers_where_the_store_is_told_so";
    on_each_driver(test, |root| {
        if root.driver_name() != "overlay2" {
            return;
        }
        let open = root.open_for_depth(200);
        match load(&open, &stacked(200, "f"), "image") {
            Ok(top) => {
                let id = container(&open, Some(&top)).unwrap();
                let found = names(mount(&open.store, &id).root());
                assert!((0..200).all(|at| found.contains(&format!("f{at:02}"))), "{found:?}");
            }
            // A kernel that takes one page of options stacks 128.
            Err(error) => assert_eq!(error.to_string(), "max depth exceeded"),
        }
        let error = open.store.begin("load", stack(&stacked(201, "g"))).unwrap_err();
        assert_eq!(error.to_string(), "max depth exceeded");
    });
}

#[test]
fn root_lookups_and_lists_never_ask_the_driver() {
    on_each_driver("root_lookups_and_lists_never_ask_the_driver", |root| {
        let open = root.open();
        let top = load(&open, &[tar_of("a")], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        drop(open);
        let mut stopped = None;
        let open = root.open_with(|driver| {
            let driver = Stopping::after(driver, 0);
            stopped = Some(std::sync::Arc::clone(&driver));
            driver
        });
        assert!(open.store.get(&top).unwrap().is_some());
        assert_eq!(open.store.list().unwrap().len(), 1);
        assert!(open.store.rw(&id).unwrap().is_some());
        assert_eq!(open.store.list_rw().unwrap().len(), 1);
        assert_eq!(open.store.rw_size(&id).unwrap(), 0);
        assert!(stopped.unwrap().failed().is_none(), "no call reached the driver");
    });
}
