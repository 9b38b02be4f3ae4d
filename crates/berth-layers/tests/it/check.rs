//! What a check finds, and that it finds nothing where nothing is wrong.

use std::fs;
use std::path::Path;

use berth_layers::check::{Checked, Depth, Finding, Owner, Progress, Trouble};
use berth_layers::{ChangeKind, LayerStore, Reach};
use berth_types::{ChainId, LayerId};

use crate::fixture::{Open, container, load, mount, on_each_driver, tar_of, tar_with, top_of};

/// Findings as `what: trouble`, and the sums.
fn check(store: &LayerStore, depth: Depth) -> (Vec<Finding>, Checked) {
    let mut findings = Vec::new();
    let mut last = None;
    let checked = store
        .check(depth, &mut |progress| {
            match progress {
                Progress::Found(finding) => findings.push(finding),
                Progress::Layers { done, total } => last = Some((done, total)),
            }
            true
        })
        .unwrap();
    let looked_at = checked.layers + checked.containers;
    assert_eq!(last, Some((looked_at, looked_at)));
    assert_eq!(checked.findings, findings.len() as u64);
    (findings, checked)
}

fn layer_of(open: &Open, chain: &ChainId) -> LayerId {
    open.store.get(chain).unwrap().unwrap().layer
}

fn overwrite(path: &Path, bytes: &[u8]) {
    let file = fs::OpenOptions::new().write(true).truncate(true).open(path).unwrap();
    std::io::Write::write_all(&mut &file, bytes).unwrap();
}

#[test]
fn root_a_healthy_store_has_no_findings() {
    on_each_driver("root_a_healthy_store_has_no_findings", |root| {
        let open = root.open();
        let tars = [tar_of("one"), tar_of("two")];
        let top = load(&open, &tars, "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        {
            let mounted = mount(&open.store, &id);
            fs::File::create(mounted.root().join("new")).unwrap();
        }
        assert_eq!(open.store.changes(&id, Reach::AtRest).unwrap()[0].kind, ChangeKind::Added);
        let (findings, checked) = check(&open.store, Depth::Content);
        assert_eq!(findings, []);
        let copied = if root.is_concurrent() { 0 } else { "one".len() as u64 };
        let bytes = copied + tars.iter().map(|tar| tar.len() as u64).sum::<u64>();
        assert_eq!(checked, Checked { layers: 2, containers: 1, bytes, findings: 0 });
        assert_eq!(check(&open.store, Depth::Names).1.bytes, 0);
    });
}

#[test]
fn root_each_kind_of_damage_is_found_and_named() {
    on_each_driver("root_each_kind_of_damage_is_found_and_named", |root| {
        let open = root.open();
        let tars = [tar_of("file"), tar_of("above")];
        let top = load(&open, &tars, "image").unwrap();
        let base = top_of(&tars[..1]);
        let (base_layer, top_layer) = (layer_of(&open, &base), layer_of(&open, &top));
        let has_native = root.is_concurrent();
        let of = |chain: &ChainId| Owner::Image(chain.clone());
        let finding = |layer: &LayerId, of: Owner, trouble: Trouble| Finding {
            layer: layer.clone(),
            of,
            trouble,
        };

        // The same length: only its content tells.
        overwrite(&root.thaw(&base_layer).join("file"), b"LIFE");
        assert_eq!(check(&open.store, Depth::Names).0, []);
        let damaged =
            Trouble::Content { why: "file integrity checksum failed for \"file\"".to_owned() };
        let mut expected = vec![finding(&base_layer, of(&base), damaged)];
        if root.driver_name() == "overlay" {
            // They are one file.
            expected.push(finding(&top_layer, of(&top), inherited("file", &base)));
        }
        assert_eq!(check(&open.store, Depth::Content).0, expected);
        overwrite(&root.thaw(&base_layer).join("file"), b"file");
        assert_eq!(check(&open.store, Depth::Content).0, []);

        if has_native {
            fs::File::create(root.thaw(&top_layer).join("more")).unwrap();
            overwrite(&root.thaw(&top_layer).join("more"), b"123");
            let size = Trouble::Size { recorded: 5, measured: 8 };
            assert_eq!(check(&open.store, Depth::Names).0, [finding(&top_layer, of(&top), size)]);
            // That of a start walks no tree.
            assert_eq!(check(&open.store, Depth::Links).0, []);
            fs::remove_file(root.thaw(&top_layer).join("more")).unwrap();
            overwrite(&root.links_of(&top_layer), b"l/NOTHING");
            let links = [finding(&top_layer, of(&top), Trouble::Links)];
            assert_eq!(check(&open.store, Depth::Names).0, links);
            assert_eq!(check(&open.store, Depth::Links).0, links);
        }

        let split = root.path().join("layers").join(top.hex()).join("tar-split.json.gz");
        fs::rename(&split, split.with_extension("away")).unwrap();
        let found = check(&open.store, Depth::Names).0;
        assert!(found.contains(&finding(&top_layer, of(&top), Trouble::NoTarSplit)), "{found:?}");

        let id = container(&open, Some(&base)).unwrap();
        let stranger = LayerId::random();
        let rw = open.store.rw(&id).unwrap().unwrap();
        for (from, to) in [(&base_layer, None), (&rw.mount, Some(&stranger))] {
            let path = root.home().join(from.as_str());
            match to {
                None => fs::remove_dir_all(path).unwrap(),
                Some(to) => fs::rename(path, root.home().join(to.as_str())).unwrap(),
            }
        }
        let found = check(&open.store, Depth::Names).0;
        for expected in [
            finding(&base_layer, of(&base), Trouble::Missing),
            finding(&rw.mount, Owner::Container(id), Trouble::Missing),
            finding(&stranger, Owner::Nobody, Trouble::Unknown),
        ] {
            assert!(found.contains(&expected), "{expected:?} is not in {found:?}");
        }
    });
}

