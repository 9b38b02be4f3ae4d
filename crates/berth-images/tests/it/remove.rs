//! Untag and remove: every row of Docker's rules.

use berth_api::filters::Filters;
use berth_images::remove::ImageUser;
use berth_images::{ImageConfig, NewImage};
use berth_types::reference::Reference;
use berth_types::{ContainerId, Digest, ImageId};
use serde_json::json;

use crate::archives::{config, diff, docker, layer};
use crate::fixture::{Root, on_vfs};

/// Names, what is asked for, forced, whether its container runs, the answer.
type Row<'a> = (&'a [&'a str], &'a str, bool, Option<bool>, Result<Vec<String>, String>);

const CONTAINER: &str = "c0ffee0000000000000000000000000000000000000000000000000000000000";

fn user(image: &ImageId, is_running: bool) -> ImageUser {
    let container = ContainerId::parse(CONTAINER).unwrap();
    ImageUser { container, image: image.clone(), is_running }
}

/// One image of one layer under these names; names by digest too.
fn image(root: &Root, label: &str, names: &[&str]) -> ImageId {
    let layers = vec![layer("f", label)];
    let config = config(&layers, &json!({"l": label}));
    root.load(&docker(&layers, &config, &[]).tar()).unwrap();
    let id = ImageId::from(Digest::of(&config));
    for name in names {
        let reference = Reference::parse(name).unwrap();
        root.db.write(|tx| root.images.point(tx, &reference, &id)).unwrap();
    }
    id
}

/// An image on top of `parent`, without a layer of its own.
fn child(root: &Root, parent: &ImageId, label: &str) -> ImageId {
    let layers = vec![layer("f", "base")];
    let config = ImageConfig::parse(config(&layers, &json!({"l": label}))).unwrap();
    let new = NewImage { config, parent: Some(parent.clone()), built_locally: true };
    root.db.write(|tx| root.images.record(tx, &new)).unwrap()
}

#[test]
fn root_removal_follows_dockers_rules() {
    on_vfs("root_removal_follows_dockers_rules", |root| {
        let digest = format!("app@{}", Digest::of(b"manifest"));
        let other_digest = format!("lib@{}", Digest::of(b"manifest"));
        let layers = vec![layer("f", "base")];
        let id = Digest::of(&config(&layers, &json!({"l": "base"})));
        let (full, short) = (id.as_str(), &id.hex()[..12]);
        let gone = [format!("deleted {full}"), format!("deleted {}", diff(&layers[0]))];
        let with = |lines: &[&str]| {
            let lines = lines.iter().map(|line| (*line).to_owned());
            Ok(lines.chain(gone.clone()).collect::<Vec<_>>())
        };
        let only = |lines: &[&str]| Ok(lines.iter().map(|line| (*line).to_owned()).collect());
        let conflict = |problem: &str| Err(format!("conflict: unable to delete {short} {problem}"));
        let in_use = |name: &str| {
            Err(format!(
                "conflict: unable to remove repository reference \"{name}\" (must force) - container c0ffee000000 is using its referenced image {short}"
            ))
        };
        let several = conflict("(must be forced) - image is referenced in multiple repositories");
        let running =
            conflict("(cannot be forced) - image is being used by running container c0ffee000000");
        let stopped =
            conflict("(must be forced) - image is being used by stopped container c0ffee000000");
        let digest_gone = format!("untagged {digest}");
        #[rustfmt::skip]
        let table: &[Row<'_>] = &[
            // names                      asked     force  runs         answer
            (&["app:1"],                  "app:1",  false, None,        with(&["untagged app:1"])),
            (&["app:latest"],             "app",    false, None,        with(&["untagged app:latest"])),
            (&["app:1", "app:2"],         "app:1",  false, None,        only(&["untagged app:1"])),
            (&["app:1", "app:2"],         "app:1",  false, Some(true),  only(&["untagged app:1"])),
            (&["app:1", "lib:1"],         "app:1",  false, Some(true),  only(&["untagged app:1"])),
            (&["app:1"],                  "app:1",  false, Some(true),  in_use("app:1")),
            (&["app:1"],                  "app:1",  false, Some(false), in_use("app:1")),
            (&["app:1", &digest],         "app:1",  false, Some(false), in_use("app:1")),
            (&["app:1"],                  "app:1",  true,  Some(true),  only(&["untagged app:1"])),
            (&["app:1"],                  "app:1",  true,  Some(false), with(&["untagged app:1"])),
            (&["app:1", &digest],         "app:1",  false, None,        with(&["untagged app:1", &digest_gone])),
            (&["app:1", &other_digest],   "app:1",  false, None,        only(&["untagged app:1"])),
            (&["app:1", &digest],         &digest,  false, None,        only(&[&digest_gone])),
            (&[],                         short,    false, None,        with(&[])),
            (&["app:1"],                  short,    false, None,        with(&["untagged app:1"])),
            (&["app:1", &digest],         full,     false, None,        with(&["untagged app:1", &digest_gone])),
            (&["app:1", "app:2"],         short,    false, None,        several.clone()),
            (&["app:1", "app:2"],         short,    true,  None,        with(&["untagged app:1", "untagged app:2"])),
            (&["app:1", "lib:1"],         short,    false, None,        several.clone()),
            (&["app:1", "lib:1"],         short,    true,  Some(false), with(&["untagged app:1", "untagged lib:1"])),
            (&["app:1", "lib:1"],         short,    false, Some(true),  running.clone()),
            (&["app:1"],                  short,    false, Some(true),  running.clone()),
            (&["app:1"],                  short,    true,  Some(true),  running.clone()),
            (&["app:1"],                  short,    false, Some(false), stopped.clone()),
            (&["app:1"],                  short,    true,  Some(false), with(&["untagged app:1"])),
            (&[],                         short,    false, Some(false), stopped.clone()),
            (&["app:1"],                  "nope",   true,  None,        Err("No such image: nope:latest".into())),
            (&["app:1"],                  " ",      true,  None,        Err("image name cannot be blank".into())),
            (&["app:1"],                  "a b",    true,  None,        Err("invalid reference format".into())),
        ];
        for (names, asked, force, runs, expected) in table {
            let image = image(root, "base", names);
            let before = root.names();
            let users: Vec<_> = runs.iter().map(|runs| user(&image, *runs)).collect();
            let got = root.remove_used(asked, *force, &users).map_err(|error| error.to_string());
            // Docker lists names in the order of their full text.
            let sorted = |result: &Result<Vec<String>, String>| {
                result.clone().map(|mut lines| {
                    lines.sort_by_key(|line| !line.starts_with("untagged"));
                    lines
                })
            };
            assert_eq!(sorted(&got), sorted(expected), "{names:?} {asked} {force} {runs:?}");
            if got.is_err() {
                assert_eq!(root.names(), before, "{names:?} {asked}");
            }
            if root.images.get(&image).unwrap().is_some() {
                root.remove(full, true).unwrap();
            }
            assert_eq!(root.layers.list().unwrap(), []);
        }
    });
}

