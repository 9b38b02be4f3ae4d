//! Containers' layers.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{Read as _, Write as _};

use berth_layers::check::Owner;
use berth_layers::{ChangeKind, LayerError, LayerStore, Reach, RecoverReport};
use berth_storage::{CreateOptions, NativeDiff};
use berth_types::{Classify as _, ContainerId, DiffId, Digest, ErrorKind, IdMap, IdMaps};

use crate::fixture::{container, load, mount, names, on_each_driver, tar_of};

const INIT: [&str; 5] = [".dockerenv", "dev", "etc", "proc", "sys"];

fn changes(store: &LayerStore, id: &ContainerId) -> Vec<String> {
    let letter = |kind| match kind {
        ChangeKind::Modified => 'C',
        ChangeKind::Added => 'A',
        ChangeKind::Deleted => 'D',
    };
    let changes = store.changes(id, Reach::AtRest).unwrap();
    changes.iter().map(|one| format!("{} {}", letter(one.kind), one.path.display())).collect()
}

fn base_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, size) in [("d/", 0_u64), ("d/f", 3), ("g", 5), ("etc/", 0), ("etc/hosts", 9)] {
        let mut header = tar::Header::new_gnu();
        let kind =
            if name.ends_with('/') { tar::EntryType::Directory } else { tar::EntryType::Regular };
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o755);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, std::io::repeat(b'x').take(size)).unwrap();
    }
    tar.into_inner().unwrap()
}

#[test]
fn root_a_new_container_has_its_mount_points_and_no_changes() {
    on_each_driver("root_a_new_container_has_its_mount_points_and_no_changes", |root| {
        let open = root.open();
        let top = load(&open, &[base_tar()], "image").unwrap();
        for parent in [Some(&top), None] {
            let id = container(&open, parent).unwrap();
            for _ in 0..2 {
                open.store.ensure_rw(&id).unwrap();
                assert_eq!(changes(&open.store, &id), [""; 0]);
                assert_eq!(open.store.measure_rw(&id, Reach::AtRest).unwrap(), 0);
            }
            let mounted = mount(&open.store, &id);
            let mut expected: Vec<_> = INIT.to_vec();
            if parent.is_some() {
                expected.extend(["d", "g"]);
            }
            let found = names(mounted.root());
            assert!(expected.iter().all(|name| found.contains(*name)), "{found:?}");
            assert_eq!(fs::metadata(mounted.root().join("etc/hosts")).unwrap().len(), 0);
            let data = open.store.rw_metadata(&id).unwrap();
            assert_eq!(data.is_some(), root.has_metadata());
        }
        root.recover();
    });
}

#[test]
fn root_what_containers_of_an_image_begin_as_is_filled_once_and_goes_with_it() {
    let name = "root_what_containers_of_an_image_begin_as_is_filled_once_and_goes_with_it";
    on_each_driver(name, |root| {
        let open = root.open();
        if !open.store.driver().mounts_to_fill() {
            return;
        }
        let top = load(&open, &[base_tar()], "image").unwrap();
        let template = open.store.get(&top).unwrap().unwrap().layer.init();
        // A stop came before it was filled.
        let driver = open.store.driver();
        let image = open.store.get(&top).unwrap().unwrap().layer;
        driver.create(&template, Some(&image), &CreateOptions::default()).unwrap();
        drop(open);
        let (open, report) = root.recover();
        assert_eq!(report, RecoverReport::default());
        let shown = |id: &ContainerId| names(mount(&open.store, id).root());
        let first = container(&open, Some(&top)).unwrap();
        assert!(INIT.iter().all(|name| shown(&first).contains(*name)));
        // Nobody looks at what was filled before.
        let removed = open.db.write(|tx| open.store.remove_rw(tx, &first)).unwrap();
        open.store.purge(&removed).unwrap();
        open.store.reap().unwrap();
        let own = root.home().join(template.as_str()).join("data/own");
        if own.parent().is_some_and(std::path::Path::is_dir) {
            File::create(&own).unwrap();
            let second = container(&open, Some(&top)).unwrap();
            assert!(shown(&second).contains("own"));
            let removed = open.db.write(|tx| open.store.remove_rw(tx, &second)).unwrap();
            open.store.purge(&removed).unwrap();
        }
        let owner = open.store.owners().unwrap().remove(&template);
        assert_eq!(owner, Some(Some(Owner::Image(top.clone()))));
        let layers = || open.store.driver().list().unwrap().len();
        assert_eq!(layers(), 2, "the image's layer and what its containers begin as");
        let removed = open.db.write(|tx| open.store.release(tx, &top, "image")).unwrap();
        open.store.purge(&removed).unwrap();
        open.store.reap().unwrap();
        assert_eq!(layers(), 0);
        drop(open);
        root.recover();
    });
}

