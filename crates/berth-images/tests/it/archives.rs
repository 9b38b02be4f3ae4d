//! Archives as different tools write them.

use std::io::{Read as _, Write as _};

use berth_types::{DiffId, Digest};
use serde_json::{Value, json};

/// Files of an archive in order.
#[derive(Clone, Default)]
pub(crate) struct Files(pub(crate) Vec<(String, Entry)>);

#[derive(Clone)]
pub(crate) enum Entry {
    File(Vec<u8>),
    Symlink(String),
    HardLink(String),
    Directory,
    Fifo,
}

impl Files {
    pub(crate) fn add(&mut self, name: impl Into<String>, content: impl AsRef<[u8]>) {
        self.0.push((name.into(), Entry::File(content.as_ref().to_vec())));
    }

    /// Changes one file; it must be there.
    pub(crate) fn edit(&mut self, name: &str, change: impl FnOnce(&mut Entry)) {
        let (_, entry) = self.0.iter_mut().find(|(known, _)| known == name).unwrap();
        change(entry);
    }

    pub(crate) fn remove(&mut self, name: &str) {
        let before = self.0.len();
        self.0.retain(|(known, _)| known != name);
        assert!(self.0.len() < before, "{name}");
    }

    pub(crate) fn tar(&self) -> Vec<u8> {
        let mut tar = Vec::new();
        for (name, entry) in &self.0 {
            let (kind, content, link): (_, &[u8], _) = match entry {
                Entry::File(content) => (b'0', content, ""),
                Entry::Symlink(target) => (b'2', &[], target.as_str()),
                Entry::HardLink(target) => (b'1', &[], target.as_str()),
                Entry::Directory => (b'5', &[], ""),
                Entry::Fifo => (b'6', &[], ""),
            };
            tar.extend(block(name, link, kind, content.len() as u64));
            tar.extend(content);
            tar.resize(tar.len().next_multiple_of(512), 0);
        }
        tar.resize(tar.len() + 1024, 0);
        tar
    }
}

/// A header that says what it is told to, hostile or not.
pub(crate) fn block(name: &str, link: &str, kind: u8, size: u64) -> [u8; 512] {
    let mut header = tar::Header::new_ustar();
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
    header.as_mut_bytes()[156] = kind;
    header.set_mode(0o644);
    header.set_mtime(1_700_000_000);
    header.set_size(size);
    header.set_cksum();
    *header.as_bytes()
}

/// A layer's tar: one file, then padding as GNU tar leaves it.
pub(crate) fn layer(name: &str, content: &str) -> Vec<u8> {
    let mut files = Files::default();
    files.add(name, content);
    let mut tar = files.tar();
    tar.resize(tar.len().next_multiple_of(10_240), 0);
    tar
}

pub(crate) fn diff(tar: &[u8]) -> DiffId {
    Digest::of(tar).into()
}

/// The configuration of an image of these layers.
pub(crate) fn config(layers: &[Vec<u8>], labels: &Value) -> Vec<u8> {
    let step =
        |at: usize| json!({"created": "2024-01-02T03:04:05Z", "created_by": format!("step {at}")});
    let history: Vec<_> = (0..layers.len()).map(step).collect();
    let config = json!({
        "architecture": "amd64",
        "config": {"Cmd": ["/bin/sh"], "Env": ["A=b"], "Labels": labels},
        "created": "2024-01-02T03:04:05.5Z",
        "history": history,
        "os": "linux",
        "rootfs": {"type": "layers", "diff_ids": layers.iter().map(|tar| diff(tar)).collect::<Vec<_>>()},
        "x-unknown": {"kept": true},
    });
    serde_json::to_vec(&config).unwrap()
}

/// As `docker save` of 20.10 writes it, but for the opaque ids.
pub(crate) fn docker(layers: &[Vec<u8>], config: &[u8], tags: &[&str]) -> Files {
    let mut files = Files::default();
    let mut names = Vec::new();
    for tar in layers {
        let name = format!("{}/layer.tar", diff(tar).hex());
        files.add(name.as_str(), tar);
        names.push(name);
    }
    let name = format!("{}.json", Digest::of(config).hex());
    files.add(name.as_str(), config);
    let tags = if tags.is_empty() { Value::Null } else { json!(tags) };
    let manifest = json!([{"Config": name, "RepoTags": tags, "Layers": names}]);
    files.add("manifest.json", manifest.to_string());
    files
}

/// An OCI layout with these layer blobs, compressed or not.
pub(crate) fn oci(blobs: &[Vec<u8>], config: &[u8], annotations: &Value) -> Files {
    let mut files = Files::default();
    let mut blob = |content: &[u8], media_type: &str| {
        let digest = Digest::of(content);
        files.add(format!("blobs/sha256/{}", digest.hex()), content);
        json!({"mediaType": media_type, "digest": digest, "size": content.len()})
    };
    let layers: Vec<_> = blobs
        .iter()
        .map(|content| blob(content, "application/vnd.oci.image.layer.v1.tar+whatever"))
        .collect();
    let config = blob(config, "application/vnd.oci.image.config.v1+json");
    let manifest = json!({"schemaVersion": 2, "config": config, "layers": layers}).to_string();
    let mut image = blob(manifest.as_bytes(), "application/vnd.oci.image.manifest.v1+json");
    image["annotations"] = annotations.clone();
    // One index in the other, as tools write that keep several platforms.
    let nested = json!({"schemaVersion": 2, "manifests": [
        {"mediaType": "application/vnd.oci.image.manifest.v1+json", "size": 1,
         "digest": Digest::of(b"attestation"),
         "platform": {"os": "unknown", "architecture": "unknown"}},
        image,
    ]})
    .to_string();
    let mut index = blob(nested.as_bytes(), "application/vnd.oci.image.index.v1+json");
    index["annotations"] = annotations.clone();
    files.add("index.json", json!({"schemaVersion": 2, "manifests": [index]}).to_string());
    files.add("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#);
    files
}

/// As Docker before 1.10 wrote it.
pub(crate) fn legacy(layers: &[Vec<u8>], repository: &str, tag: &str) -> Files {
    let mut files = Files::default();
    let mut parent = None;
    for (at, tar) in layers.iter().enumerate() {
        let id = format!("{at:064}");
        let json = json!({
            "id": id, "parent": parent, "created": "2014-01-02T03:04:05Z", "os": "linux",
            "container_config": {"Cmd": ["step", at.to_string()]}, "Size": 5,
        });
        files.0.push((id.clone(), Entry::Directory));
        files.add(format!("{id}/VERSION"), "1.0");
        files.add(format!("{id}/json"), json.to_string());
        files.add(format!("{id}/layer.tar"), tar);
        parent = Some(id);
    }
    files.add("repositories", json!({repository: {tag: parent}}).to_string());
    files
}

pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    encoder.write_all(content).unwrap();
    encoder.finish().unwrap()
}

pub(crate) fn zstd(content: &[u8]) -> Vec<u8> {
    zstd::encode_all(content, 1).unwrap()
}

/// The files of a tar by name.
pub(crate) fn unpack(tar: &[u8]) -> std::collections::BTreeMap<String, Vec<u8>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(tar).entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = entry.path().unwrap().to_str().unwrap().to_owned();
        let mut content = Vec::new();
        entry.read_to_end(&mut content).unwrap();
        found.insert(name, content);
    }
    found
}
