//! What the cases find in `$assets`: images, broken images, and a few shell functions.
//!
//! | file | what |
//! |---|---|
//! | `busybox.tar` | `busybox:latest`, one layer from this machine's static busybox |
//! | `tiny.tar` | `tiny:1`, three layers of small files, the same bytes everywhere |
//! | `hello.tar`, `.gz`, `.zst` | `hello:1`, two layers, as `docker save` writes it |
//! | `oci-gzip.tar`, `oci-zstd.tar` | `oci:gzip`, `oci:zstd`, OCI layouts with compressed layers |
//! | `rootfs.tar`, `rootfs.tar.gz` | a small tree for `docker import` |
//! | `bad-*.tar` | archives that must be refused; each function here says why |
//! | `lib.sh` | read by every step |

use std::io::Write as _;
use std::path::Path;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tar::EntryType;

pub(super) const BUSYBOX: &str = "/bin/busybox";

const EPOCH: &str = "2020-01-01T00:00:00Z";
const MTIME: u64 = 1_577_836_800;

const LIB: &str = r#"
# Waits until a command succeeds, at most 20 s.
eventually() {
  tries=0
  until "$@" >/dev/null 2>&1; do
    tries=$((tries + 1)); [ $tries -lt 200 ] || { echo "never: $*" >&2; return 1; }
    sleep 0.1
  done
}
# Waits until a container is in a state.
state() { eventually sh -c "docker inspect -f '{{.State.Status}}' $1 | grep -qx $2"; }
# Waits until a container has logged a text.
logged() { eventually sh -c "docker logs $1 2>&1 | grep -q '$2'"; }
# Runs docker on a terminal where nobody types.
tty() {
  mkfifo .input; script -qec "docker $*" /dev/null <>.input; code=$?; rm .input
  return $code
}
# The names of the layers in an archive of one image, in order.
layers() { tar -xOf "$1" manifest.json | sed 's/.*"Layers":\[\([^]]*\)\].*/\1/; s/[",]/ /g'; }
# The digest of each layer in an archive of one image.
digests() { for layer in $(layers "$1"); do tar -xOf "$1" "$layer" | sha256sum | cut -d' ' -f1; done; }
# Runs a program in the engine's network.
near() { if [ -n "$netns" ]; then nsenter "$netns" -- "$@"; else "$@"; fi; }
# Puts the image of an archive into the registry: archive, name.
publish() {
  near skopeo --insecure-policy copy -q --dest-tls-verify=false "oci-archive:$assets/$1" "docker://$registry/$2"
}
# The digest of an image in the registry, and the id that its configuration gives it.
digest() { near skopeo inspect --tls-verify=false --format '{{.Digest}}' "docker://$registry/$1"; }
configuration() {
  near skopeo inspect --tls-verify=false --config --raw "docker://$registry/$1" | sha256sum | sed 's/\([^ ]*\).*/sha256:\1/'
}
# The docker CLI on the other engine.
other() { DOCKER_HOST=$witness docker "$@"; }
# Sends the image $registry/$c/there through the other engine, which has not seen it, and takes it again,
# after this engine has forgotten it. Says what became of it.
around() {
  same() { docker inspect -f '{{.Id}} {{.RootFS.Layers}}' "$registry/$c/$1" | cmp -s - .sent; }
  docker inspect -f '{{.Id}} {{.RootFS.Layers}}' "$registry/$c/there" >.sent &&
  docker push -q "$registry/$c/there" >/dev/null && docker rmi "$registry/$c/there" >/dev/null &&
  (DOCKER_HOST=$witness; export DOCKER_HOST; docker pull -q "$registry/$c/there" >/dev/null &&
    same there && echo there: the same && docker tag "$registry/$c/there" "$registry/$c/back" &&
    docker push -q "$registry/$c/back" >/dev/null) &&
  docker pull -q "$registry/$c/back" >/dev/null && same back && echo back: the same &&
  docker save -o .saved.tar "$registry/$c/back" &&
  test "$(digests .saved.tar)" = "$(sed 's/.*\[//; s/\]//; s/sha256://g' .sent | tr ' ' '\n')" &&
  echo each layer is what its name says
  test "$(configuration "$c/back")" = "$(cut -d' ' -f1 .sent)" && echo the registry has the same configuration
}
# What a pull or a push says, how often: its lines come in any order, and some of them only if it takes long.
said() {
  sed 's/^[0-9a-f]\{12\}: /LAYER: /; /: Waiting$/d; /: Verifying Checksum$/d; s/ size: [0-9]*$/ size: N/' |
    sort | uniq -c
}
# Notes which Dockerfile docker build is about to read.
counted() {
  file=; while [ $# -gt 0 ]; do case $1 in -f) file=$2; shift;; *) dir=$1;; esac; shift; done
  [ "$file" ] || file=$dir/Dockerfile
  [ ! -f "$file" ] || sha256sum <"$file" >>"$assets/dockerfiles"
}
# Builds with the classic builder. The CLI's advice to use another and its progress are left out, and
# ids, which are new each time.
build() {
  counted "$@"
  said=$(mktemp) && told=$(mktemp) || return; DOCKER_BUILDKIT=0 docker build "$@" >"$told" 2>"$said"; code=$?
  sed -E '/^Sending build context/d
    s/^( ---> (Running in )?|Removing intermediate container |Successfully built )[0-9a-f]{12}$/\1ID/' "$told"
  sed '/^DEPRECATED/,/^ *environment-variable/d; /^Sending build context/d; /^$/d' "$said" >&2
  rm "$told" "$said"; return $code
}
# An image's history, and the members of its top layer.
steps() { docker history --no-trunc --format '{{.CreatedBy}}|{{.Size}}|{{.Comment}}' "$1"; }
top() {
  docker save "$1" >.saved.tar; for last in $(layers .saved.tar); do :; done
  tar -xOf .saved.tar "$last" >.top.tar; members .top.tar; rm .saved.tar .top.tar
}
# An archive's members with mode, owner and size.
members() { tar --numeric-owner -tvf "$1" | sed 's/ 20[0-9-]* [0-9:]* / /; s/  */ /g' | sort; }
"#;

/// Writes everything, and gives the names of what follows from this machine's busybox.
pub(super) fn write_all(dir: &Path) -> Result<Vec<(String, String)>> {
    let busybox_layer = busybox_root()?;
    let busybox = Image {
        name: "busybox:latest",
        config: json!({
            "Env": ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"],
            "Cmd": ["sh"],
        }),
        layers: vec![busybox_layer],
    };
    let write = |name: &str, bytes: &[u8]| -> Result<()> {
        let mut file = std::fs::File::create_new(dir.join(name))?;
        file.write_all(bytes).with_context(|| format!("cannot write {name}"))
    };
    std::fs::create_dir(dir.join("config"))?;
    write("lib.sh", LIB.as_bytes())?;
    write("busybox.tar", &busybox.docker_archive(|_| {})?)?;
    write("tiny.tar", &tiny()?.docker_archive(|_| {})?)?;
    let hello = hello("hello:1")?.docker_archive(|_| {})?;
    write("hello.tar", &hello)?;
    write("hello.tar.gz", &gzip(&hello)?)?;
    write("hello.tar.zst", &zstd::bulk::compress(&hello, 3)?)?;
    write("oci-gzip.tar", &self::hello("oci:gzip")?.oci_layout("gzip")?)?;
    write("oci-zstd.tar", &self::hello("oci:zstd")?.oci_layout("zstd")?)?;
    let rootfs = small_tree(&[("etc/motd", b"hello\n"), ("usr/share/a", b"a\n")])?;
    write("rootfs.tar", &rootfs)?;
    write("rootfs.tar.gz", &gzip(&rootfs)?)?;
    for (name, bytes) in broken(&hello)? {
        write(&format!("bad-{name}.tar"), &bytes)?;
    }
    busybox.known("busybox")
}

/// Archives that must be refused.
fn broken(hello: &[u8]) -> Result<Vec<(&'static str, Vec<u8>)>> {
    let image = |layer: Vec<u8>| -> Result<Image> {
        Ok(Image { name: "bad:1", config: json!({}), layers: vec![layer] })
    };
    let escape = {
        let mut tar = tar::Builder::new(Vec::new());
        raw_file(&mut tar, b"../../escaped", b"x")?;
        tar.into_inner()?
    };
    let through_link = {
        let mut tar = tar::Builder::new(Vec::new());
        link(&mut tar, EntryType::Symlink, "way", "/")?;
        raw_file(&mut tar, b"way/escaped-by-link", b"x")?;
        tar.into_inner()?
    };
    let hard_link = {
        let mut tar = tar::Builder::new(Vec::new());
        link(&mut tar, EntryType::Link, "passwd", "../../../../etc/passwd")?;
        tar.into_inner()?
    };
    let sound = small_tree(&[("a", b"a\n")])?;
    Ok(vec![
        // In the middle of a layer.
        ("cut", hello[..hello.len() / 2].to_vec()),
        ("empty", Vec::new()),
        ("text", b"this is not an archive\n".repeat(100)),
        ("no-manifest", small_tree(&[("a", b"a\n")])?),
        ("manifest", small_tree(&[("manifest.json", b"{not json")])?),
        (
            "diff-id",
            image(sound.clone())?.docker_archive(|config| {
                config["rootfs"]["diff_ids"][0] = json!(format!("sha256:{}", "0".repeat(64)));
            })?,
        ),
        (
            "layer-count",
            image(sound)?.docker_archive(|config| {
                config["rootfs"]["diff_ids"] = json!([]);
            })?,
        ),
        ("layer", image(b"not a layer".repeat(100))?.docker_archive(|_| {})?),
        ("escape", image(escape)?.docker_archive(|_| {})?),
        ("link", image(through_link)?.docker_archive(|_| {})?),
        ("hard-link", image(hard_link)?.docker_archive(|_| {})?),
    ])
}

fn tiny() -> Result<Image> {
    Ok(Image {
        name: "tiny:1",
        config: json!({
            "Env": ["PATH=/bin", "A=b c"], "Cmd": ["/bin/none", "x y"], "WorkingDir": "/etc",
            "Labels": { "kind": "tiny" }, "User": "nobody", "ExposedPorts": { "80/tcp": {} },
            "StopSignal": "SIGINT",
        }),
        layers: vec![
            small_tree(&[("etc/one", b"1\n"), ("etc/two", &[b'2'; 2000])])?,
            small_tree(&[("etc/.wh.one", b""), ("etc/three", &[b'3'; 30_000])])?,
            small_tree(&[("opt/four", &[b'4'; 4000])])?,
        ],
    })
}

fn hello(name: &'static str) -> Result<Image> {
    Ok(Image {
        name,
        config: json!({ "Cmd": ["/hello"] }),
        layers: vec![
            small_tree(&[("hello", b"hello\n"), ("big", &[b'x'; 100_000])])?,
            small_tree(&[("world", b"world\n")])?,
        ],
    })
}

/// An image to be packed.
struct Image {
    name: &'static str,
    config: Value,
    layers: Vec<Vec<u8>>,
}

impl Image {
    fn configuration(&self) -> Value {
        let diff_ids: Vec<String> = self.layers.iter().map(|layer| digest(layer)).collect();
        let history: Vec<Value> = (1..=self.layers.len())
            .map(|number| json!({ "created": EPOCH, "created_by": format!("step {number}") }))
            .collect();
        json!({
            "architecture": architecture(), "os": "linux", "created": EPOCH, "config": self.config,
            "rootfs": { "type": "layers", "diff_ids": diff_ids }, "history": history,
        })
    }

    /// As `docker save` of 20.10 writes it, after `change` of the configuration.
    fn docker_archive(&self, change: impl FnOnce(&mut Value)) -> Result<Vec<u8>> {
        let mut config = self.configuration();
        change(&mut config);
        let config = config.to_string();
        let config_name = format!("{}.json", hex(config.as_bytes()));
        let mut tar = tar::Builder::new(Vec::new());
        let mut names = Vec::new();
        for (at, layer) in self.layers.iter().enumerate() {
            let name = format!("{at}{}/layer.tar", &hex(layer)[1..]);
            file(&mut tar, &name, 0o644, layer)?;
            names.push(name);
        }
        file(&mut tar, &config_name, 0o644, config.as_bytes())?;
        let manifest = json!([{ "Config": config_name, "RepoTags": [self.name], "Layers": names }]);
        file(&mut tar, "manifest.json", 0o644, manifest.to_string().as_bytes())?;
        Ok(tar.into_inner()?)
    }

    /// As an OCI image layout.
    fn oci_layout(&self, compression: &str) -> Result<Vec<u8>> {
        let mut tar = tar::Builder::new(Vec::new());
        let mut blob = |bytes: &[u8], media_type: &str| -> Result<Value> {
            file(&mut tar, &format!("blobs/sha256/{}", hex(bytes)), 0o644, bytes)?;
            Ok(json!({
                "mediaType": format!("application/vnd.oci.image.{media_type}"),
                "digest": digest(bytes), "size": bytes.len(),
            }))
        };
        let mut layers = Vec::new();
        for layer in &self.layers {
            let packed = match compression {
                "gzip" => gzip(layer)?,
                _ => zstd::bulk::compress(layer, 3)?,
            };
            layers.push(blob(&packed, &format!("layer.v1.tar+{compression}"))?);
        }
        let config = blob(self.configuration().to_string().as_bytes(), "config.v1+json")?;
        let manifest = json!({
            "schemaVersion": 2, "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "config": config, "layers": layers,
        });
        let mut manifest = blob(manifest.to_string().as_bytes(), "manifest.v1+json")?;
        manifest["annotations"] = json!({
            "io.containerd.image.name": format!("docker.io/library/{}", self.name),
            "org.opencontainers.image.ref.name": self.name.split(':').next_back(),
        });
        let index = json!({ "schemaVersion": 2, "manifests": [manifest] });
        file(&mut tar, "index.json", 0o644, index.to_string().as_bytes())?;
        file(&mut tar, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(tar.into_inner()?)
    }

    /// What is to be named in transcripts, because it depends on this machine.
    fn known(&self, name: &str) -> Result<Vec<(String, String)>> {
        let id = hex(self.configuration().to_string().as_bytes());
        let layer = hex(&self.layers[0]);
        let mut size = 0;
        for entry in tar::Archive::new(self.layers[0].as_slice()).entries()? {
            let entry = entry?;
            let link = entry.link_name_bytes().map_or(0, |target| target.len() as u64);
            size += entry.size() + link;
        }
        Ok(vec![
            (human_size(size), format!("<{name}-size>")),
            (id.clone(), format!("<{name}-id>")),
            (id[..12].to_owned(), format!("<{name}-short-id>")),
            (layer, format!("<{name}-layer>")),
        ])
    }
}

/// As the docker CLI shows a size: three digits, units of 1000.
#[expect(clippy::cast_precision_loss, reason = "three digits are shown")]
fn human_size(bytes: u64) -> String {
    let mut size = bytes as f64;
    for unit in ["B", "kB", "MB", "GB"] {
        if size < 1000.0 {
            let digits = match size {
                ..10.0 => 2,
                ..100.0 => 1,
                _ => 0,
            };
            let text = format!("{size:.digits$}");
            let text = if text.contains('.') {
                text.trim_end_matches('0').trim_end_matches('.')
            } else {
                &text
            };
            return format!("{text}{unit}");
        }
        size /= 1000.0;
    }
    format!("{size:.2}TB")
}

/// busybox, its applets as links, and the few files that programs ask for.
fn busybox_root() -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    for dir in ["bin", "dev", "etc", "home", "proc", "root", "sys", "tmp", "var"] {
        directory(&mut tar, dir, if dir == "tmp" { 0o1777 } else { 0o755 })?;
    }
    let busybox = std::fs::read(BUSYBOX).with_context(|| format!("cannot read {BUSYBOX}"))?;
    file(&mut tar, "bin/busybox", 0o755, &busybox)?;
    let applets = std::process::Command::new(BUSYBOX).arg("--list").output()?.stdout;
    for applet in String::from_utf8(applets)?.lines().filter(|applet| *applet != "busybox") {
        link(&mut tar, EntryType::Symlink, &format!("bin/{applet}"), "busybox")?;
    }
    let users = b"root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n\
        nobody:x:65534:65534:nobody:/home:/bin/false\n";
    file(&mut tar, "etc/passwd", 0o644, users)?;
    let groups = b"root:x:0:\nusers:x:100:user\nuser:x:1000:\nnogroup:x:65534:\n";
    file(&mut tar, "etc/group", 0o644, groups)?;
    Ok(tar.into_inner()?)
}

/// Files, and the directories they are in.
fn small_tree(files: &[(&str, &[u8])]) -> Result<Vec<u8>> {
    let mut tar = tar::Builder::new(Vec::new());
    let mut made: Vec<&str> = Vec::new();
    for (path, content) in files {
        for (at, _) in path.match_indices('/') {
            if !made.contains(&&path[..at]) {
                directory(&mut tar, &path[..at], 0o755)?;
                made.push(&path[..at]);
            }
        }
        file(&mut tar, path, 0o644, content)?;
    }
    Ok(tar.into_inner()?)
}

type Builder = tar::Builder<Vec<u8>>;

fn header(kind: EntryType, mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_mtime(MTIME);
    header.set_uid(0);
    header.set_gid(0);
    header.set_size(size);
    header
}

fn directory(tar: &mut Builder, path: &str, mode: u32) -> Result<()> {
    let mut header = header(EntryType::Directory, mode, 0);
    Ok(tar.append_data(&mut header, format!("{path}/"), std::io::empty())?)
}

fn file(tar: &mut Builder, path: &str, mode: u32, content: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, mode, content.len() as u64);
    Ok(tar.append_data(&mut header, path, content)?)
}

