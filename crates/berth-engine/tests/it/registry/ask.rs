//! Looking at a registry without pulling.

use berth_engine::registry::Credentials;
use berth_types::kind::chain;
use berth_types::{Classify as _, Digest, ErrorKind};
use serde_json::{Value, json};

use super::mock::{DOCKER, DOCKER_LIST, Image, OCI, Registry, architecture, error};
use crate::kit::Dirs;

#[test]
fn root_what_a_registry_has_is_told_without_a_pull() {
    let Some(dirs) = Dirs::new("root_what_a_registry_has_is_told_without_a_pull") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    let (docker, oci) = (Image::new(DOCKER, &[b"one"]), Image::new(OCI, &[b"two"]));
    registry.put("docker", &docker);
    registry.put("oci", &oci);
    let platform = json!({ "architecture": architecture(), "os": "linux" });
    let other = json!({ "architecture": "arm", "os": "linux", "variant": "v7" });
    let entry = |image: &Image, platform: &Value| {
        json!({
            "mediaType": image.media_type, "size": image.manifest.len(),
            "digest": image.digest(), "platform": platform,
        })
    };
    let list = json!({
        "schemaVersion": 2, "mediaType": DOCKER_LIST,
        "manifests": [entry(&docker, &platform), entry(&docker, &other)],
    })
    .to_string();
    registry.put_manifest("both", "1", DOCKER_LIST, list.as_bytes());
    let table = [
        ("docker:1", DOCKER, &docker.manifest[..], vec![platform.clone()]),
        ("oci:1", OCI, &oci.manifest, vec![platform.clone()]),
        ("both:1", DOCKER_LIST, list.as_bytes(), vec![platform, other]),
    ];
    for (name, media_type, manifest, platforms) in table {
        let full = registry.name(name);
        let ask = open.engine().inspect_distribution(&full, Credentials::default());
        let found = open.block_on(ask).unwrap();
        let expected = json!({
            "Descriptor": {
                "mediaType": media_type, "digest": Digest::of(manifest), "size": manifest.len(),
            },
            "Platforms": platforms,
        });
        assert_eq!(serde_json::to_value(found).unwrap(), expected, "{name}");
    }
    assert_eq!(open.images(), Vec::<String>::new());
}

#[test]
fn root_refusals_are_the_registrys() {
    let Some(dirs) = Dirs::new("root_refusals_are_the_registrys") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    registry.put("a", &Image::new(DOCKER, &[b"one"]));
    let denied = || error(403, "DENIED", "requested access to the resource is denied");
    registry.set_fault(move |request| request.path.contains("/secret/").then(denied));
    #[rustfmt::skip]
    let table = [
        ("a:2",      "manifest unknown: manifest unknown",                  ErrorKind::NotFound),
        ("secret:1", "denied: requested access to the resource is denied",  ErrorKind::Forbidden),
    ];
    for (name, text, kind) in table {
        let full = registry.name(name);
        let ask = open.engine().inspect_distribution(&full, Credentials::default());
        let refused = open.block_on(ask).unwrap_err();
        assert_eq!((chain(&refused).as_str(), refused.kind()), (text, kind), "{name}");
    }
}
