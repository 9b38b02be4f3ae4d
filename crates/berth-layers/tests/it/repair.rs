//! What a repair mends, what it leaves to others, and that a stop anywhere costs nothing.

use std::fs;
use std::io::Read as _;
use std::path::Path;
use std::sync::Arc;

use berth_layers::check::{Depth, Trouble};
use berth_layers::repair::{Outcome, Plan, Remedy, Repair, Repaired, Step};
use berth_layers::{LayerError, LayerStore};
use berth_types::{ChainId, LayerId};

use crate::fixture::{
    Open, Root, Stopping, container, load, mount, names, on_each_driver, tar_of, top_of,
};

fn repair(
    store: &LayerStore,
    depth: Depth,
    dry_run: bool,
) -> Result<(Vec<Repair>, Repaired), LayerError> {
    let mut repairs = Vec::new();
    let plan = Plan { depth, dry_run, others: &[], alone: &|_, work| work() };
    let repaired = store.repair(&plan, &mut |step| {
        if let Step::Repair(repair) = step {
            repairs.push(*repair);
        }
        true
    })?;
    let mended = |r: &&Repair| matches!(r.outcome, Outcome::Done | Outcome::Planned);
    assert_eq!(repairs.iter().filter(mended).count() as u64, repaired.mended);
    assert_eq!(repairs.len() as u64, repaired.mended + repaired.left);
    Ok((repairs, repaired))
}

/// Repairs dryly and then really; gives the remedies. All is in order afterwards.
fn mend(root: &Root, open: &Open, what: &str) -> Vec<Remedy> {
    let (planned, _) = repair(&open.store, Depth::Content, true).unwrap();
    assert!(planned.iter().all(|r| r.outcome == Outcome::Planned), "{what}: {planned:?}");
    assert!(planned.iter().all(|r| r.moved.is_none()), "{what}: {planned:?}");
    let (done, _) = repair(&open.store, Depth::Content, false).unwrap();
    assert!(done.iter().all(|r| r.outcome == Outcome::Done), "{what}: {done:?}");
    let found = |repairs: &[Repair]| -> Vec<_> {
        repairs.iter().map(|r| (r.finding.clone(), r.finding.layer.clone())).collect()
    };
    assert_eq!(found(&planned), found(&done), "{what}");
    for moved in done.iter().filter_map(|r| r.moved.as_ref()) {
        assert!(moved.starts_with(root.path()) && moved.try_exists().unwrap(), "{what}: {moved:?}");
    }
    let (left, sums) = repair(&open.store, Depth::Content, false).unwrap();
    assert_eq!((left, sums.checked.findings), (Vec::new(), 0), "{what}");
    open.store.reap().unwrap();
    root.check(&open.store);
    let mut remedies: Vec<Remedy> = done.into_iter().map(|r| r.remedy).collect();
    remedies.dedup();
    remedies
}

fn layer_of(open: &Open, chain: &ChainId) -> LayerId {
    open.store.get(chain).unwrap().unwrap().layer
}

fn overwrite(path: &Path, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    std::io::Write::write_all(&mut &file, bytes).unwrap();
}

fn remove(root: &Root, layer: &LayerId) {
    root.thaw(layer);
    let path = root.home().join(layer.as_str());
    if root.driver_name() == "btrfs" {
        let parent = fs::File::open(root.home()).unwrap();
        berth_sys::btrfs::destroy_subvolume(parent, layer.as_str().as_ref()).unwrap();
    } else {
        fs::remove_dir_all(path).unwrap();
    }
}

/// Two images whose upper layers are the same archive: `base`+`twin`+`top`, and `other`+`twin`.
struct Twins {
    base: ChainId,
    twin: ChainId,
    top: ChainId,
    other: ChainId,
}

fn twins(open: &Open) -> Twins {
    let first = [tar_of("base"), tar_of("twin"), tar_of("top")];
    let second = [tar_of("other"), tar_of("twin")];
    let top = load(open, &first, "image:1").unwrap();
    let other = load(open, &second, "image:2").unwrap();
    Twins { base: top_of(&first[..1]), twin: top_of(&first[..2]), top, other }
}

