//! Lookups, lists, inspect, history, import.

use berth_api::filters::Filters;
use berth_images::import::ImportOptions;
use berth_images::list::ListOptions;
use berth_images::{ImageConfig, NewImage};
use berth_types::reference::Reference;
use berth_types::{Digest, ImageId};
use serde_json::json;

use crate::archives::{config, diff, docker, gzip, layer};
use crate::fixture::{Root, on_each_driver, on_vfs};

fn load(root: &Root, labels: &serde_json::Value, tags: &[&str]) -> ImageId {
    let layers = vec![layer("a", "first"), layer("b", "second")];
    let config = config(&layers, labels);
    root.load(&docker(&layers, &config, tags).tar()).unwrap().images[0].id.clone()
}

#[test]
fn root_names_win_over_ids_and_short_ids_must_be_unique() {
    on_vfs("root_names_win_over_ids_and_short_ids_must_be_unique", |root| {
        let one = load(root, &json!({"n": "1"}), &["app:1", "x.io/y:2"]);
        let two = load(root, &json!({"n": "2"}), &["app:latest"]);
        let confusing = &one.hex()[..6];
        let name = Reference::parse(confusing).unwrap();
        root.db.write(|tx| root.images.tag(tx, &name, &two)).unwrap();
        let unknown = "f".repeat(64);
        #[rustfmt::skip]
        let table: &[(&str, Result<&ImageId, String>)] = &[
            ("app:1",                          Ok(&one)),
            ("docker.io/library/app:1",        Ok(&one)),
            ("x.io/y:2",                       Ok(&one)),
            ("app",                            Ok(&two)),
            (one.as_str(),                     Ok(&one)),
            (one.hex(),                        Ok(&one)),
            (&one.hex()[..12],                 Ok(&one)),
            (&one.as_str()[..19],              Ok(&one)),
            (confusing,                        Ok(&two)),
            ("app:3",                          Err("No such image: app:3".into())),
            ("y:2",                            Err("No such image: y:2".into())),
            ("nope",                           Err("No such image: nope:latest".into())),
            (&unknown,                         Err(format!("No such image: sha256:{unknown}"))),
            ("a b",                            Err("invalid reference format".into())),
        ];
        for (name, expected) in table {
            let got = root.images.resolve(name).map(|image| image.id);
            assert_eq!(got.map_err(|e| e.to_string()), expected.clone().cloned(), "{name}");
        }
    });
}

#[test]
fn root_ambiguous_ids_are_unknown() {
    on_vfs("root_ambiguous_ids_are_unknown", |root| {
        let mut first: Vec<String> = Vec::new();
        // Seventeen ids share at least one first digit.
        for number in 0..17 {
            let id = load(root, &json!({"n": number.to_string()}), &[]);
            first.push(id.hex()[..1].to_owned());
        }
        first.sort();
        let double = first.windows(2).find(|pair| pair[0] == pair[1]).unwrap();
        let error = root.images.resolve(&double[0]).unwrap_err();
        assert_eq!(error.to_string(), format!("No such image: {}:latest", double[0]));
    });
}

#[test]
fn root_tags_are_checked() {
    on_vfs("root_tags_are_checked", |root| {
        let id = load(root, &json!(null), &[]);
        let digest = format!("app@{id}");
        #[rustfmt::skip]
        let table = [
            ("sha256:x", Err("refusing to create an ambiguous tag using digest algorithm as name")),
            (&digest,    Err("refusing to create a tag with a digest reference")),
            ("app",      Ok(())),
        ];
        for (name, expected) in table {
            let reference = Reference::parse(name).unwrap();
            let got = root.db.write(|tx| root.images.tag(tx, &reference, &id)).map(|_| ());
            assert_eq!(got.map_err(|e| e.to_string()), expected.map_err(str::to_owned), "{name}");
        }
        assert!(root.images.get(&id).unwrap().unwrap().last_tagged.is_some());
        assert_eq!(root.images.display_name("app", &id).unwrap(), "app");
        let other = load(root, &json!({"n": "2"}), &["app:latest"]);
        assert_eq!(root.images.display_name("app", &id).unwrap(), id.to_string());
        assert_eq!(root.images.display_name("app", &other).unwrap(), "app");
    });
}

