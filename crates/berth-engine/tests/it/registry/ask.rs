//! Looking at a registry without pulling.

use berth_api::filters::Filters;
use berth_engine::registry::Credentials;
use berth_types::kind::chain;
use berth_types::{Classify as _, Digest, ErrorKind};
use serde_json::{Value, json};

use super::mock::{DOCKER, DOCKER_LIST, Image, OCI, Registry, architecture, error};
use crate::kit::Dirs;
use testkit::http::Reply;

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

#[test]
fn root_repositories_are_found_by_their_registry() {
    let Some(dirs) = Dirs::new("root_repositories_are_found_by_their_registry") else { return };
    let open = dirs.open().unwrap();
    let registry = Registry::new();
    registry.set_fault(|request| {
        let found = json!({ "results": [
            { "name": "a", "description": "one", "star_count": 5, "is_official": true },
            { "name": "b", "description": null, "star_count": 0, "is_automated": true },
        ] });
        if request.path != "/v1/search" || !request.query.starts_with("q=words+here&n=") {
            return Some(Reply::new(404, ""));
        }
        Some(Reply::new(200, found.to_string()))
    });
    let search = |term: &str, limit: i64, filters: Value| {
        let filters = Filters::parse(&filters.to_string()).unwrap();
        let term = registry.name(term);
        let nobody = Credentials::default();
        let found = open.block_on(open.engine().search_images(&term, limit, filters, &nobody));
        found.map(|found| found.into_iter().map(|one| one.name).collect::<Vec<_>>().join(" "))
    };
    let host = registry.name("");
    let host = host.trim_end_matches('/');
    let none = json!({});
    #[rustfmt::skip]
    let table = [
        ("words here", 0,   none.clone(),                      Ok("a b")),
        ("words here", 100, json!({"stars": ["3"]}),           Ok("a")),
        ("words here", 1,   json!({"is-automated": ["true"]}), Ok("b")),
        ("words here", 1,   json!({"is-official": ["false"]}), Ok("b")),
        ("words here", 101, none.clone(),                      Err("Limit 101 is outside the range of [1, 100]".to_owned())),
        ("words here", -1,  none.clone(),                      Err("Limit -1 is outside the range of [1, 100]".to_owned())),
        ("words here", 0,   json!({"stars": ["x"]}),           Err("invalid filter 'stars=x'".to_owned())),
        ("words here", 0,   json!({"name": ["x"]}),            Err("invalid filter 'name'".to_owned())),
        ("other",      0,   none,                              Err(format!("Unexpected status code 404: {host} does not answer searches"))),
    ];
    for (term, limit, filters, expected) in table {
        let found = search(term, limit, filters.clone()).map_err(|error| chain(&error));
        assert_eq!(found, expected.map(str::to_owned), "{term} {limit} {filters}");
    }
    let (all, nobody) = (Filters::parse("").unwrap(), Credentials::default());
    let ask = open.engine().search_images("http://reg.example/x", 0, all, &nobody);
    let error = open.block_on(ask).unwrap_err();
    let text = "invalid repository name (ex: \"registry.domain.tld/myrepos\")";
    assert_eq!((chain(&error).as_str(), error.kind()), (text, ErrorKind::InvalidParameter));
}