fn refilled(open: &Open, from: &ChainId) -> Remedy {
    assert!(open.store.get(from).unwrap().is_some());
    Remedy::Refill { source_name: format!("layer {}", &from.hex()[..12]) }
}

#[test]
fn root_what_is_left_elsewhere_mends_a_layer() {
    on_each_driver("root_what_is_left_elsewhere_mends_a_layer", |root| {
        let open = root.open();
        let Twins { twin, top, other, .. } = twins(&open);
        let id = container(&open, Some(&top)).unwrap();
        {
            let mounted = mount(&open.store, &id);
            fs::File::create(mounted.root().join("written")).unwrap();
        }
        let layer = layer_of(&open, &twin);
        let refill = refilled(&open, &other);

        overwrite(&root.thaw(&layer).join("twin"), b"LIFE");
        let above = Remedy::Above { below: twin.clone() };
        let mut expected = vec![refill.clone()];
        if !root.is_concurrent() {
            expected.push(above);
        }
        assert_eq!(mend(root, &open, "content"), expected);
        assert_eq!(layer_of(&open, &twin), layer, "its name stays");

        remove(root, &layer);
        assert_eq!(mend(root, &open, "missing"), std::slice::from_ref(&refill));

        let files = root.path().join("layers").join(twin.hex());
        fs::remove_file(files.join("tar-split.json.gz")).unwrap();
        assert_eq!(mend(root, &open, "tar-split"), [refill]);

        let stranger = LayerId::random();
        open.store
            .driver()
            .create(&stranger, None, &berth_storage::CreateOptions::default())
            .unwrap();
        assert_eq!(mend(root, &open, "unknown"), [Remedy::SetAside]);

        let rw = open.store.rw(&id).unwrap().unwrap();
        remove(root, &rw.mount.init());
        assert_eq!(mend(root, &open, "init layer"), [Remedy::Anew]);
        remove(root, &rw.mount);
        assert_eq!(mend(root, &open, "never written"), [Remedy::Anew]);
        let mounted = mount(&open.store, &id);
        for file in ["base", "twin", "top"] {
            assert_eq!(fs::read(mounted.root().join(file)).unwrap(), file.as_bytes());
        }
        assert!(!names(&root.path().join("lost+found")).is_empty());
    });
}

#[test]
fn root_a_layer_is_filled_again_where_its_copy_of_another_is_damaged() {
    let test = "root_a_layer_is_filled_again_where_its_copy_of_another_is_damaged";
    on_each_driver(test, |root| {
        let open = root.open();
        if root.is_concurrent() {
            // Each layer has its own files only.
            return;
        }
        let Twins { base, twin, top, .. } = twins(&open);
        let path = root.thaw(&layer_of(&open, &twin)).join("base");
        fs::remove_file(&path).unwrap();
        fs::File::create(&path).unwrap();
        overwrite(&path, b"LIFE");
        let itself = Remedy::Refill { source_name: "its own files".to_owned() };
        assert_eq!(mend(root, &open, "a copy"), [itself, Remedy::Above { below: twin }]);

        // Nothing has what it stands on.
        overwrite(&root.thaw(&layer_of(&open, &base)).join("base"), b"LIFE");
        overwrite(&root.thaw(&layer_of(&open, &top)).join("base"), b"LIFE");
        let (done, _) = repair(&open.store, Depth::Content, false).unwrap();
        assert_eq!(done[0].remedy, Remedy::Load, "{done:?}");
        assert_eq!(done[0].outcome, Outcome::Needed, "{done:?}");
        let tar = tar_of("base");
        open.store.mend_from(&base, tar.as_slice()).unwrap();
        assert_eq!(repair(&open.store, Depth::Content, false).unwrap().1.left, 0);
        assert_eq!(repair(&open.store, Depth::Content, false).unwrap().1.checked.findings, 0);
    });
}

