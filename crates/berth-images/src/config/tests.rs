//! Configurations: what is read, refused and written.

use berth_types::kind::chain;
use serde_json::{Value, json};

use super::*;

fn parse(value: &Value) -> Result<ImageConfig, String> {
    ImageConfig::parse(value.to_string().into_bytes()).map_err(|error| chain(&error))
}

#[test]
fn configurations_are_checked() {
    let diff = DiffId::empty();
    let rootfs = json!({"type": "layers", "diff_ids": [diff]});
    #[rustfmt::skip]
    let table = [
        (json!({"rootfs": rootfs}),                                   Ok(())),
        (json!({"rootfs": {"type": "layers", "diff_ids": null}}),     Ok(())),
        (json!({"rootfs": rootfs, "history": null, "created": null}), Ok(())),
        (json!({"rootfs": rootfs, "history": [{"empty_layer": true}, {}]}), Ok(())),
        (json!({}),                                                   Err("invalid image JSON, no RootFS key")),
        (json!({"rootfs": rootfs, "history": [{}, {}]}),              Err("too many non-empty layers in History section")),
        (json!({"rootfs": rootfs, "created": "today"}),               Err("invalid image JSON: \"today\" is not a time in RFC 3339 form")),
    ];
    for (value, expected) in table {
        assert_eq!(parse(&value).map(|_| ()), expected.map_err(str::to_owned), "{value}");
    }
    let bad = json!({"rootfs": {"type": "layers", "diff_ids": ["sha256:x"]}});
    assert!(parse(&bad).unwrap_err().starts_with("invalid image JSON: "));
}

#[test]
fn the_bytes_are_kept_and_make_the_id() {
    let raw = br#"{ "os":"", "rootfs":{"type":"layers"}, "unknown": [1]}"#.to_vec();
    let config = ImageConfig::parse(raw.clone()).unwrap();
    assert_eq!((config.raw(), config.id()), (&raw[..], Digest::of(&raw).into()));
    assert_eq!((config.os(), config.top_chain(), config.created()), ("linux", None, None));
}

#[test]
fn a_committed_image_stands_on_its_parent() {
    let base = DiffId::from(Digest::of(b"base"));
    let parent = json!({
        "architecture": "arm64", "variant": "v8", "os": "linux", "os.version": "1",
        "rootfs": {"type": "layers", "diff_ids": [base]},
        "history": [{"created": "2024-01-01T00:00:00+02:00", "created_by": "base"}],
    });
    let parent = parse(&parent).unwrap();
    let preset = ContainerConfig { cmd: ["x", "y"].as_slice().into(), ..Default::default() };
    let container = ContainerId::random();
    let top = DiffId::from(Digest::of(b"top"));
    let new = |diff| {
        let new = NewConfig {
            parent: Some(&parent),
            diff,
            created: Timestamp::from_unix(1_700_000_000, 0).unwrap(),
            author: "me",
            comment: "",
            container: Some(&container),
            container_config: &preset,
            config: &preset,
        };
        new.build().unwrap()
    };
    let built = new(&top);
    let shown: Value = serde_json::from_slice(built.raw()).unwrap();
    let keys: Vec<_> = shown.as_object().unwrap().keys().cloned().collect();
    #[rustfmt::skip]
    assert_eq!(keys, [
        "architecture", "author", "config", "container", "container_config", "created", "history",
        "os", "os.version", "rootfs", "variant",
    ]);
    assert_eq!(shown["rootfs"], json!({"type": "layers", "diff_ids": [base, top]}));
    assert_eq!(
        shown["history"],
        json!([
            {"created": "2024-01-01T00:00:00+02:00", "created_by": "base"},
            {"created": "2023-11-14T22:13:20Z", "created_by": "x y", "author": "me"},
        ])
    );
    let text = String::from_utf8(built.raw().to_vec()).unwrap();
    assert!(text.starts_with(r#"{"architecture":"arm64","author":"me","config":{"Hostname":"#));

    let empty = new(&DiffId::empty());
    assert_eq!(empty.diff_ids(), [base]);
    assert!(empty.history()[1].empty_layer);
}

#[test]
fn platforms() {
    #[rustfmt::skip]
    let table = [
        ("linux/arm64/v8",  Some(("linux", "arm64", ""))),
        ("linux/arm/v7",    Some(("linux", "arm", "v7"))),
        ("linux/x86_64",    Some(("linux", "amd64", ""))),
        ("arm64",           Some(("linux", "arm64", ""))),
        ("windows/amd64",   Some(("windows", "amd64", ""))),
        ("",                None),
        ("pdp11",           None),
        ("a/b/c/d",         None),
        ("linux/",          None),
    ];
    for (text, expected) in table {
        let got = Platform::parse(text).ok();
        let got =
            got.as_ref().map(|p| (p.os.as_str(), p.architecture.as_str(), p.variant.as_str()));
        assert_eq!(got, expected, "{text}");
    }
}
