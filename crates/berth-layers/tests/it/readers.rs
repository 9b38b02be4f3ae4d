//! Several who read one layer at the same time.

use std::collections::BTreeSet;
use std::fs;
use std::io::Read as _;

use berth_layers::{LayerError, Reach};
use berth_storage::twin;

use crate::fixture::{container, load, mount, on_each_driver, tar_of};

#[test]
fn root_whoever_reads_a_layer_leaves_it_to_the_others() {
    on_each_driver("root_whoever_reads_a_layer_leaves_it_to_the_others", |root| {
        let open = root.open();
        let top = load(&open, &[tar_of("a")], "image").unwrap();
        let layer = open.store.get(&top).unwrap().unwrap().layer.to_string();
        let active: BTreeSet<_> =
            (root.driver_name() == twin::NAME).then_some(layer).into_iter().collect();
        let streams = [0; 3].map(|_| open.store.tar_stream(&top).unwrap());
        for mut stream in streams {
            assert_eq!(root.active(), active);
            let mut tar = Vec::new();
            stream.read_to_end(&mut tar).unwrap();
            assert!(tar == tar_of("a"));
        }
        assert_eq!(root.active(), BTreeSet::new());
        root.check(&open.store);
    });
}

#[test]
fn root_what_runs_is_read_through_its_mount_and_not_after_its_end() {
    on_each_driver("root_what_runs_is_read_through_its_mount_and_not_after_its_end", |root| {
        let open = root.open();
        let top = load(&open, &[tar_of("a")], "image").unwrap();
        let id = container(&open, Some(&top)).unwrap();
        let own = open.store.rw(&id).unwrap().unwrap().mount.to_string();
        let mounted = mount(&open.store, &id);
        let place = mounted.root().to_owned();
        fs::File::create(place.join("new")).unwrap();
        let active = root.active();
        let reach = Reach::Running(&place);
        for _ in 0..2 {
            let changes = open.store.changes(&id, reach).unwrap();
            assert_eq!(changes.len(), 1, "{changes:?}");
            assert_eq!(open.store.measure_rw(&id, reach).unwrap(), 0);
            assert_eq!(root.active(), active, "still what the run needs");
        }
        assert_eq!(active.contains(&own), root.driver_name() == twin::NAME);
        drop(mounted);
        // An empty mount point is no container whose every file is deleted.
        let ended = open.store.changes(&id, reach);
        if [twin::NAME, "overlay"].contains(&root.driver_name()) || root.is_indexed() {
            assert!(matches!(ended, Err(LayerError::RunEnded { .. })), "{ended:?}");
        } else {
            assert_eq!(ended.unwrap().len(), 1);
        }
        assert_eq!(open.store.changes(&id, Reach::AtRest).unwrap().len(), 1);
        assert_eq!(root.active(), BTreeSet::new());
        root.check(&open.store);
    });
}
