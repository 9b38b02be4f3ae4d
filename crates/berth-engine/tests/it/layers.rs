//! Who may use the layer of a container that does not run.

use std::time::Duration;

use berth_api::ApiVersion;
use berth_api::container::CreateRequest;
use berth_storage::twin;

use crate::kit::{Dirs, Open};

/// More than an export makes ahead of its reader.
const LARGE: usize = 8 << 20;
/// Long enough for whatever does not wait.
const WHILE: Duration = Duration::from_millis(500);

fn create(open: &Open) -> String {
    let body = br#"{"Image": "test", "Cmd": ["/file"], "HostConfig": {"NetworkMode": "none"}}"#;
    let request = CreateRequest::from_json(body).unwrap();
    let made = open.engine().create_container(None, None, request, ApiVersion::MAX);
    open.block_on(made).unwrap().id
}

#[test]
fn root_a_mounted_layer_is_left_to_whoever_reads_it() {
    let test = "root_a_mounted_layer_is_left_to_whoever_reads_it";
    for (driver, waits) in [(twin::NAME, true), ("overlay2", false)] {
        let Some(dirs) = Dirs::new(test) else { return };
        let open = dirs.open_on(driver).unwrap();
        open.import(&vec![b'x'; LARGE]);
        let id = create(&open);
        let (engine, active) = (open.engine(), dirs.data_root().join(driver).join("active"));
        let active = || std::fs::read_dir(&active).map_or(0, Iterator::count);
        assert_eq!(active(), 0);
        open.block_on(async {
            let mut export = engine.export(&id).unwrap();
            export.recv().await.unwrap().unwrap();
            let changes = engine.changes(&id);
            tokio::pin!(changes);
            let at_once = tokio::time::timeout(WHILE, &mut changes).await;
            assert_eq!(at_once.is_err(), waits, "{driver}");
            assert_eq!(active(), usize::from(waits), "what the export reads stays activated");
            let mut size = 0;
            while let Some(piece) = export.recv().await {
                size += piece.unwrap().len();
            }
            assert!(size > LARGE / 2, "{size}");
            let changes = if waits { changes.await } else { at_once.unwrap() };
            assert_eq!(changes.unwrap().len(), 0);
        });
        assert_eq!(active(), 0, "nobody uses it");
    }
}
