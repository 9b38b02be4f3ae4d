//! Devices in a container: nodes, cgroup rules, and the BPF program that enforces the rules on
//! cgroup version 2.

use std::fs;
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

pub mod bpf;

/// Why a device was refused. The texts are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum DeviceError {
    #[error("error gathering device information while adding custom device {path:?}")]
    Gather { path: String, source: io::Error },
    #[error(
        "error gathering device information while adding custom device {path:?}: not a device node"
    )]
    NotADevice { path: String },
    #[error("invalid device cgroup rule format: '{rule}'")]
    Rule { rule: String },
    #[error("invalid device mode: {mode}")]
    Mode { mode: String },
    #[error("a device must be under /dev in the container, and {path:?} is not")]
    Place { path: String },
}

/// Which devices a rule is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Block and character devices.
    All,
    /// Block devices.
    Block,
    /// Character devices.
    Char,
}

impl Kind {
    /// The letter of the OCI specification.
    pub fn letter(self) -> &'static str {
        match self {
            Self::All => "a",
            Self::Block => "b",
            Self::Char => "c",
        }
    }
}

/// What may be done: read, write, mknod.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Perms {
    pub read: bool,
    pub write: bool,
    pub mknod: bool,
}

impl Perms {
    /// `rwm`.
    pub const ALL: Self = Self { read: true, write: true, mknod: true };

    /// Reads one to three of the letters `r`, `w`, `m`.
    pub fn parse(text: &str) -> Option<Self> {
        let known = text.chars().all(|letter| "rwm".contains(letter));
        let has = |letter| text.contains(letter);
        (known && (1..=3).contains(&text.len())).then(|| Self {
            read: has('r'),
            write: has('w'),
            mknod: has('m'),
        })
    }

    fn text(self) -> String {
        [(self.read, 'r'), (self.write, 'w'), (self.mknod, 'm')]
            .into_iter()
            .filter_map(|(has, letter)| has.then_some(letter))
            .collect()
    }
}

/// One rule; the last one that matches decides. `None` is any number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Rule {
    pub allow: bool,
    pub kind: Kind,
    pub major: Option<u32>,
    pub minor: Option<u32>,
    pub perms: Perms,
}

impl Rule {
    const fn new(allow: bool, major: u32, minor: u32) -> Self {
        let perms = Perms::ALL;
        Self { allow, kind: Kind::Char, major: Some(major), minor: Some(minor), perms }
    }

    const fn everything(allow: bool) -> Self {
        Self { allow, kind: Kind::All, major: None, minor: None, perms: Perms::ALL }
    }

    /// Reads Docker's `--device-cgroup-rule`: `c 1:3 rwm`, `a *:* r`.
    pub fn parse(text: &str) -> Result<Self, DeviceError> {
        Self::parse_opt(text).ok_or_else(|| DeviceError::Rule { rule: text.to_owned() })
    }

    fn parse_opt(text: &str) -> Option<Self> {
        let mut words = text.split(' ');
        let (kind, numbers, perms) = (words.next()?, words.next()?, words.next()?);
        if words.next().is_some() {
            return None;
        }
        let kind = match kind {
            "a" => Kind::All,
            "b" => Kind::Block,
            "c" => Kind::Char,
            _ => return None,
        };
        let number = |text: &str| match text {
            "*" => Some(None),
            digits if digits.bytes().all(|b| b.is_ascii_digit()) => digits.parse().ok().map(Some),
            _ => None,
        };
        let (major, minor) = numbers.split_once(':')?;
        Some(Self {
            allow: true,
            kind,
            major: number(major)?,
            minor: number(minor)?,
            perms: Perms::parse(perms)?,
        })
    }

    /// The OCI form.
    pub fn to_oci(self) -> Value {
        let mut oci = json!({ "allow": self.allow, "access": self.perms.text() });
        if self == Self::everything(self.allow) {
            return oci;
        }
        oci["type"] = json!(self.kind.letter());
        // libcontainer writes a missing number as `*`; -1 would be written as it is.
        for (key, number) in [("major", self.major), ("minor", self.minor)] {
            if let Some(number) = number {
                oci[key] = json!(number);
            }
        }
        oci
    }

