//! Corrupt and hostile archives: the exact words, and nothing left behind.

use berth_types::kind::chain;
use berth_types::{Classify as _, Digest, ErrorKind};
use serde_json::json;

use crate::archives::{Entry, Files, block, config, diff, docker, gzip, layer, legacy, oci};
use crate::fixture::{Root, on_each_driver};

fn refused(root: &Root, case: &str, archive: &[u8], expected: &str) {
    let before = (root.tree(), root.names());
    let error = root.load(archive).expect_err(case);
    assert_eq!(chain(&error), expected, "{case}");
    assert_eq!(error.kind(), ErrorKind::InvalidParameter, "{case}");
    root.layers.reap().unwrap();
    assert_eq!((root.tree(), root.names()), before, "{case}");
}

fn text(entry: &mut Entry, change: impl FnOnce(&str) -> String) {
    let Entry::File(content) = entry else { panic!("not a file") };
    let new = change(std::str::from_utf8(content).unwrap());
    *content = new.into_bytes();
}

/// A good archive, changed.
struct Case {
    layers: Vec<Vec<u8>>,
    config: Vec<u8>,
}

impl Case {
    fn new() -> Self {
        let layers = vec![layer("a", "first"), layer("b", "second")];
        let config = config(&layers, &json!(null));
        Self { layers, config }
    }

    fn docker(&self, change: impl FnOnce(&mut Files)) -> Vec<u8> {
        let mut files = docker(&self.layers, &self.config, &["app:1"]);
        change(&mut files);
        files.tar()
    }

    fn manifest(&self, change: impl FnOnce(&str) -> String) -> Vec<u8> {
        self.docker(|files| files.edit("manifest.json", |entry| text(entry, change)))
    }

    fn config(&self, change: impl FnOnce(&str) -> String) -> Vec<u8> {
        self.docker(|files| files.edit(&self.config_name(), |entry| text(entry, change)))
    }

    fn config_name(&self) -> String {
        format!("{}.json", Digest::of(&self.config).hex())
    }

    fn layer_name(&self, at: usize) -> String {
        format!("{}/layer.tar", diff(&self.layers[at]).hex())
    }
}

#[test]
fn root_manifests_and_configurations_are_checked() {
    on_each_driver("root_manifests_and_configurations_are_checked", |root| {
        let case = Case::new();
        let bad = |archive: &[u8], expected: &str| refused(root, expected, archive, expected);
        bad(
            &case.docker(|files| files.remove("manifest.json")),
            "invalid archive: does not contain a manifest.json",
        );
        bad(
            &case.manifest(|_| "null".into()),
            "invalid manifest, manifest cannot be null (but can be [])",
        );
        bad(
            &case.manifest(|_| "[".into()),
            "invalid archive: failed to decode manifest.json: EOF while parsing a list at line 1 column 1",
        );
        bad(&case.manifest(|all| all.replace("\"app:1\"", "\"app\"")), "invalid tag \"app\"");
        bad(
            &case.manifest(|all| all.replace("app:1", "App:1")),
            "invalid reference format: repository name (library/App) must be lowercase",
        );
        let second = format!(",\"{}\"", case.layer_name(1));
        bad(
            &case.manifest(|all| all.replace(&second, "")),
            "invalid manifest, layers length mismatch: expected 1, got 2",
        );
        bad(
            &case.manifest(|all| all.replace(&case.config_name(), "../../x.json")),
            "open ../../x.json: no such file or directory",
        );
        bad(&case.config(|_| "{}".into()), "invalid image JSON, no RootFS key");
        bad(
            &case.config(|all| all.replace("\"linux\"", "\"windows\"")),
            "cannot load windows image on linux",
        );
        bad(
            &case.config(|all| all.replace("\"history\":[", "\"history\":[{},")),
            "too many non-empty layers in History section",
        );
        bad(
            &case.config(|all| all.replace("2024-01-02T03:04:05Z", "yesterday")),
            "invalid image JSON: \"yesterday\" is not a time in RFC 3339 form",
        );
        let huge = " ".repeat(5 << 20);
        bad(
            &case.manifest(|all| format!("{all}{huge}")),
            "invalid archive: manifest.json is larger than 4194304 bytes",
        );
        let name = case.config_name();
        bad(
            &case.config(|all| format!("{all}{huge}")),
            &format!("invalid archive: {name} is larger than 4194304 bytes"),
        );
        bad(
            &case.docker(|files| files.remove(&name)),
            &format!("open {name}: no such file or directory"),
        );
    });
}