fn link(tar: &mut Builder, kind: EntryType, path: &str, target: &str) -> Result<()> {
    let mut header = header(kind, 0o777, 0);
    // A path through the builder would be refused where it leaves the tree.
    header.as_ustar_mut().context("made as one")?.linkname[..target.len()]
        .copy_from_slice(target.as_bytes());
    Ok(tar.append_data(&mut header, path, std::io::empty())?)
}

/// A file under a name that the builder would refuse.
fn raw_file(tar: &mut Builder, name: &[u8], content: &[u8]) -> Result<()> {
    let mut header = header(EntryType::Regular, 0o644, content.len() as u64);
    header.as_ustar_mut().context("made as one")?.name[..name.len()].copy_from_slice(name);
    header.set_cksum();
    Ok(tar.append(&header, content)?)
}

fn gzip(bytes: &[u8]) -> Result<Vec<u8>> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(bytes)?;
    Ok(encoder.finish()?)
}

fn digest(bytes: &[u8]) -> String {
    format!("sha256:{}", hex(bytes))
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("writing to memory");
        text
    })
}

fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_shown_as_docker_shows_them() {
        for (bytes, text) in
            [(0, "0B"), (999, "999B"), (1000, "1kB"), (36_002, "36kB"), (1_982_345, "1.98MB")]
        {
            assert_eq!(human_size(bytes), text);
        }
    }

    #[test]
    fn the_same_archive_every_time() {
        let pack = || tiny().unwrap().docker_archive(|_| {}).unwrap();
        assert_eq!(pack(), pack());
    }
}
