//! Archives of every kind come in.

use std::io::Read as _;

use berth_types::reference::Reference;
use serde_json::json;

use crate::archives::{Entry, Files, config, diff, docker, gzip, layer, legacy, oci, zstd};
use crate::fixture::{Root, on_each_driver, on_vfs};

fn layers() -> Vec<Vec<u8>> {
    vec![layer("a", "first"), layer("b", "second"), layer("a", "first again")]
}

fn check(root: &Root, archive: &[u8], lines: &[&str], case: &str) {
    let before = root.tree();
    let loaded = root.load(archive).unwrap_or_else(|error| panic!("{case}: {error:?}"));
    let got = loaded.lines();
    assert_eq!(got, lines, "{case}");
    let image = root.images.get(&loaded.images[0].id).unwrap().unwrap();
    for (chain, tar) in image.config.chains().iter().zip(layers()) {
        let mut got = Vec::new();
        root.layers.tar_stream(chain).unwrap().read_to_end(&mut got).unwrap();
        assert!(got == tar, "{case}: {chain}");
    }
    root.remove(image.id.as_str(), true).unwrap();
    assert_eq!(root.tree(), before, "{case}");
    assert_eq!(root.names(), [], "{case}");
}

#[test]
fn root_every_format_and_compression_is_loaded() {
    on_each_driver("root_every_format_and_compression_is_loaded", |root| {
        let layers = layers();
        let config = config(&layers, &json!({"k": "v"}));
        let plain = docker(&layers, &config, &["app:1"]);
        let zipped: Vec<_> = layers.iter().map(|tar| gzip(tar)).collect();
        let zstd_layers: Vec<_> = layers.iter().map(|tar| zstd(tar)).collect();
        let named = json!({"io.containerd.image.name": "docker.io/library/app:1"});
        let tagged = json!({"org.opencontainers.image.ref.name": "app:1"});
        let bare = json!({"org.opencontainers.image.ref.name": "1"});
        let mut backwards = plain.clone();
        backwards.0.reverse();
        let app = ["Loaded image: app:1\n"];
        let id = format!("Loaded image ID: {}\n", berth_types::Digest::of(&config));
        let id = [id.as_str()];
        #[rustfmt::skip]
        let table: &[(&str, Vec<u8>, &[&str])] = &[
            ("docker",                plain.tar(),                                &app),
            ("docker, gzip around",   gzip(&plain.tar()),                         &app),
            ("docker, zstd around",   zstd(&plain.tar()),                         &app),
            ("docker, other order",   backwards.tar(),                            &app),
            ("docker, no tags",       docker(&layers, &config, &[]).tar(),        &id),
            ("oci",                   oci(&layers, &config, &named).tar(),        &app),
            ("oci, gzip layers",      oci(&zipped, &config, &named).tar(),        &app),
            ("oci, zstd layers",      oci(&zstd_layers, &config, &tagged).tar(),  &app),
            ("oci, only a tag",       oci(&layers, &config, &bare).tar(),         &id),
            ("legacy",                legacy(&layers, "app", "1").tar(),          &app),
        ];
        for (case, archive, lines) in table {
            check(root, archive, lines, case);
        }
    });
}

