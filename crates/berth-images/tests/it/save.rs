//! Archives go out as they came in.

use std::collections::BTreeMap;

use berth_images::ImageError;
use berth_types::Digest;
use berth_types::kind::chain;
use serde_json::{Value, json};

use crate::archives::{config, diff, docker, layer, unpack};
use crate::fixture::{Root, on_each_driver, on_vfs};

fn save(root: &Root, names: &[&str]) -> Result<Vec<u8>, ImageError> {
    let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
    let mut archive = Vec::new();
    root.images.save(&names)?.write_to(&mut archive)?;
    Ok(archive)
}

fn parse(files: &BTreeMap<String, Vec<u8>>, name: &str) -> Value {
    serde_json::from_slice(&files[name]).unwrap()
}

#[test]
fn root_a_saved_archive_has_dockers_layout_and_every_byte() {
    on_each_driver("root_a_saved_archive_has_dockers_layout_and_every_byte", |root| {
        let layers = vec![layer("a", "first"), layer("b", "second"), layer("a", "first")];
        let config = config(&layers, &json!({"k": "<v>"}));
        root.load(&docker(&layers, &config, &["app:1", "app:2", "x.io/y/z:3"]).tar()).unwrap();
        let archive = save(root, &["app"]).unwrap();
        let files = unpack(&archive);
        let id = Digest::of(&config);
        let path = |digest: &Digest| format!("blobs/sha256/{}", digest.hex());
        for tar in &layers {
            assert!(files[&path(diff(tar).digest())] == *tar);
        }
        assert!(files[&path(&id)] == config);

        let manifest = parse(&files, "manifest.json");
        let top = path(diff(&layers[1]).digest());
        let base = path(diff(&layers[0]).digest());
        assert_eq!(manifest[0]["Config"], path(&id));
        assert_eq!(manifest[0]["RepoTags"], json!(["app:1", "app:2"]));
        assert_eq!(manifest[0]["Layers"], json!([base, top, base]));
        assert_eq!(
            parse(&files, "repositories"),
            json!({"app": {"1": diff(&layers[0]).hex(), "2": diff(&layers[0]).hex()}})
        );
        assert_eq!(files["oci-layout"], b"{\"imageLayoutVersion\": \"1.0.0\"}");
        let index = parse(&files, "index.json");
        let listed = index["manifests"].as_array().unwrap();
        assert_eq!(listed.len(), 2);
        for (descriptor, tag) in listed.iter().zip(["1", "2"]) {
            let name = format!("docker.io/library/app:{tag}");
            assert_eq!(descriptor["annotations"]["io.containerd.image.name"], name);
            assert_eq!(descriptor["annotations"]["org.opencontainers.image.ref.name"], tag);
            let digest = Digest::parse(descriptor["digest"].as_str().unwrap()).unwrap();
            let oci = parse(&files, &path(&digest));
            assert_eq!(Digest::of(&files[&path(&digest)]), digest);
            assert_eq!(descriptor["size"], files[&path(&digest)].len());
            assert_eq!(oci["config"]["digest"], id.as_str());
            assert_eq!(oci["layers"][1]["digest"], diff(&layers[1]).as_str());
            assert_eq!(oci["layers"][1]["size"], layers[1].len());
        }
        for entry in tar::Archive::new(&archive[..]).entries().unwrap() {
            let entry = entry.unwrap();
            let name = entry.path().unwrap().to_str().unwrap().to_owned();
            let is_own = name == path(&id) || name == top || name.ends_with('/');
            let expected = if is_own { 1_704_164_645 } else { 0 };
            if !name.starts_with("blobs/sha256/") || is_own {
                assert_eq!(entry.header().mtime().unwrap(), expected, "{name}");
            }
        }
    });
}