#[test]
fn root_parents_go_along_unless_they_are_needed() {
    on_vfs("root_parents_go_along_unless_they_are_needed", |root| {
        let base = image(root, "base", &["base:1"]);
        let middle = child(root, &base, "middle");
        let top = child(root, &middle, "top");
        for (id, force) in [(&base, true), (&middle, true), (&middle, false)] {
            let error = root.remove(id.as_str(), force).unwrap_err().to_string();
            let short = id.short();
            let words = "(cannot be forced) - image has dependent child images";
            assert_eq!(error, format!("conflict: unable to delete {short} {words}"));
        }
        assert_eq!(root.remove("base:1", false).unwrap(), ["untagged base:1"]);
        let reference = Reference::parse("base:1").unwrap();
        root.db.write(|tx| root.images.point(tx, &reference, &base)).unwrap();
        // The named parent stays, with the layer that all three share.
        let gone = root.remove(top.as_str(), false).unwrap();
        assert_eq!(gone, [format!("deleted {top}"), format!("deleted {middle}")]);
        assert_eq!(root.names(), [(base.to_string(), vec!["base:1".to_owned()])]);
        assert_eq!(root.layers.list().unwrap().len(), 1);
    });
}

#[test]
fn root_prune_takes_what_nothing_needs() {
    on_vfs("root_prune_takes_what_nothing_needs", |root| {
        let digest = format!("app@{}", Digest::of(b"manifest"));
        let run = |filters: &str, used: &str| {
            let dangling = image(root, "dangling", &[]);
            let digested = image(root, "digested", &[digest.as_str()]);
            let named = image(root, "named", &["app:1", "lib:1"]);
            let ids = [&dangling, &digested, &named];
            let at = ["dangling", "digested", "named"].iter().position(|name| *name == used);
            let users: Vec<_> = at.iter().map(|at| user(ids[*at], false)).collect();
            let filters = Filters::parse(filters).unwrap();
            let pruned = root.db.write(|tx| root.images.prune(tx, &filters, &users));
            let result = pruned.map(|removal| {
                root.finish(&removal);
                let left = |id: &&ImageId| root.images.get(id).unwrap().is_some();
                ids.iter().map(left).collect::<Vec<_>>()
            });
            for id in ids {
                if root.images.get(id).unwrap().is_some() {
                    root.remove(id.as_str(), true).unwrap();
                }
            }
            result.map_err(|error| error.to_string())
        };
        #[rustfmt::skip]
        let table = [
            // filters                                    used        left: dangling, digested, named
            ("",                                          "",         Ok(vec![false, false, true])),
            (r#"{"dangling":{"true":true}}"#,             "dangling", Ok(vec![true, false, true])),
            (r#"{"dangling":["false"]}"#,                 "",         Ok(vec![false, false, false])),
            (r#"{"dangling":["false"]}"#,                 "digested", Ok(vec![false, true, false])),
            (r#"{"dangling":["0"],"label":["l=named"]}"#, "",         Ok(vec![true, true, false])),
            (r#"{"dangling":["0"],"label!":["l=named"]}"#, "",        Ok(vec![false, false, true])),
            (r#"{"dangling":["0"],"until":["2024-01-01T00:00:00Z"]}"#, "", Ok(vec![true, true, true])),
            (r#"{"dangling":["0"],"until":["2024-01-03T00:00:00Z"]}"#, "", Ok(vec![false, false, false])),
            (r#"{"x":["0"]}"#,                            "",         Err("invalid filter 'x'")),
            (r#"{"dangling":["x"]}"#,                     "",         Err("invalid filter 'dangling=[x]'")),
            (r#"{"until":["1h","2h"]}"#,                  "",         Err("more than one until filter specified")),
        ];
        for (filters, used, expected) in table {
            assert_eq!(run(filters, used), expected.map_err(str::to_owned), "{filters} {used}");
        }
    });
}