fn inherited(name: &str, from: &ChainId) -> Trouble {
    let why = format!("{name:?} of {}: file integrity checksum failed", &from.hex()[..12]);
    Trouble::Inherited { why }
}

#[test]
fn root_damage_to_what_a_layer_has_of_others_is_found() {
    on_each_driver("root_damage_to_what_a_layer_has_of_others_is_found", |root| {
        let open = root.open();
        if root.is_concurrent() {
            // Each layer has its own files only.
            return;
        }
        let tars = [
            tar_with(&[
                ("d/", ""),
                ("d/kept", "first"),
                ("d/changed", "first"),
                ("d/deleted", "first"),
                ("gone/", ""),
                ("gone/x", "first"),
                ("opaque/", ""),
                ("opaque/x", "first"),
                ("becomes-file/", ""),
                ("becomes-file/x", "first"),
                ("real/", ""),
                ("real/x", "first"),
                ("link", "-> real"),
                ("empty", ""),
            ]),
            tar_with(&[
                ("d/changed", "second"),
                ("d/.wh.deleted", ""),
                (".wh.gone", ""),
                ("gone/y", "second"),
                ("opaque/.wh..wh..opq", ""),
                ("opaque/y", "second"),
                ("becomes-file", "second"),
                // By way of a link of the layer below.
                ("link/x", "second"),
            ]),
            tar_of("top"),
        ];
        let top = load(&open, &tars, "image").unwrap();
        load(&open, &[tar_of("other"), tar_of("sibling")], "other").unwrap();
        load(&open, &[tars[0].clone(), tar_of("branch")], "third").unwrap();
        assert_eq!(check(&open.store, Depth::Content).0, []);
        let (first, second) = (top_of(&tars[..1]), top_of(&tars[..2]));
        let files = root.thaw(&layer_of(&open, &top));
        #[rustfmt::skip]
        let table = [
            ("d/kept",    &first),
            ("d/changed", &second),
            ("gone/y",    &second),
            ("real/x",    &second),
        ];
        for (name, from) in table {
            let path = files.join(name);
            let good = fs::read(&path).unwrap();
            // Another file, so that what it may be shared with stays as it is.
            fs::remove_file(&path).unwrap();
            fs::File::create(&path).unwrap();
            overwrite(&path, &vec![b'x'; good.len()]);
            let (found, _) = check(&open.store, Depth::Content);
            let of = Owner::Image(top.clone());
            let trouble = inherited(name, from);
            assert_eq!(found, [Finding { layer: layer_of(&open, &top), of, trouble }], "{name}");
            overwrite(&path, &good);
        }
        assert_eq!(check(&open.store, Depth::Content).0, []);
        for (name, why) in
            [("empty", "No such file or directory"), ("link", "it is something else")]
        {
            fs::remove_file(files.join(name)).unwrap();
            if name == "link" {
                fs::create_dir(files.join(name)).unwrap();
            }
            let (found, _) = check(&open.store, Depth::Content);
            let Trouble::Inherited { why: told } = &found[0].trouble else { panic!("{found:?}") };
            assert!(told.contains(why), "{told}");
            if name == "empty" {
                fs::File::create(files.join(name)).unwrap();
            }
        }
    });
}

#[test]
fn root_a_check_ends_when_nobody_listens() {
    on_each_driver("root_a_check_ends_when_nobody_listens", |root| {
        let open = root.open();
        load(&open, &[tar_of("one"), tar_of("two")], "image").unwrap();
        let checked = open.store.check(Depth::Content, &mut |_| false).unwrap();
        assert_eq!(checked.layers, 1);
    });
}