#[test]
fn root_what_was_saved_can_be_loaded_again() {
    on_each_driver("root_what_was_saved_can_be_loaded_again", |root| {
        let layers = vec![layer("a", "first"), layer("b", "second")];
        let one = config(&layers[..1], &json!({"n": "one"}));
        let two = config(&layers, &json!({"n": "two"}));
        root.load(&docker(&layers[..1], &one, &["one:1"]).tar()).unwrap();
        root.load(&docker(&layers, &two, &["two:1", "two:2"]).tar()).unwrap();
        let names = root.names();
        let archive = save(root, &["one:1", "two"]).unwrap();
        for name in ["one:1", "two:1", "two:2"] {
            root.remove(name, false).unwrap();
        }
        assert_eq!((root.names(), root.layers.list().unwrap()), (vec![], vec![]));
        let loaded = root.load(&archive).unwrap();
        assert_eq!(
            loaded.lines(),
            ["Loaded image: one:1\n", "Loaded image: two:1\n", "Loaded image: two:2\n"]
        );
        assert_eq!(root.names(), names);
        // The layout alone does it too.
        let mut oci = crate::archives::Files::default();
        for (name, content) in unpack(&archive) {
            if !name.ends_with('/') && name != "manifest.json" && name != "repositories" {
                oci.add(name, content);
            }
        }
        root.remove("one:1", false).unwrap();
        root.load(&oci.tar()).unwrap();
        assert_eq!(root.names(), names);
        assert_eq!(save(root, &["one:1", "two"]).unwrap(), archive);
    });
}

#[test]
fn root_names_are_chosen_as_docker_does() {
    on_vfs("root_names_are_chosen_as_docker_does", |root| {
        let layers = vec![layer("a", "first")];
        let one = config(&layers, &json!(null));
        root.load(&docker(&layers, &one, &["app:1", "app:2"]).tar()).unwrap();
        let empty = br#"{"rootfs":{"type":"layers","diff_ids":[]},"os":"linux"}"#;
        root.load(&docker(&[], empty, &["empty:1"]).tar()).unwrap();
        let id = Digest::of(&one);
        let short = &id.hex()[..12];
        #[rustfmt::skip]
        let table: &[(&[&str], Result<Value, &str>)] = &[
            (&["app"],                 Ok(json!([["app:1", "app:2"]]))),
            (&["app:2"],               Ok(json!([["app:2"]]))),
            (&["app:2", "app:1"],      Ok(json!([["app:2", "app:1"]]))),
            (&[short],                 Ok(json!([null]))),
            (&[id.as_str()],           Ok(json!([null]))),
            (&[id.hex()],              Ok(json!([null]))),
            (&[short, "app:1"],        Ok(json!([["app:1"]]))),
            (&["app:3"],               Err("reference does not exist")),
            (&["nope"],                Err("No such image: nope")),
            (&["UPPER"],               Err("invalid reference format: repository name (library/UPPER) must be lowercase")),
            (&["empty:1"],             Err("empty export - not implemented")),
        ];
        for (names, expected) in table {
            let got = save(root, names).map(|archive| {
                let manifest = parse(&unpack(&archive), "manifest.json");
                let items = manifest.as_array().unwrap();
                Value::from(items.iter().map(|item| item["RepoTags"].clone()).collect::<Vec<_>>())
            });
            let got = got.map_err(|error| chain(&error));
            assert_eq!(got, expected.clone().map_err(str::to_owned), "{names:?}");
        }
    });
}

#[test]
fn root_an_image_may_be_removed_while_it_is_saved() {
    on_each_driver("root_an_image_may_be_removed_while_it_is_saved", |root| {
        let layers = vec![layer("a", "first")];
        let one = config(&layers, &json!(null));
        let before = root.tree();
        root.load(&docker(&layers, &one, &["app:1"]).tar()).unwrap();
        let saving = root.images.save(&["app:1".to_owned()]).unwrap();
        root.remove("app:1", false).unwrap();
        assert_eq!(root.names(), []);
        let mut archive = Vec::new();
        saving.write_to(&mut archive).unwrap();
        drop(saving);
        root.layers.reap().unwrap();
        assert_eq!(root.tree(), before);
        assert_eq!(root.load(&archive).unwrap().lines(), ["Loaded image: app:1\n"]);
    });
}