#[test]
fn root_layers_are_checked() {
    on_each_driver("root_layers_are_checked", |root| {
        let case = Case::new();
        let name = case.layer_name(1);
        let with = |entry: Entry| case.docker(|files| files.edit(&name, |old| *old = entry));
        let expected = diff(&case.layers[1]);
        let wrong = |tar: &[u8]| {
            let got = Digest::of(tar);
            format!("invalid diffID for layer 1: expected \"{expected}\", got \"{got}\"")
        };
        let other = layer("b", "changed");
        refused(root, "other content", &with(Entry::File(other.clone())), &wrong(&other));
        refused(root, "compressed", &with(Entry::File(gzip(&other))), &wrong(&other));
        refused(root, "empty", &with(Entry::File(Vec::new())), &wrong(b""));
        let missing = case.docker(|files| files.remove(&name));
        refused(root, "missing", &missing, &format!("open {name}: no such file or directory"));
        let directory = format!("read {name}: is a directory");
        refused(root, "directory", &with(Entry::Directory), &directory);
        let looped = format!("evalSymlinksInScope: too many links in {name}");
        refused(root, "loop", &with(Entry::Symlink("layer.tar".to_owned())), &looped);
        let out = "../../../etc/passwd".to_owned();
        let outside = format!("invalid archive: invalid symlink {name:?} -> {out:?}");
        refused(root, "link out", &with(Entry::Symlink(out)), &outside);
        let nowhere = format!("invalid archive: invalid hardlink {name:?} -> \"nowhere\"");
        refused(root, "hard link", &with(Entry::HardLink("nowhere".to_owned())), &nowhere);

        let mut evil = Files::default();
        evil.add("../../evil", "x");
        let archive =
            Case { layers: vec![evil.tar()], config: config(&[evil.tar()], &json!(null)) };
        let error = root.load(&archive.docker(|_| {})).unwrap_err();
        assert!(chain(&error).starts_with("cannot unpack layer 0: "), "{}", chain(&error));
        assert_eq!(root.names(), []);

        let cut = case.layers[1][..514].to_vec();
        let error = root.load(&with(Entry::File(cut))).unwrap_err();
        assert!(chain(&error).starts_with("cannot unpack layer 1: "), "{}", chain(&error));
        let cut = gzip(&case.layers[1]);
        let error = root.load(&with(Entry::File(cut[..cut.len() - 20].to_vec()))).unwrap_err();
        assert!(chain(&error).starts_with("cannot unpack layer 1: "), "{}", chain(&error));
        assert_eq!(root.layers.list().unwrap(), []);
    });
}

#[test]
fn root_the_archive_around_is_checked() {
    on_each_driver("root_the_archive_around_is_checked", |root| {
        let case = Case::new();
        let good = case.docker(|_| {});
        let bad = |archive: &[u8], expected: &str| refused(root, expected, archive, expected);
        bad(b"", "invalid archive: does not contain a manifest.json");
        bad(b"garbage\n", "unexpected EOF");
        bad(&[b'x'; 1024], "archive/tar: invalid tar header");
        bad(&good[..good.len() / 2], "unexpected EOF");
        bad(&good[..700], "unexpected EOF");
        let zipped = gzip(&good);
        bad(&zipped[..zipped.len() / 2], "unexpected EOF");
        bad(b"BZh91AY", "unexpected EOF");
        let mut damaged = good.clone();
        damaged[100] ^= 1;
        bad(&damaged, "archive/tar: invalid tar header");
        bad(
            &case.docker(|files| files.add("../out", "x")),
            "invalid archive: \"../out\" is outside of it",
        );
        bad(
            &case.docker(|files| files.add("a/../../out", "x")),
            "invalid archive: \"a/../../out\" is outside of it",
        );
        bad(&block("sparse", "", b'S', 0), "invalid archive: \"sparse\" is a sparse file");
        bad(&block("long", "", b'L', 1 << 40), "archive/tar: invalid tar header");
        bad(&block("pax", "", b'x', 1 << 40), "archive/tar: invalid tar header");
        bad(&block("huge", "", b'0', 1 << 33), "unexpected EOF");
        let mut many = Vec::new();
        for _ in 0..=65_536 {
            many.extend(block("f", "", b'0', 0));
        }
        bad(&many, "invalid archive: more than 65536 entries");
    });
}