#[test]
fn root_links_in_archives_are_followed_inside() {
    on_vfs("root_links_in_archives_are_followed_inside", |root| {
        let layers = layers();
        let config = config(&layers, &json!(null));
        let first = format!("{}/layer.tar", diff(&layers[0]).hex());
        let second = format!("{}/layer.tar", diff(&layers[1]).hex());
        let moved = |entry: &dyn Fn() -> Entry| {
            let mut files = docker(&layers, &config, &["app:1"]);
            files.0.insert(0, ("store/x".to_owned(), Entry::File(layers[1].clone())));
            files.edit(&second, |old| *old = entry());
            files.tar()
        };
        let lines = ["Loaded image: app:1\n"];
        let link = Entry::Symlink("../store/x".to_owned());
        check(root, &moved(&|| link.clone()), &lines, "symlink");
        let absolute = Entry::Symlink("/store/x".to_owned());
        check(root, &moved(&|| absolute.clone()), &lines, "absolute symlink");
        let hard = Entry::HardLink("store/x".to_owned());
        check(root, &moved(&|| hard.clone()), &lines, "hard link");

        let mut files = docker(&layers, &config, &["app:1"]);
        files.0.push(("pipe".to_owned(), Entry::Fifo));
        files.0.push(("./".to_owned(), Entry::Directory));
        let top = diff(&layers[0]).hex().to_owned();
        files.0.push((format!("alias-{}", &top[..8]), Entry::Symlink(top.clone())));
        files.edit("manifest.json", |entry| {
            let Entry::File(json) = entry else { panic!("a file") };
            let text = String::from_utf8(std::mem::take(json)).unwrap();
            let alias = format!("./alias-{}/../alias-{}/layer.tar", &top[..8], &top[..8]);
            *json = text.replace(&first, &alias).into_bytes();
        });
        check(root, &files.tar(), &lines, "directory link");
    });
}

#[test]
fn root_layers_that_are_there_are_not_read_again() {
    on_vfs("root_layers_that_are_there_are_not_read_again", |root| {
        let layers = layers();
        let config = config(&layers, &json!(null));
        let archive = docker(&layers, &config, &["app:1"]);
        root.load(&archive.tar()).unwrap();
        let mut without = Files::default();
        for (name, entry) in archive.0 {
            if !name.ends_with("layer.tar") {
                without.0.push((name, entry));
            }
        }
        let mut reports = Vec::new();
        let tar = without.tar();
        let loaded = root.images.load(&tar[..], &root.tmp(), &mut |at| reports.push(at)).unwrap();
        assert_eq!(loaded.lines(), ["Loaded image: app:1\n"]);
        assert_eq!(reports, []);
    });
}

#[test]
fn root_a_name_moves_and_the_client_is_told() {
    on_vfs("root_a_name_moves_and_the_client_is_told", |root| {
        let layers = layers();
        let old = config(&layers, &json!({"v": "old"}));
        let new = config(&layers, &json!({"v": "new"}));
        let first = root.load(&docker(&layers, &old, &["app:1", "other:2"]).tar()).unwrap();
        let second = root.load(&docker(&layers, &new, &["app:1"]).tar()).unwrap();
        let (old, new) = (&first.images[0].id, &second.images[0].id);
        assert_eq!(
            second.lines(),
            [
                format!(
                    "The image app:1 already exists, renaming the old one with ID {old} to empty \
                     string\n"
                ),
                "Loaded image: app:1\n".to_owned(),
            ]
        );
        assert_eq!(root.images.resolve("app:1").unwrap().id, *new);
        assert_eq!(root.images.resolve("other:2").unwrap().id, *old);
        let kept = root.images.references(old).unwrap();
        assert_eq!(kept, [Reference::parse("other:2").unwrap()]);
        assert_eq!(root.layers.list().unwrap().len(), 3);
    });
}

#[test]
fn root_progress_reaches_the_end_of_each_layer() {
    on_each_driver("root_progress_reaches_the_end_of_each_layer", |root| {
        let layers = vec![layer("a", &"x".repeat(3 << 20)), layer("b", "small")];
        let config = config(&layers, &json!(null));
        let mut last = std::collections::BTreeMap::new();
        let archive = docker(&layers, &config, &["app:1"]).tar();
        root.images
            .load(&archive[..], &root.tmp(), &mut |at| {
                assert!(at.current <= at.total);
                last.insert(at.diff.clone(), (at.current, at.total));
            })
            .unwrap();
        for tar in &layers {
            let size = tar.len() as u64;
            assert_eq!(last[&diff(tar)], (size, size));
        }
    });
}
