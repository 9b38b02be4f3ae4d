//! What monitoring systems read.

use std::collections::BTreeMap;

use berth_api::ApiVersion;
use berth_api::container::CreateRequest;

use crate::kit::{Dirs, Open};

/// The figures, each line's value by its name with labels.
fn figures(open: &Open) -> BTreeMap<String, String> {
    let text = open.block_on(open.engine().metrics());
    assert_eq!(text.lines().last(), Some("# EOF"));
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    let pair = |line: &str| {
        let (name, value) = line.rsplit_once(' ').unwrap();
        (name.to_owned(), value.to_owned())
    };
    lines.map(pair).collect()
}

#[test]
fn root_what_happened_is_counted_and_what_is_there_is_shown() {
    let name = "root_what_happened_is_counted_and_what_is_there_is_shown";
    let Some(dirs) = Dirs::new(name) else { return };
    let open = dirs.open_on("vfs").unwrap();
    let before = figures(&open);
    open.import(b"bytes");
    let body = r#"{"Image": "test", "Cmd": ["/file"], "HostConfig": {"NetworkMode": "none"}}"#;
    let request = CreateRequest::from_json(body.as_bytes()).unwrap();
    let made = open.engine().create_container(None, None, request, ApiVersion::MAX);
    open.block_on(made).unwrap();
    let refused = open.block_on(open.engine().changes("no-such"));
    assert!(refused.is_err());
    let after = figures(&open);
    #[rustfmt::skip]
    let table = [
        ("engine_daemon_container_actions_seconds_count{action=\"create\"}",              "0", "1"),
        ("engine_daemon_container_actions_seconds_bucket{le=\"+Inf\",action=\"create\"}", "0", "1"),
        // What failed is not counted.
        ("engine_daemon_container_actions_seconds_count{action=\"changes\"}",             "0", "0"),
        ("engine_daemon_container_states_containers{state=\"running\"}",                  "0", "0"),
        ("engine_daemon_container_states_containers{state=\"stopped\"}",                  "0", "1"),
        ("builder_builds_triggered_total",                                                "0", "0"),
        ("berth_storage_images",                                                          "0", "1"),
        ("berth_storage_problems",                                                        "0", "0"),
    ];
    for (name, first, then) in table {
        let got = (before.get(name).map(String::as_str), after.get(name).map(String::as_str));
        assert_eq!(got, (Some(first), Some(then)), "{name}\n{after:#?}");
    }
    let events = |of: &BTreeMap<String, String>| -> u64 {
        of["engine_daemon_events_total"].parse().unwrap()
    };
    assert!(events(&after) > events(&before), "{after:#?}");
    let info = after.keys().find(|name| name.starts_with("engine_daemon_engine_info")).unwrap();
    assert!(info.contains("graphdriver=\"vfs\""), "{info}");
    for name in ["size_bytes", "free_bytes", "inodes", "free_inodes"] {
        let value: u64 = after[&format!("berth_storage_filesystem_{name}")].parse().unwrap();
        assert!(value > 0, "{name}");
    }
    // No thin pool, and nobody has asked for a measurement.
    let absent = after.keys().find(|name| name.contains("_pool_") || name.contains("_allocated_"));
    assert_eq!(absent, None);
}