#[test]
fn root_links_and_sizes_are_made_right() {
    on_each_driver("root_links_and_sizes_are_made_right", |root| {
        let open = root.open();
        let Twins { base, twin, top, .. } = twins(&open);
        let id = container(&open, Some(&top)).unwrap();
        if !root.is_concurrent() {
            return;
        }
        let of = |chain: &ChainId| root.home().join(layer_of(&open, chain).as_str());
        overwrite(&root.links_of(&layer_of(&open, &top)), b"l/NOTHING");
        assert_eq!(mend(root, &open, "lower"), [Remedy::Links]);
        if root.driver_name() == "aufs" {
            fs::remove_file(root.links_of(&layer_of(&open, &top))).unwrap();
            assert_eq!(mend(root, &open, "no lower"), [Remedy::Links]);
        } else {
            let mut short = String::new();
            fs::File::open(of(&base).join("link")).unwrap().read_to_string(&mut short).unwrap();
            fs::remove_file(root.home().join("l").join(&short)).unwrap();
            assert_eq!(mend(root, &open, "l/"), [Remedy::Links]);
            fs::remove_file(root.home().join("l").join(&short)).unwrap();
            fs::remove_file(of(&base).join("link")).unwrap();
            assert_eq!(mend(root, &open, "l/ and link"), [Remedy::Links]);
        }

        fs::File::create(root.thaw(&layer_of(&open, &twin)).join("more")).unwrap();
        overwrite(&root.thaw(&layer_of(&open, &twin)).join("more"), b"123");
        let own = Remedy::Refill { source_name: "its own files".to_owned() };
        assert_eq!(mend(root, &open, "a file too many"), [own]);

        let before = open.store.get(&top).unwrap().unwrap().chain_size;
        open.db
            .write(|tx| {
                let wrong = "UPDATE layer_realisations SET size = size + 100 WHERE chain_id = ?1";
                tx.execute(wrong, [twin.as_str()])?;
                let above = "UPDATE layer_realisations SET chain_size = chain_size + 100 \
                             WHERE chain_id IN (?1, ?2)";
                tx.execute(above, [twin.as_str(), top.as_str()])?;
                Ok::<_, berth_db::DbError>(())
            })
            .unwrap();
        assert_eq!(mend(root, &open, "size"), [Remedy::Size]);
        assert_eq!(open.store.get(&twin).unwrap().unwrap().size, 4);
        assert_eq!(open.store.get(&top).unwrap().unwrap().chain_size, before);

        let rw = open.store.rw(&id).unwrap().unwrap();
        overwrite(&root.links_of(&rw.mount), b"l/NOTHING");
        assert_eq!(mend(root, &open, "a container's lower"), [Remedy::Links]);
    });
}

#[test]
fn root_what_nothing_has_is_noted_until_it_is_loaded() {
    on_each_driver("root_what_nothing_has_is_noted_until_it_is_loaded", |root| {
        let open = root.open();
        let Twins { base, top, .. } = twins(&open);
        let id = container(&open, Some(&top)).unwrap();
        overwrite(&root.thaw(&layer_of(&open, &base)).join("base"), b"LIFE");
        for dry_run in [true, false] {
            let (repairs, sums) = repair(&open.store, Depth::Content, dry_run).unwrap();
            assert_eq!(sums.left, 1, "{repairs:?}");
            assert_eq!(
                (&repairs[0].remedy, &repairs[0].outcome),
                (&Remedy::Load, &Outcome::Needed)
            );
            assert!(matches!(repairs[0].finding.trouble, Trouble::Content { .. }));
            assert_eq!(open.store.is_damaged(&base).unwrap(), !dry_run);
        }
        let wrong = open.store.mend_from(&base, tar_of("bane").as_slice()).unwrap_err();
        assert!(matches!(wrong, LayerError::DiffId { .. }), "{wrong}");
        assert!(open.store.is_damaged(&base).unwrap());
        open.store.mend_from(&base, tar_of("base").as_slice()).unwrap();
        assert!(!open.store.is_damaged(&base).unwrap());
        let (_, sums) = repair(&open.store, Depth::Content, false).unwrap();
        assert_eq!(sums.checked.findings, 0);
        open.store.reap().unwrap();
        root.check(&open.store);

        open.db.write(|tx| open.store.set_rw_size(tx, &id, None)).unwrap();
        let rw = open.store.rw(&id).unwrap().unwrap();
        remove(root, &rw.mount);
        let (repairs, sums) = repair(&open.store, Depth::Names, false).unwrap();
        assert_eq!((repairs[0].remedy.clone(), sums.left), (Remedy::Recreate, 1));
        assert_eq!(repairs[0].outcome, Outcome::Needed);
    });
}