#[test]
fn root_lists_are_filtered() {
    on_vfs("root_lists_are_filtered", |root| {
        let app = load(root, &json!({"k": "v"}), &["app:1", "x.io/app:2"]);
        let nameless = load(root, &json!({"k": "w"}), &[]);
        let parsed = ImageConfig::parse(config(&[layer("a", "first")], &json!(null))).unwrap();
        root.load(&docker(&[layer("a", "first")], parsed.raw(), &[]).tar()).unwrap();
        let base = parsed.id();
        let layers = vec![layer("a", "first"), layer("b", "second")];
        let child = ImageConfig::parse(config(&layers, &json!({"k": "child"}))).unwrap();
        let new = NewImage { config: child, parent: Some(base.clone()), built_locally: true };
        let child = root.db.write(|tx| root.images.record(tx, &new)).unwrap();
        let digest = Reference::parse(&format!("d@{}", Digest::of(b"m"))).unwrap();
        root.db.write(|tx| root.images.point(tx, &digest, &nameless)).unwrap();

        let list = |all: bool, filters: &str| {
            let filters = Filters::parse(filters).unwrap();
            let options = ListOptions { all, filters, shared_size: true };
            root.images.list(&options, &|_| 7)
        };
        #[rustfmt::skip]
        let table: &[(bool, &str, &[&ImageId])] = &[
            (false, "",                                 &[&app, &nameless, &child]),
            (true,  "",                                 &[&app, &nameless, &child, &base]),
            (false, r#"{"dangling":["true"]}"#,         &[&nameless, &child]),
            (false, r#"{"dangling":["false"]}"#,        &[&app, &nameless]),
            (false, r#"{"label":["k"]}"#,               &[&app, &nameless, &child]),
            (false, r#"{"label":["k=v"]}"#,             &[&app]),
            (false, r#"{"reference":["app"]}"#,         &[&app]),
            (false, r#"{"reference":["*/app:*"]}"#,     &[&app]),
            (false, r#"{"reference":["a*:2"]}"#,        &[]),
            (false, r#"{"before":["app:1"]}"#,          &[]),
            (false, r#"{"since":["app:1"]}"#,           &[]),
            (false, r#"{"until":["2024-01-02T00:00:00Z"]}"#, &[]),
            (false, r#"{"until":["1h"]}"#,              &[&app, &nameless, &child]),
        ];
        for (all, filters, expected) in table {
            let mut got: Vec<_> =
                list(*all, filters).unwrap().into_iter().map(|image| image.id).collect();
            let mut expected: Vec<_> = expected.iter().map(ToString::to_string).collect();
            got.sort();
            expected.sort();
            assert_eq!(got, expected, "{all} {filters}");
        }
        let error = list(false, r#"{"x":["y"]}"#).unwrap_err();
        assert_eq!(error.to_string(), "invalid filter 'x'");
        let error = list(false, r#"{"since":["nope"]}"#).unwrap_err();
        assert_eq!(error.to_string(), "No such image: nope:latest");

        let images = list(false, r#"{"reference":["app"]}"#).unwrap();
        let shown = &images[0];
        assert_eq!(shown.repo_tags, ["app:1"]);
        assert_eq!((shown.containers, shown.created), (7, 1_704_164_645));
        assert_eq!(shown.shared_size, shown.size);
        let sizes: u64 = root.layers.list().unwrap().iter().map(|layer| layer.size).sum();
        assert_eq!(u64::try_from(root.images.layers_size().unwrap()).unwrap(), sizes);
    });
}

#[test]
fn root_history_follows_the_parents() {
    on_vfs("root_history_follows_the_parents", |root| {
        let layers = vec![layer("a", "first"), layer("b", "second")];
        let parent = ImageConfig::parse(config(&layers[..1], &json!(null))).unwrap();
        root.load(&docker(&layers[..1], parent.raw(), &["base:1"]).tar()).unwrap();
        let id = load(root, &json!(null), &["app:1", "app:2"]);
        let history = |id: &ImageId| {
            let image = root.images.get(id).unwrap().unwrap();
            let items = root.images.history(&image).unwrap();
            items
                .into_iter()
                .map(|item| (item.id, item.created_by, item.tags.into_vec()))
                .collect::<Vec<_>>()
        };
        let tags = vec!["app:1".to_owned(), "app:2".to_owned()];
        let step = |at: u8| format!("step {at}");
        assert_eq!(
            history(&id),
            [(id.to_string(), step(1), tags.clone()), ("<missing>".to_owned(), step(0), vec![]),]
        );
        let own = ImageConfig::parse(config(&layers, &json!(null))).unwrap();
        let new = NewImage { config: own, parent: Some(parent.id()), built_locally: true };
        root.db.write(|tx| root.images.record(tx, &new)).unwrap();
        assert_eq!(
            history(&id),
            [
                (id.to_string(), step(1), tags),
                (parent.id().to_string(), step(0), vec!["base:1".to_owned()]),
            ]
        );
    });
}

#[test]
fn root_inspect_shows_the_configuration() {
    on_each_driver("root_inspect_shows_the_configuration", |root| {
        let id = load(root, &json!({"k": "v"}), &["app:1"]);
        let image = root.images.get(&id).unwrap().unwrap();
        let shown = serde_json::to_value(root.images.inspect(&image).unwrap()).unwrap();
        assert_eq!(shown["Id"], id.as_str());
        assert_eq!(shown["RepoTags"], json!(["app:1"]));
        assert_eq!(shown["RepoDigests"], json!([]));
        assert_eq!(shown["Created"], "2024-01-02T03:04:05.5Z");
        assert_eq!(shown["Config"]["Cmd"], json!(["/bin/sh"]));
        assert_eq!(shown["Config"]["Labels"], json!({"k": "v"}));
        assert_eq!(shown["RootFS"]["Type"], "layers");
        let diffs = [diff(&layer("a", "first")), diff(&layer("b", "second"))];
        assert_eq!(shown["RootFS"]["Layers"], json!(diffs));
        assert_eq!(shown["GraphDriver"]["Name"], root.layers.driver().name());
        assert_eq!(shown["Os"], "linux");
        assert_eq!(shown["Architecture"], "amd64");
    });
}

#[test]
fn root_an_import_makes_an_image_of_one_layer() {
    on_each_driver("root_an_import_makes_an_image_of_one_layer", |root| {
        let tar = layer("f", "content");
        let reference = Reference::parse("new:1").unwrap();
        let options = ImportOptions {
            reference: Some(reference),
            message: "Imported from -".to_owned(),
            changes: vec!["CMD [\"/f\"]".to_owned(), "ENV A=b".to_owned()],
            platform: None,
        };
        for body in [tar.clone(), gzip(&tar)] {
            let id = root.images.import(&body[..], &options).unwrap();
            let image = root.images.resolve("new:1").unwrap();
            assert_eq!(image.id, id);
            assert_eq!(image.config.diff_ids(), [diff(&tar)]);
            assert_eq!(image.config.comment(), "Imported from -");
            let preset = image.config.config().unwrap();
            assert_eq!(preset.cmd.to_vec(), ["/f"]);
            assert_eq!(preset.env.to_vec(), ["A=b"]);
        }
        assert_eq!(root.layers.list().unwrap().len(), 1);
        root.layers.reap().unwrap();
        let before = (root.tree(), root.names());
        let bad = ImportOptions { changes: vec!["RUN x".to_owned()], ..ImportOptions::default() };
        let error = root.images.import(&tar[..], &bad).unwrap_err();
        assert_eq!(error.to_string(), "RUN is not a valid change command");
        root.images.import(&tar[..514], &ImportOptions::default()).unwrap_err();
        root.layers.reap().unwrap();
        assert_eq!((root.tree(), root.names()), before);
    });
}
