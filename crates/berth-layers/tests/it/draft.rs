//! Layers that are written in place: what a build's `COPY` makes.

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::path::Path;

use berth_fs::root::Root;
use berth_layers::LayerStore;
use berth_types::{ChainId, DiffId};

use crate::fixture::{Open, load, on_each_driver};

fn tar_of(files: &[(&str, &[u8])]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(1_700_000_000);
        tar.append_data(&mut header, name, *content).unwrap();
    }
    tar.into_inner().unwrap()
}

fn write(root: &Root, name: &str, content: &[u8]) {
    let mut file = root.create_file(Path::new(name), 0o644).unwrap();
    file.write_all(content).unwrap();
}

fn read(store: &LayerStore, chain: &ChainId, name: &str) -> Option<String> {
    let read = |root: &Root| {
        let mut text = String::new();
        root.open_file(Path::new(name)).ok()?.read_to_string(&mut text).unwrap();
        Some(text)
    };
    store.with_tree(chain, read).unwrap()
}

/// Commits what was drafted as an image would; gives the new layer.
fn record(open: &Open, (mut ingest, _): (berth_layers::Ingest, berth_layers::Applied)) -> ChainId {
    let chain = ingest.finish().unwrap().pop().unwrap();
    open.db
        .write(|tx| {
            ingest.record(tx)?;
            open.store.retain(tx, &chain, "drafted")
        })
        .unwrap();
    ingest.done();
    chain
}

/// The names in a layer's own tar.
fn members(open: &Open, chain: &ChainId) -> BTreeSet<String> {
    let mut tar = tar::Archive::new(open.store.tar_stream(chain).unwrap());
    let name = |entry: tar::Entry<'_, _>| entry.path().unwrap().display().to_string();
    tar.entries().unwrap().map(|entry| name(entry.unwrap())).collect()
}

#[test]
fn root_a_draft_becomes_a_layer_of_what_was_written() {
    on_each_driver("root_a_draft_becomes_a_layer_of_what_was_written", |root| {
        let open = root.open();
        let base = load(&open, &[tar_of(&[("a", b"old"), ("b", b"b")])], "image").unwrap();
        let draft = open.store.draft(Some(&base)).unwrap();
        draft
            .write(Some(&base), |to, from| {
                let mut text = Vec::new();
                from.unwrap().open_file(Path::new("b")).unwrap().read_to_end(&mut text).unwrap();
                write(to, "copy", &text);
                to.remove_all(Path::new("a")).unwrap();
            })
            .unwrap();
        draft.write(None, |to, _| write(to, "late", b"late")).unwrap();
        let chain = record(&open, draft.commit("build").unwrap());
        drop(draft);
        let got = ["a", "b", "copy", "late"].map(|name| read(&open.store, &chain, name));
        assert_eq!(got, [None, Some("b".into()), Some("b".into()), Some("late".into())]);
        let expected = [".wh.a", "copy", "late"].map(str::to_owned);
        assert_eq!(members(&open, &chain), BTreeSet::from(expected));
        assert_eq!(read(&open.store, &base, "a").as_deref(), Some("old"));
    });
}

#[test]
fn root_a_draft_on_nothing_has_no_mount_points() {
    on_each_driver("root_a_draft_on_nothing_has_no_mount_points", |root| {
        let open = root.open();
        let draft = open.store.draft(None).unwrap();
        assert_eq!(draft.commit("build").unwrap().1.diff, DiffId::empty());
        draft.write(None, |to, _| write(to, "only", b"x")).unwrap();
        let chain = record(&open, draft.commit("build").unwrap());
        assert_eq!(members(&open, &chain), BTreeSet::from(["only".to_owned()]));
    });
}

#[test]
fn root_a_draft_that_is_dropped_or_cut_off_leaves_nothing() {
    on_each_driver("root_a_draft_that_is_dropped_or_cut_off_leaves_nothing", |root| {
        let open = root.open();
        let base = load(&open, &[tar_of(&[("a", b"a")])], "image").unwrap();
        let layers = || open.store.driver().list().unwrap().len();
        let before = layers();
        let draft = open.store.draft(Some(&base)).unwrap();
        draft.write(None, |to, _| write(to, "x", b"x")).unwrap();
        assert_eq!(layers(), before + 1);
        drop(draft);
        assert_eq!(layers(), before);
        let draft = open.store.draft(Some(&base)).unwrap();
        draft.write(None, |to, _| write(to, "x", b"x")).unwrap();
        // As if the engine had been killed here.
        let draft = std::mem::ManuallyDrop::new(draft);
        open.store.recover(&|_| false).unwrap();
        assert_eq!(layers(), before, "{draft:?}");
        assert_eq!(read(&open.store, &base, "a").as_deref(), Some("a"));
    });
}

#[test]
fn root_layers_are_flattened_to_what_differs() {
    on_each_driver("root_layers_are_flattened_to_what_differs", |root| {
        let open = root.open();
        let base = load(&open, &[tar_of(&[("a", b"a"), ("b", b"b")])], "base").unwrap();
        let mut top = base.clone();
        for (gone, new) in [("a", "one"), ("one", "two")] {
            let draft = open.store.draft(Some(&top)).unwrap();
            draft
                .write(None, |to, _| {
                    to.remove_all(Path::new(gone)).unwrap();
                    write(to, new, new.as_bytes());
                })
                .unwrap();
            top = record(&open, draft.commit("build").unwrap());
        }
        let flat = record(&open, open.store.flatten("build", Some(&base), &top).unwrap());
        let expected = [".wh.a", "two"].map(str::to_owned);
        assert_eq!(members(&open, &flat), BTreeSet::from(expected));
        assert_eq!(open.store.get(&flat).unwrap().unwrap().parent, Some(base));
    });
}
