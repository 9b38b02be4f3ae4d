//! Images for the tests, made from this machine's static busybox, and digests.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use super::random::Random;

const BUSYBOX: &str = "/bin/busybox";
const EPOCH: &str = "1970-01-01T00:00:00Z";
/// Where each test image has a file of random content.
pub(crate) const CONTENT: &str = "content/file0";

/// Whether there is what images are made of.
pub(crate) fn has_busybox() -> bool {
    Path::new(BUSYBOX).is_file()
}

/// An image in a docker-archive, and what must be found of it later.
#[derive(Debug, Clone)]
pub(crate) struct Image {
    pub(crate) names: Vec<String>,
    pub(crate) id: String,
    pub(crate) diff_ids: Vec<String>,
    /// The digest of [`CONTENT`].
    pub(crate) content: String,
    config: String,
    layers: Vec<Vec<u8>>,
}

impl Image {
    /// An image of busybox and `layers` layers of random files, `bytes` in each.
    pub(crate) fn new(
        name: &str,
        layers: usize,
        bytes: usize,
        random: &mut Random,
    ) -> Result<Self> {
        Self::on(vec![busybox_layer()?], name, layers, bytes, random)
    }

    /// An image of such layers alone: nothing in it can be run.
    pub(crate) fn plain(
        name: &str,
        layers: usize,
        bytes: usize,
        random: &mut Random,
    ) -> Result<Self> {
        Self::on(Vec::new(), name, layers, bytes, random)
    }

    /// An image that shares this one's first layer.
    pub(crate) fn sibling(
        &self,
        name: &str,
        layers: usize,
        bytes: usize,
        random: &mut Random,
    ) -> Result<Self> {
        Self::on(vec![self.layers[0].clone()], name, layers, bytes, random)
    }

    fn on(
        mut all: Vec<Vec<u8>>,
        name: &str,
        layers: usize,
        bytes: usize,
        random: &mut Random,
    ) -> Result<Self> {
        const FILE: usize = 16 << 10;
        let mut first = String::new();
        for layer in 0..layers {
            let mut tar = tar::Builder::new(Vec::new());
            let dir = if layer == 0 { "content".to_owned() } else { format!("layer{layer}") };
            directory(&mut tar, &dir, 0o755)?;
            for number in 0..(bytes / FILE).max(1) {
                let content = random.bytes(FILE);
                if layer == 0 && number == 0 {
                    first = sha256(&content);
                }
                file(&mut tar, &format!("{dir}/file{number}"), 0o644, &content)?;
            }
            all.push(tar.into_inner()?);
        }
        let diff_ids: Vec<String> = all.iter().map(|layer| digest(layer)).collect();
        let history: Vec<_> = diff_ids.iter().map(|_| json!({ "created": EPOCH })).collect();
        let config = json!({
            "architecture": architecture(), "os": "linux", "created": EPOCH,
            "config": { "Env": ["PATH=/bin"], "Cmd": ["true"], "Labels": { "name": name } },
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
        })
        .to_string();
        let id = digest(config.as_bytes());
        let names = vec![name.to_owned()];
        Ok(Self { names, id, diff_ids, content: first, config, layers: all })
    }

    /// What of it must be kept for a comparison.
    pub(crate) fn without_bytes(mut self) -> Self {
        self.layers = Vec::new();
        self
    }
}

/// One archive with all these images.
pub(crate) fn archive(images: &[Image]) -> Result<Vec<u8>> {
    let mut archive = tar::Builder::new(Vec::new());
    let mut manifest = Vec::new();
    let mut written = std::collections::BTreeSet::new();
    for image in images {
        let mut members = Vec::new();
        for (layer, diff) in image.layers.iter().zip(&image.diff_ids) {
            let member = format!("{}/layer.tar", hex_of(diff));
            if written.insert(member.clone()) {
                file(&mut archive, &member, 0o644, layer)?;
            }
            members.push(member);
        }
        let config = format!("{}.json", hex_of(&image.id));
        file(&mut archive, &config, 0o644, image.config.as_bytes())?;
        manifest.push(json!({ "Config": config, "RepoTags": image.names, "Layers": members }));
    }
    file(&mut archive, "manifest.json", 0o644, Value::from(manifest).to_string().as_bytes())?;
    Ok(archive.into_inner()?)
}

/// The digest of each regular file of an archive, by its path.
pub(crate) fn digests(bytes: &[u8]) -> Result<std::collections::BTreeMap<String, String>> {
    let mut found = std::collections::BTreeMap::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        if entry.header().entry_type().is_file() {
            let path = entry.path()?.display().to_string();
            let mut content = Vec::new();
            std::io::Read::read_to_end(&mut entry, &mut content)?;
            found.insert(path, sha256(&content));
        }
    }
    Ok(found)
}