    /// From the OCI form; `None` when it is malformed.
    pub fn from_oci(oci: &Value) -> Option<Self> {
        let number = |key: &str| match oci.get(key).and_then(Value::as_i64) {
            None | Some(-1) => Some(None),
            Some(number) => u32::try_from(number).ok().map(Some),
        };
        let kind = match oci.get("type").and_then(Value::as_str) {
            None | Some("a" | "") => Kind::All,
            Some("b") => Kind::Block,
            Some("c" | "u") => Kind::Char,
            Some(_) => return None,
        };
        Some(Self {
            allow: oci.get("allow")?.as_bool()?,
            kind,
            major: number("major")?,
            minor: number("minor")?,
            perms: Perms::parse(oci.get("access").and_then(Value::as_str).unwrap_or("rwm"))?,
        })
    }
}

/// The rules that every container has, in Docker's order.
pub fn default_rules() -> Vec<Rule> {
    let mut rules = vec![Rule::everything(false)];
    rules.extend(
        [(1, 5), (1, 3), (1, 9), (1, 8), (5, 0), (5, 1)]
            .map(|(major, minor)| Rule::new(true, major, minor)),
    );
    rules.push(Rule::new(false, 10, 229));
    rules
}

/// The rules that runtimes add by themselves after the others: making nodes, and the nodes of
/// the OCI specification with terminals.
pub fn runtime_rules() -> Vec<Rule> {
    let mknod = Perms { read: false, write: false, mknod: true };
    let any = |kind| Rule { allow: true, kind, major: None, minor: None, perms: mknod };
    let mut rules = vec![any(Kind::Char), any(Kind::Block)];
    rules.extend(
        [(1, 3), (1, 5), (1, 7), (5, 0), (1, 9), (1, 8), (5, 1), (5, 2)]
            .map(|(major, minor)| Rule::new(true, major, minor)),
    );
    rules.push(Rule { minor: None, ..Rule::new(true, 136, 0) });
    rules
}

/// A device node for a container.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Node {
    pub path: String,
    pub host: PathBuf,
    pub kind: Kind,
    pub major: u32,
    pub minor: u32,
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl Node {
    fn of(host: &Path, inside: String) -> io::Result<Option<Self>> {
        let meta = fs::symlink_metadata(host)?;
        let kind = if meta.file_type().is_char_device() {
            Kind::Char
        } else if meta.file_type().is_block_device() {
            Kind::Block
        } else {
            return Ok(None);
        };
        Ok(Some(Self {
            path: inside,
            host: host.to_owned(),
            kind,
            major: rustix::fs::major(meta.rdev()),
            minor: rustix::fs::minor(meta.rdev()),
            mode: meta.mode() & 0o777,
            uid: meta.uid(),
            gid: meta.gid(),
        }))
    }

    fn rule(&self, perms: Perms) -> Rule {
        let (major, minor) = (Some(self.major), Some(self.minor));
        Rule { allow: true, kind: self.kind, major, minor, perms }
    }

    /// The OCI form.
    pub fn to_oci(&self) -> Value {
        json!({
            "path": self.path, "type": self.kind.letter(), "major": self.major,
            "minor": self.minor, "fileMode": self.mode, "uid": self.uid, "gid": self.gid,
        })
    }
}

/// `--device host:inside:perms`: one node, or all nodes below a directory.
pub fn mapping(
    host: &str,
    inside: &str,
    perms: &str,
) -> Result<(Vec<Node>, Vec<Rule>), DeviceError> {
    let inside = if inside.is_empty() { host } else { inside };
    let perms = match perms {
        "" => Perms::ALL,
        text => Perms::parse(text).ok_or_else(|| DeviceError::Mode { mode: text.to_owned() })?,
    };
    if !inside.starts_with("/dev/") || inside.split('/').any(|part| part == "..") {
        return Err(DeviceError::Place { path: inside.to_owned() });
    }
    let gather = |source| DeviceError::Gather { path: host.to_owned(), source };
    let real = fs::canonicalize(host).map_err(gather)?;
    let nodes = match Node::of(&real, inside.to_owned()).map_err(gather)? {
        Some(node) => vec![node],
        None if real.is_dir() => nodes_below(&real, inside),
        None => Vec::new(),
    };
    if nodes.is_empty() {
        return Err(DeviceError::NotADevice { path: host.to_owned() });
    }
    let rules = nodes.iter().map(|node| node.rule(perms)).collect();
    Ok((nodes, rules))
}