#[test]
fn root_another_driver_has_what_is_missing() {
    let test = "root_another_driver_has_what_is_missing";
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return;
    }
    let dir = tempfile::tempdir_in("/var/tmp").unwrap();
    let db = Arc::new(
        berth_db::Db::open(&dir.path().join("berth.db"), &[&berth_layers::SCHEMA]).unwrap(),
    );
    let tars = [tar_of("base"), tar_of("top")];
    let mut stores = Vec::new();
    for name in ["vfs", "overlay2"] {
        let selection = berth_storage::Selection {
            root: dir.path(),
            name: Some(name),
            environment: None,
            options: &[],
            owner: berth_types::Owner::ROOT,
            mapping: None,
        };
        let Ok(driver) = berth_storage::select::open(&selection) else {
            testkit::skip(test, "overlay2 over /var/tmp");
            return;
        };
        let store = LayerStore::open(dir.path(), driver, Arc::clone(&db)).unwrap();
        let open = Open { store, db: Arc::clone(&db) };
        load(&open, &tars, "image").unwrap();
        stores.push(open.store);
    }
    let (overlay, others) = stores.split_last().unwrap();
    let base = top_of(&tars[..1]);
    let layer = overlay.get(&base).unwrap().unwrap().layer;
    fs::remove_dir_all(dir.path().join("overlay2").join(layer.as_str())).unwrap();
    let mut found = Vec::new();
    let plan = Plan { depth: Depth::Names, dry_run: false, others, alone: &|_, work| work() };
    overlay
        .repair(&plan, &mut |step| {
            found.extend(if let Step::Repair(repair) = step { Some(*repair) } else { None });
            true
        })
        .unwrap();
    let short = &base.hex()[..12];
    let source_name = format!("layer {short} of the storage driver vfs");
    assert_eq!(found[0].remedy, Remedy::Refill { source_name });
    assert_eq!(repair(overlay, Depth::Content, false).unwrap().1.checked.findings, 0);
}

#[test]
fn fault_root_a_repair_that_stops_loses_nothing() {
    on_each_driver("fault_root_a_repair_that_stops_loses_nothing", |root| {
        let (twin, layer) = {
            let open = root.open();
            let Twins { twin, .. } = twins(&open);
            let layer = layer_of(&open, &twin);
            (twin, layer)
        };
        for calls in 0.. {
            let mark = format!("DAMAGE{calls}");
            overwrite(&root.thaw(&layer).join("twin"), mark.as_bytes());
            let mut driver = None;
            let open = root.open_with(|inner| {
                let stopping = Stopping::after(inner, calls);
                driver = Some(Arc::clone(&stopping));
                stopping
            });
            let outcome = repair(&open.store, Depth::Content, false);
            drop(open);
            let stopped = driver.unwrap().failed().is_some();
            let all_done = matches!(&outcome, Ok((_, sums)) if sums.left == 0);
            assert_eq!(all_done, !stopped, "call {calls}: {outcome:?}");
            let open = root.open();
            let report = open.store.recover(&|_| false).unwrap();
            assert_eq!((report.missing, report.lost), (vec![], vec![]), "call {calls}");
            open.store.reap().unwrap();
            assert!(holds(root.path(), &mark), "call {calls}: the damaged content is gone");
            let (left, _) = repair(&open.store, Depth::Content, false).unwrap();
            assert!(left.iter().all(|r| r.outcome == Outcome::Done), "call {calls}: {left:?}");
            open.store.reap().unwrap();
            root.check(&open.store);
            assert!(open.store.get(&twin).unwrap().is_some());
            if !stopped {
                assert!(calls > 5, "a repair makes several calls");
                break;
            }
        }
    });
}

/// Whether some file below `dir` has this content.
fn holds(dir: &Path, content: &str) -> bool {
    fs::read_dir(dir).unwrap().any(|entry| {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            return holds(&entry.path(), content);
        }
        entry.metadata().unwrap().len() == content.len() as u64
            && fs::read(entry.path()).is_ok_and(|found| found == content.as_bytes())
    })
}
