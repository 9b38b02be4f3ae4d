//! Documents of dockerd 20.10.24 (API 1.41), read and printed again.
//!
//! What gets lost or added on the way must be a change that later API versions made, and stands in
//! the table.

use berth_api::container::{Change, ContainerInspect, ContainerSummary};
use berth_api::daemon::{DiskUsage, Info, Stats, Version};
use berth_api::go;
use berth_api::image::{HistoryItem, ImageInspect, ImageSummary};
use berth_api::json::List;
use berth_api::network::Network;
use berth_api::volume::VolumeListResponse;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// `-path` is lost, `+path` is added, `~path` has another value. Items of lists are not told apart.
fn differences(path: &str, before: &Value, after: &Value, found: &mut Vec<String>) {
    match (before, after) {
        (Value::Object(before), Value::Object(after)) => {
            for (key, value) in before {
                let path = format!("{path}.{key}");
                match after.get(key) {
                    Some(other) => differences(&path, value, other, found),
                    None => found.push(format!("-{path}")),
                }
            }
            let added = after.keys().filter(|key| !before.contains_key(*key));
            found.extend(added.map(|key| format!("+{path}.{key}")));
        }
        (Value::Array(before), Value::Array(after)) if before.len() == after.len() => {
            for (before, after) in before.iter().zip(after) {
                differences(path, before, after, found);
            }
        }
        _ if before == after => {}
        _ => found.push(format!("~{path} {before} {after}")),
    }
}

fn check<T: DeserializeOwned + Serialize>(name: &str, text: &str, expected: &[&str]) {
    let before = go::value_from_slice(text.as_bytes()).unwrap();
    let message: T = go::from_value(&before).unwrap_or_else(|error| panic!("{name}: {error}"));
    let after = serde_json::to_value(&message).unwrap();
    let mut found = Vec::new();
    differences("", &before, &after, &mut found);
    found.sort();
    found.dedup();
    assert_eq!(found, expected, "{name}");
}

#[test]
fn documents_of_a_real_dockerd_go_through_unchanged() {
    // Endpoints gained fields in API 1.44 and 1.48; kernel memory limits went in 1.42.
    let container = [
        "+.NetworkSettings.Networks.none.DNSNames",
        "+.NetworkSettings.Networks.none.GwPriority",
        "-.HostConfig.KernelMemory",
        "-.HostConfig.KernelMemoryTCP",
    ];
    // Digests are a list even when there are none, since API 1.43.
    let df = [
        "+.Containers.NetworkSettings.Networks.none.DNSNames",
        "+.Containers.NetworkSettings.Networks.none.GwPriority",
        "~.Images.RepoDigests null []",
    ];
    // `Expected` is left out when empty since API 1.49; then it is always empty.
    let info = ["+.CDISpecDirs", "-.InitCommit.Expected"];

    check::<ContainerInspect>("created", include_str!("container-created.json"), &container);
    check::<ContainerInspect>("exited", include_str!("container-exited.json"), &container);
    check::<Vec<ContainerSummary>>("list", include_str!("containers.json"), &container[..2]);
    check::<Vec<ImageSummary>>("images", include_str!("images.json"), &["~.RepoDigests null []"]);
    check::<ImageInspect>("image", include_str!("image.json"), &[]);
    check::<Vec<HistoryItem>>("history", include_str!("history.json"), &[]);
    check::<VolumeListResponse>("volumes", include_str!("volumes.json"), &[]);
    check::<Vec<Network>>("networks", include_str!("networks.json"), &["+.EnableIPv4"]);
    check::<DiskUsage>("df", include_str!("df.json"), &df);
    check::<Stats>("stats", include_str!("stats.json"), &[]);
    check::<Info>("info", include_str!("info.json"), &info);
    check::<Version>("version", include_str!("version.json"), &[]);
    check::<List<Change>>("changes", include_str!("changes.json"), &[]);
}