/// Every device node of this host, for a privileged container. The directories with mounts of
/// their own in a container are left out, and so is `/dev/console`.
pub fn host_nodes() -> Vec<Node> {
    let mut nodes = nodes_below(Path::new("/dev"), "/dev");
    nodes.retain(|node| node.path != "/dev/console");
    nodes
}

/// What cannot be read is left out, as Docker does.
fn nodes_below(dir: &Path, inside: &str) -> Vec<Node> {
    const OTHERS: [&str; 7] = ["pts", "shm", "fd", "mqueue", ".lxc", ".lxd-mounts", ".udev"];
    let mut nodes = Vec::new();
    let mut left: Vec<(PathBuf, String)> = vec![(dir.to_owned(), inside.to_owned())];
    while let Some((dir, inside)) = left.pop() {
        let Ok(entries) = fs::read_dir(&dir) else { continue };
        for entry in entries.flatten() {
            let name = entry.file_name();
            let Some(name) = name.to_str() else { continue };
            let path = format!("{}/{name}", inside.trim_end_matches('/'));
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => {
                    if !OTHERS.contains(&name) {
                        left.push((entry.path(), path));
                    }
                }
                Ok(_) => nodes.extend(Node::of(&entry.path(), path).ok().flatten()),
                Err(_) => {}
            }
        }
    }
    nodes.sort_by(|a, b| a.path.cmp(&b.path));
    nodes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cgroup_rules_are_read_as_docker_reads_them() {
        let rule = |kind, major, minor, perms| {
            Some(Rule { allow: true, kind, major, minor, perms: Perms::parse(perms).unwrap() })
        };
        #[rustfmt::skip]
        let table = [
            ("c 1:3 rwm",       rule(Kind::Char, Some(1), Some(3), "rwm")),
            ("b 8:* r",         rule(Kind::Block, Some(8), None, "r")),
            ("a *:* rwm",       rule(Kind::All, None, None, "rwm")),
            ("c 1:3",           None),
            ("c 1:3 rwx",       None),
            ("c 1:3 rwmr",      None),
            ("x 1:3 r",         None),
            ("c -1:3 r",        None),
            ("c  1:3 r",        None),
            ("c 1:3 r ",        None),
            ("c 1: r",          None),
        ];
        for (text, expected) in table {
            let got = Rule::parse(text);
            if expected.is_none() {
                let error = got.as_ref().unwrap_err().to_string();
                assert_eq!(error, format!("invalid device cgroup rule format: '{text}'"));
            }
            assert_eq!(got.ok(), expected, "{text}");
        }
    }

    #[test]
    fn rules_survive_the_oci_form() {
        let mut rules = default_rules();
        rules.extend(runtime_rules());
        rules.push(Rule::parse("b 8:* rw").unwrap());
        for rule in rules {
            assert_eq!(Rule::from_oci(&rule.to_oci()), Some(rule));
        }
    }

    #[test]
    fn devices_are_gathered_from_the_host() {
        let (nodes, rules) = mapping("/dev/null", "/dev/nix", "rw").unwrap();
        assert_eq!(
            (nodes.len(), &*nodes[0].path, nodes[0].major, nodes[0].minor),
            (1, "/dev/nix", 1, 3)
        );
        assert_eq!(
            rules[0].to_oci(),
            json!({"allow":true,"type":"c","major":1,"minor":3,"access":"rw"})
        );
        #[rustfmt::skip]
        let refused = [
            ("/dev/null",   "/tmp/x",   "rwm", "a device must be under /dev in the container, and \"/tmp/x\" is not"),
            ("/dev/null",   "/dev/../x", "rwm", "a device must be under /dev in the container, and \"/dev/../x\" is not"),
            ("/dev/null",   "",         "rwx", "invalid device mode: rwx"),
            ("/etc/passwd", "/dev/x",   "",    "error gathering device information while adding custom device \"/etc/passwd\": not a device node"),
            ("/dev/nope",   "",         "",    "error gathering device information while adding custom device \"/dev/nope\""),
        ];
        for (host, inside, perms, text) in refused {
            assert_eq!(mapping(host, inside, perms).unwrap_err().to_string(), text);
        }
    }
}