#[test]
fn root_changes_sizes_and_commit_are_dockers() {
    on_each_driver("root_changes_sizes_and_commit_are_dockers", |root| {
        let open = root.open();
        let top = load(&open, &[base_tar()], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        {
            // `rm /g; rm -r /d; mkdir /d; echo n >/d/n`
            let mounted = mount(&open.store, &id);
            let at = |name: &str| mounted.root().join(name);
            fs::remove_file(at("g")).unwrap();
            fs::remove_dir_all(at("d")).unwrap();
            fs::create_dir(at("d")).unwrap();
            File::create(at("d/n")).unwrap().write_all(b"n\n").unwrap();
        }
        assert_eq!(changes(&open.store, &id), ["C /d", "A /d/n", "D /d/f", "D /g"]);
        assert_eq!(open.store.rw_size(&id).unwrap(), 0, "as recorded");
        open.db.write(|tx| open.store.set_rw_size(tx, &id, None)).unwrap();
        assert_eq!(open.store.rw_size(&id).unwrap(), 2, "measured");
        open.db.write(|tx| open.store.set_rw_size(tx, &id, Some(7))).unwrap();
        assert_eq!(open.store.rw_size(&id).unwrap(), 7);
        assert_eq!(open.store.measure_rw(&id, Reach::AtRest).unwrap(), 2);

        let mut tar = Vec::new();
        open.store.diff_tar(&id, Reach::AtRest, &mut tar).unwrap();
        let mut archive = tar::Archive::new(tar.as_slice());
        let packed: Vec<_> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert!(packed.contains(&".wh.g".to_owned()), "{packed:?}");

        let (mut ingest, applied) = open.store.commit_rw("commit", &id, Reach::AtRest).unwrap();
        assert_eq!((applied.size, &applied.diff), (2, &crate::fixture::diff_of(&tar)));
        let chain = ingest.finish().unwrap().pop().unwrap();
        open.db
            .write(|tx| {
                ingest.record(tx)?;
                open.store.retain(tx, &chain, "image:2")
            })
            .unwrap();
        ingest.done();
        let mut back = Vec::new();
        open.store.tar_stream(&chain).unwrap().read_to_end(&mut back).unwrap();
        assert!(back == tar);

        let child = container(&open, Some(&chain)).unwrap();
        let mounted = mount(&open.store, &child);
        assert!(!names(mounted.root()).contains("g"));
        assert_eq!(Vec::from_iter(names(&mounted.root().join("d"))), ["n"]);
        drop(mounted);
        root.recover();
    });
}

/// As `setcap cap_net_raw+ep` sets it.
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 32, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// A file `p` with a capability.
fn capable_tar() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let capability = ("SCHILY.xattr.security.capability", &CAPABILITY[..]);
    tar.append_pax_extensions([capability]).unwrap();
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.set_mode(0o755);
    header.set_mtime(1_700_000_000);
    tar.append_data(&mut header, "p", &b"x"[..]).unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn root_a_capability_given_or_taken_is_a_change() {
    on_each_driver("root_a_capability_given_or_taken_is_a_change", |root| {
        let open = root.open();
        // One given where no file of the image has any, one given and one taken where some have.
        let plain = vec![base_tar()];
        let capable = vec![base_tar(), capable_tar(), tar_of("last")];
        let table = [(plain, false, vec!["C /g"]), (capable, true, vec!["C /g", "C /p"])];
        for (tars, has_capabilities, expected) in table {
            let top = load(&open, &tars, "image").unwrap();
            let layer = open.store.get(&top).unwrap().unwrap();
            assert_eq!(layer.capabilities, has_capabilities);
            let id = container(&open, Some(&top)).unwrap();
            {
                let mounted = mount(&open.store, &id);
                let at = |name: &str| mounted.root().join(name);
                let (name, flags) = ("security.capability", rustix::fs::XattrFlags::empty());
                rustix::fs::setxattr(at("g"), name, &CAPABILITY, flags).unwrap();
                if has_capabilities {
                    rustix::fs::removexattr(at("p"), name).unwrap();
                }
            }
            assert_eq!(changes(&open.store, &id), expected);
        }
        root.recover();
    });
}

/// A file `one`, which is also `two`.
fn linked_tar() -> Vec<u8> {
    let mut bytes = tar_of("one");
    // Without its end.
    bytes.truncate(bytes.len() - 1024);
    let mut tar = tar::Builder::new(bytes);
    let mut header = tar::Header::new_gnu();
    header.set_entry_type(tar::EntryType::Link);
    header.set_size(0);
    header.set_mode(0o755);
    tar.append_link(&mut header, "two", "one").unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn root_a_write_through_a_hard_link_is_in_the_changes_of_each_name_that_shows_it() {
    let test = "root_a_write_through_a_hard_link_is_in_the_changes_of_each_name_that_shows_it";
    on_each_driver(test, |root| {
        let open = root.open();
        let top = load(&open, &[linked_tar()], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let read = |dir: &std::path::Path| {
            ["one", "two"].map(|name| fs::read_to_string(dir.join(name)).unwrap())
        };
        let shown = {
            let mounted = mount(&open.store, &id);
            let mut one = File::options().append(true).open(mounted.root().join("one")).unwrap();
            one.write_all(b"new").unwrap();
            read(mounted.root())
        };
        if root.driver_name() == "fuse-overlayfs" {
            // Its helper shows both names as one file until it ends, and has written only one.
            return;
        }
        let both = shown[0] == shown[1];
        assert_eq!(both, root.keeps_links(), "{shown:?} on {}", root.driver_name());
        let expected: &[&str] = if both { &["C /one", "C /two"] } else { &["C /one"] };
        assert_eq!(changes(&open.store, &id), expected);

        let (mut ingest, _) = open.store.commit_rw("commit", &id, Reach::AtRest).unwrap();
        let chain = ingest.finish().unwrap().pop().unwrap();
        open.db
            .write(|tx| {
                ingest.record(tx)?;
                open.store.retain(tx, &chain, "committed")
            })
            .unwrap();
        ingest.done();
        let committed = container(&open, Some(&chain)).unwrap();
        assert_eq!(read(mount(&open.store, &committed).root()), shown);
        root.recover();
    });
}

#[test]
fn root_a_container_without_changes_commits_the_empty_layer() {
    on_each_driver("root_a_container_without_changes_commits_the_empty_layer", |root| {
        let open = root.open();
        let top = load(&open, &[tar_of("a")], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let (ingest, applied) = open.store.commit_rw("commit", &id, Reach::AtRest).unwrap();
        assert_eq!((applied.size, applied.diff), (0, DiffId::empty()));
        drop(ingest);
        open.store.reap().unwrap();
        root.check(&open.store);
    });
}

#[test]
fn root_unknown_containers_and_refused_options() {
    on_each_driver("root_unknown_containers_and_refused_options", |root| {
        let open = root.open();
        let unknown = ContainerId::random();
        let error = open.store.ensure_rw(&unknown).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound);
        assert_eq!(open.db.write(|tx| open.store.remove_rw(tx, &unknown)).unwrap(), []);
        let options = CreateOptions {
            storage_opt: BTreeMap::from([("nonsense".to_owned(), "1".to_owned())]),
            ..CreateOptions::default()
        };
        let id = ContainerId::random();
        open.db.write(|tx| open.store.create_rw(tx, &id, None, &options)).unwrap();
        let error = open.store.ensure_rw(&id).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{error}");
        let removed = open.db.write(|tx| open.store.remove_rw(tx, &id)).unwrap();
        open.store.purge(&removed).unwrap();
        open.store.reap().unwrap();
        root.check(&open.store);
    });
}

#[test]
fn root_a_container_of_another_driver_is_kept_and_refused() {
    on_each_driver("root_a_container_of_another_driver_is_kept_and_refused", |root| {
        let open = root.open();
        let id = container(&open, None).unwrap();
        let other = if root.driver_name() == "vfs" { "overlay2" } else { "vfs" };
        open.db
            .write(|tx| {
                tx.execute("UPDATE rw_layers SET driver = ?1", [other])
                    .map_err(berth_db::DbError::from)?;
                Ok::<_, LayerError>(())
            })
            .unwrap();
        let error = open.store.prepare_rw(&id, berth_storage::Access::Read).unwrap_err();
        assert!(matches!(error, LayerError::OtherDriver { .. }), "{error}");
        let rw = open.store.rw(&id).unwrap().unwrap();
        assert_eq!(rw.driver, other);
        let removed = open.db.write(|tx| open.store.remove_rw(tx, &id)).unwrap();
        assert_eq!(removed, [], "its bytes wait for that driver");
    });
}

/// Names and owners in a tar.
fn owners(tar: &[u8]) -> Vec<(String, u64, u64)> {
    let mut archive = tar::Archive::new(tar);
    let entries = archive.entries().unwrap().map(|entry| {
        let entry = entry.unwrap();
        let header = entry.header();
        let path = entry.path().unwrap().display().to_string();
        (path, header.uid().unwrap(), header.gid().unwrap())
    });
    entries.collect()
}

#[test]
fn root_layers_hold_ids_of_the_host_and_tars_those_of_containers() {
    use std::os::unix::fs::{MetadataExt as _, chown};
    on_each_driver("root_layers_hold_ids_of_the_host_and_tars_those_of_containers", |root| {
        let map = |host| IdMap::from_subordinate(&[(host, 1000)]);
        let ids = IdMaps { uids: map(100_000), gids: map(200_000) };
        // The twin is no driver of the daemon's and knows no owners.
        if root.driver_name() == berth_storage::twin::NAME {
            return;
        }
        let open = root.open_for(&ids);
        let top = load(&open, &[base_tar()], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let layer = open.store.get(&top).unwrap().unwrap().layer;
        let native = open.store.driver().native();
        let maps = native.is_some_and(NativeDiff::maps_ids);
        if let Some(native) = native {
            let meta = fs::symlink_metadata(native.diff_dir(&layer).join("d/f")).unwrap();
            let expected = if maps { (0, 0) } else { (100_000, 200_000) };
            assert_eq!((meta.uid(), meta.gid()), expected);
        }
        let mounted = mount(&open.store, &id);
        let at = |name: &str| mounted.root().join(name);
        let owner = |name: &str| {
            let meta = fs::symlink_metadata(at(name)).unwrap();
            (meta.uid(), meta.gid())
        };
        for name in ["", "d/f", "etc/hosts", "etc/mtab", ".dockerenv", "dev", "dev/pts"] {
            assert_eq!(owner(name), (100_000, 200_000), "{name:?} on {}", root.driver_name());
        }
        File::create(at("mine")).unwrap();
        chown(at("mine"), Some(100_005), Some(200_006)).unwrap();
        chown(at("g"), Some(100_007), Some(200_000)).unwrap();
        drop(mounted);
        let mut tar = Vec::new();
        open.store.diff_tar(&id, Reach::AtRest, &mut tar).unwrap();
        let entry = |name: &str, uid, gid| (name.to_owned(), uid, gid);
        assert_eq!(owners(&tar), [entry("g", 7, 0), entry("mine", 5, 6)]);
        let (ingest, applied) = open.store.commit_rw("commit", &id, Reach::AtRest).unwrap();
        assert_eq!(applied.diff, Digest::of(&tar).into());
        drop(ingest);
        open.store.reap().unwrap();
        root.check(&open.store);
    });
}