/// What a saved archive of one image holds: the digest of its config, and of each layer.
pub(crate) fn read_saved(bytes: &[u8]) -> Result<(String, Vec<String>)> {
    let mut all = read_all_saved(bytes)?;
    let image = all.pop_first().context("no image was saved")?;
    ensure!(all.is_empty(), "more images were saved: {all:?}");
    Ok(image)
}

/// The same of each image of an archive.
pub(crate) fn read_all_saved(
    bytes: &[u8],
) -> Result<std::collections::BTreeMap<String, Vec<String>>> {
    let mut members = std::collections::BTreeMap::new();
    let mut links = Vec::new();
    for entry in tar::Archive::new(bytes).entries()? {
        let mut entry = entry?;
        let path = entry.path()?.display().to_string();
        if entry.header().entry_type().is_symlink() {
            let target = entry.link_name()?.context("a link without a target")?;
            let beside = Path::new(&path).parent().unwrap_or(Path::new("")).join(target);
            links.push((path, normal(&beside)));
            continue;
        }
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content)?;
        members.insert(path, content);
    }
    for (path, target) in links {
        let content = members.get(&target).with_context(|| format!("{path}: no {target}"))?.clone();
        members.insert(path, content);
    }
    let member = |name: &str| members.get(name).with_context(|| format!("{name} was not saved"));
    let manifest: Value = serde_json::from_slice(member("manifest.json")?)?;
    let mut images = std::collections::BTreeMap::new();
    for image in manifest.as_array().into_iter().flatten() {
        let config = member(image["Config"].as_str().unwrap_or_default())?;
        let layers = image["Layers"].as_array().into_iter().flatten();
        let layers = layers.map(|layer| Ok(digest(member(layer.as_str().unwrap_or_default())?)));
        images.insert(digest(config), layers.collect::<Result<_>>()?);
    }
    Ok(images)
}

fn normal(path: &Path) -> String {
    let mut parts: Vec<String> = Vec::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => drop(parts.pop()),
            std::path::Component::Normal(name) => parts.push(name.to_string_lossy().into_owned()),
            _ => {}
        }
    }
    parts.join("/")
}

/// The content of the only file in a tar.
pub(crate) fn only_file(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut archive = tar::Archive::new(bytes);
    let mut entry = archive.entries()?.next().context("an empty tar")??;
    let mut content = Vec::new();
    std::io::Read::read_to_end(&mut entry, &mut content)?;
    Ok(content)
}

/// A tar of one file.
pub(crate) fn tar_of(path: &str, content: &[u8]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    file(&mut tar, path, 0o644, content)?;
    Ok(tar.into_inner()?)
}

/// The chain ids of layers on top of each other, without the algorithm.
pub(crate) fn chains(diff_ids: &[String]) -> Vec<String> {
    let mut chains: Vec<String> = Vec::new();
    for diff in diff_ids {
        let chain = match chains.last() {
            None => hex_of(diff).to_owned(),
            Some(below) => sha256(format!("sha256:{below} {diff}").as_bytes()),
        };
        chains.push(chain);
    }
    chains
}

pub(crate) fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", sha256(bytes))
}

pub(crate) fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory");
        text
    })
}

fn hex_of(digest: &str) -> &str {
    digest.trim_start_matches("sha256:")
}

pub(crate) fn busybox_layer() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin", "data", "dev", "etc", "proc", "sys", "tmp", "work"] {
        directory(&mut tar, dir, if dir == "tmp" { 0o1777 } else { 0o755 })?;
    }
    let busybox = std::fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    file(&mut tar, "bin/busybox", 0o755, &busybox)?;
    for applet in ["sh", "cat", "echo", "true", "sleep", "usleep", "dd"] {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    file(&mut tar, "etc/passwd", 0o644, b"root:x:0:0:root:/:/bin/sh\n")?;
    Ok(tar.into_inner()?)
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn directory(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Directory);
    header.set_mode(mode);
    header.set_size(0);
    Ok(tar.append_data(&mut header, path, std::io::empty())?)
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, path, content)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_says_what_it_holds() {
        let layer = tar_of("content/file0", b"x").unwrap();
        let config = "{}".to_owned();
        let image = Image {
            names: vec!["a:1".to_owned()],
            id: digest(config.as_bytes()),
            diff_ids: vec![digest(&layer)],
            content: sha256(b"x"),
            config,
            layers: vec![layer],
        };
        let saved = read_saved(&archive(std::slice::from_ref(&image)).unwrap()).unwrap();
        assert_eq!(saved, (image.id.clone(), image.diff_ids.clone()));
        assert_eq!(chains(&image.diff_ids), [hex_of(&image.diff_ids[0])]);
    }
}
