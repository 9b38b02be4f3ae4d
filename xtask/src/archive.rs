//! Images made from this machine's static busybox.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result};
use serde_json::json;
use sha2::{Digest as _, Sha256};

use crate::run;

const BUSYBOX: &str = "/bin/busybox";

/// A root file system: busybox, its applets as links, and the few files that programs ask for.
pub(crate) fn busybox_root() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "var"] {
        let mode = if dir == "tmp" { 0o1777 } else { 0o755 };
        directory(&mut tar, dir, mode)?;
    }
    let busybox = std::fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    file(&mut tar, "bin/busybox", 0o755, &busybox)?;
    let applets = run::output(Command::new(BUSYBOX).arg("--list"))?;
    for applet in applets.lines().filter(|applet| *applet != "busybox") {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(tar::EntryType::Symlink);
        header.set_mode(0o777);
        header.set_size(0);
        tar.append_link(&mut header, format!("bin/{applet}"), "busybox")?;
    }
    file(
        &mut tar,
        "etc/passwd",
        0o644,
        b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
    )?;
    file(&mut tar, "etc/group", 0o644, b"root:x:0:\nnogroup:x:65534:\n")?;
    Ok(tar.into_inner()?)
}

/// An archive as `docker save` writes it: one image of `layers` layers on top of each other, with
/// `bytes` in all. Another `seed` gives other content.
pub(crate) fn layered(name: &str, layers: usize, bytes: usize, seed: u64) -> Result<Vec<u8>> {
    const FILE: usize = 64 << 10;
    let mut archive = tar::Builder::new(Vec::with_capacity(bytes + (bytes >> 4)));
    let mut noise = Noise(0x9e37_79b9_7f4a_7c15 ^ seed);
    let mut diff_ids = Vec::new();
    let mut names = Vec::new();
    for layer in 0..layers {
        let mut tar = tar::Builder::new(Vec::with_capacity(bytes / layers + (1 << 20)));
        directory(&mut tar, &format!("layer{layer}"), 0o755)?;
        for number in 0..(bytes / layers / FILE) {
            let mut content = vec![0; FILE];
            noise.fill(&mut content);
            file(&mut tar, &format!("layer{layer}/file{number}"), 0o644, &content)?;
        }
        let tar = tar.into_inner()?;
        let digest = hex(&Sha256::digest(&tar));
        let member = format!("{digest}/layer.tar");
        file(&mut archive, &member, 0o644, &tar)?;
        diff_ids.push(format!("sha256:{digest}"));
        names.push(member);
    }
    let history: Vec<_> = diff_ids.iter().map(|_| json!({ "created": EPOCH })).collect();
    let config = json!({
        "architecture": architecture(), "os": "linux", "created": EPOCH, "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
    })
    .to_string();
    let config_name = format!("{}.json", hex(&Sha256::digest(config.as_bytes())));
    let manifest = json!([{ "Config": config_name, "RepoTags": [name], "Layers": names }]);
    file(&mut archive, &config_name, 0o644, config.as_bytes())?;
    file(&mut archive, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
    Ok(archive.into_inner()?)
}

/// An archive of `count` files of `bytes` each, a hundred in a directory.
pub(crate) fn files(count: usize, bytes: usize) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut noise = Noise(0x2545_f491_4f6c_dd1d);
    let mut content = vec![0; bytes];
    for number in 0..count {
        let dir = format!("dir{}", number / 100);
        if number % 100 == 0 {
            directory(&mut tar, &dir, 0o755)?;
        }
        noise.fill(&mut content);
        file(&mut tar, &format!("{dir}/file{number}"), 0o644, &content)?;
    }
    Ok(tar.into_inner()?)
}

const EPOCH: &str = "1970-01-01T00:00:00Z";

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
    Ok(tar.append_data(&mut header, Path::new(path), std::io::empty())?)
}

fn file(tar: &mut tar::Builder<Vec<u8>>, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = tar::Header::new_ustar();
    header.set_mode(mode);
    header.set_size(content.len() as u64);
    Ok(tar.append_data(&mut header, Path::new(path), content)?)
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory");
        text
    })
}

/// The same bytes on every run, of which some repeat, as in real files (xorshift).
struct Noise(u64);

impl Noise {
    fn fill(&mut self, into: &mut [u8]) {
        for chunk in into.chunks_mut(16) {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            let random = self.0.to_le_bytes();
            for (at, byte) in chunk.iter_mut().enumerate() {
                *byte = if at < random.len() { random[at] } else { b' ' };
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_layered_archive_describes_itself() {
        let bytes = layered("bench:8", 3, 3 << 17, 0).unwrap();
        let mut archive = tar::Archive::new(bytes.as_slice());
        let names: Vec<String> = archive
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().display().to_string())
            .collect();
        assert_eq!(names.len(), 5);
        assert_eq!(names[4], "manifest.json");
        assert_eq!(layered("bench:8", 3, 3 << 17, 0).unwrap(), bytes);
        assert_ne!(layered("bench:8", 3, 3 << 17, 1).unwrap(), bytes);
    }
}