#[test]
fn root_oci_layouts_are_checked() {
    on_each_driver("root_oci_layouts_are_checked", |root| {
        let case = Case::new();
        let named = json!({"io.containerd.image.name": "docker.io/library/app:1"});
        let oci = |change: &dyn Fn(&mut Files)| {
            let mut files = oci(&case.layers, &case.config, &named);
            change(&mut files);
            files.tar()
        };
        let bad = |archive: &[u8], expected: &str| refused(root, expected, archive, expected);
        let config = format!("blobs/sha256/{}", Digest::of(&case.config).hex());
        bad(&oci(&|f| f.remove("oci-layout")), "open oci-layout: no such file or directory");
        bad(
            &oci(&|f| f.edit("oci-layout", |e| text(e, |t| t.replace("1.0", "2.0")))),
            "invalid archive: OCI image layout version \"2.0.0\" is not supported",
        );
        let got = Digest::of(b"{}");
        bad(
            &oci(&|f| f.edit(&config, |e| *e = Entry::File(b"{}".to_vec()))),
            &format!("invalid archive: {config} has the digest {got}"),
        );
        bad(&oci(&|f| f.remove(&config)), &format!("open {config}: no such file or directory"));
        let layer = format!("blobs/sha256/{}", diff(&case.layers[0]).hex());
        bad(&oci(&|f| f.remove(&layer)), &format!("open {layer}: no such file or directory"));
        let index = |text: String| {
            oci(&|f| f.edit("index.json", |e| *e = Entry::File(text.clone().into_bytes())))
        };
        let descriptor = |digest: &str, kind: &str| {
            json!({"manifests": [{"mediaType": kind, "digest": digest, "size": 1}]}).to_string()
        };
        let manifest = "application/vnd.oci.image.manifest.v1+json";
        bad(
            &index(descriptor("sha512:00", manifest)),
            "invalid archive: \"sha512:00\" is not a digest: unsupported digest algorithm",
        );
        bad(
            &index(descriptor("sha256:../../x", manifest)),
            "invalid archive: \"sha256:../../x\" is not a digest: invalid checksum digest length",
        );
        let id = Digest::of(&case.config);
        bad(
            &index(descriptor(id.as_str(), "text/plain")),
            &format!("invalid archive: unsupported media type \"text/plain\" of {config}"),
        );
        let error = root.load(&index("[".to_owned())).unwrap_err();
        assert_eq!(error.to_string(), "invalid archive: failed to decode index.json");
    });
}

#[test]
fn root_indexes_of_indexes_end() {
    on_each_driver("root_indexes_of_indexes_end", |root| {
        let mut files = Files::default();
        let kind = "application/vnd.oci.image.index.v1+json";
        let mut content = json!({"manifests": []}).to_string();
        for _ in 0..12 {
            let digest = Digest::of(content.as_bytes());
            files.add(format!("blobs/sha256/{}", digest.hex()), &content);
            content = json!({"manifests": [{"mediaType": kind, "digest": digest, "size": 1}]})
                .to_string();
        }
        files.add("index.json", &content);
        files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
        let nested = "invalid archive: image indexes are nested too deep";
        refused(root, "nested", &files.tar(), nested);
    });
}

#[test]
fn root_legacy_archives_are_checked() {
    on_each_driver("root_legacy_archives_are_checked", |root| {
        let case = Case::new();
        let base = format!("{:064}", 0);
        let top = format!("{:064}", 1);
        let changed = |change: &dyn Fn(&mut Files)| {
            let mut files = legacy(&case.layers, "app", "1");
            change(&mut files);
            files.tar()
        };
        let bad = |archive: &[u8], expected: &str| refused(root, expected, archive, expected);
        let target = changed(&|f| f.edit("repositories", |e| text(e, |t| t.replace(&top, "x"))));
        bad(&target, "invalid target ID: x");
        let cycle = changed(&|f| {
            f.edit(&format!("{base}/json"), |e| {
                text(e, |t| t.replace("null", &format!("{top:?}")));
            });
        });
        bad(&cycle, &format!("invalid archive: image {top} is its own ancestor"));
        let orphan = changed(&|f| f.remove(&format!("{base}/json")));
        bad(&orphan, &format!("open {base}/json: no such file or directory"));
        let empty = changed(&|f| f.remove(&format!("{base}/layer.tar")));
        bad(&empty, &format!("open {base}/layer.tar: no such file or directory"));
    });
}
