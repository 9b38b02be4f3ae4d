//! The mounts of a container: Docker's own, and the ones that were asked for.

use std::fs;
use std::path::{Path, PathBuf};

use berth_api::container::TmpfsOptions;
use serde_json::{Value, json};

use crate::error::RuntimeError;

/// What a mount shows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MountKind {
    /// A file or directory of the host, which exists: a bind, a volume's data, an image's root.
    Bind {
        /// It.
        source: PathBuf,
        /// Whether mounts below it come along.
        recursive: bool,
        /// Docker's propagation; empty is `rprivate`.
        propagation: String,
    },
    /// Memory, with Docker's options (`size=64m,mode=1777`).
    Tmpfs {
        /// Comma-separated.
        options: String,
    },
}

/// What may be done with a bind mount.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Everything.
    ReadWrite,
    /// Reading, also of mounts below it where the kernel can.
    ReadOnly,
    /// Reading; mounts below it stay writable.
    ReadOnlyNonRecursive,
    /// Reading, mounts below it included, or an error.
    ReadOnlyForceRecursive,
}

/// A mount with nothing left to look up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedMount {
    /// What.
    pub kind: MountKind,
    /// Where in the container.
    pub destination: String,
    /// How.
    pub access: Access,
}

impl ResolvedMount {
    /// A writable bind mount with the mounts below it.
    pub fn bind(source: impl Into<PathBuf>, destination: impl Into<String>) -> Self {
        let kind =
            MountKind::Bind { source: source.into(), recursive: true, propagation: String::new() };
        Self { kind, destination: destination.into(), access: Access::ReadWrite }
    }
}

/// The first kernel whose mounts can be made read-only all at once.
const RECURSIVE_READ_ONLY: (u32, u32) = (5, 12);

/// What the list depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Plan<'a> {
    pub mounts: &'a [ResolvedMount],
    pub shm_size: i64,
    /// No `/dev/shm` at all, for `--ipc none`.
    pub no_shm: bool,
    pub read_only_root: bool,
    pub writable_sys: bool,
    pub writable_cgroups: bool,
    pub kernel: (u32, u32),
}

/// The OCI `mounts`, and the root's propagation.
pub(crate) fn to_oci(plan: Plan<'_>) -> Result<(Vec<Value>, &'static str), RuntimeError> {
    let mut user: Vec<&ResolvedMount> = plan.mounts.iter().collect();
    // A mount below another one comes after it.
    user.sort_by_key(|mount| depth(&mount.destination));
    let is_user = |place: &str| user.iter().any(|mount| clean(&mount.destination) == place);
    let mut list = Vec::new();
    for default in defaults(plan.shm_size) {
        let under_dev = default.place.starts_with("/dev/") && is_user("/dev");
        let unwanted = default.place == "/dev/shm" && plan.no_shm;
        if under_dev || unwanted || is_user(default.place) {
            continue;
        }
        list.push(default.into_oci(plan));
    }
    let mut propagation = Propagation::Private;
    for mount in user {
        propagation = propagation.max(wanted_propagation(mount)?);
        list.push(user_mount(mount, plan.kernel)?);
    }
    Ok((list, propagation.name()))
}

struct Default {
    place: &'static str,
    kind: &'static str,
    source: &'static str,
    options: Vec<String>,
}

impl Default {
    fn new(place: &'static str, kind: &'static str, source: &'static str, options: &str) -> Self {
        let options = options.split(',').map(str::to_owned).collect();
        Self { place, kind, source, options }
    }

    fn into_oci(mut self, plan: Plan<'_>) -> Value {
        let writable = match self.place {
            "/sys" => plan.writable_sys,
            "/sys/fs/cgroup" => plan.writable_cgroups,
            _ => false,
        };
        if writable {
            self.options.retain(|option| option != "ro");
        } else if plan.read_only_root
            && self.place.starts_with("/sys")
            && !self.options.iter().any(|option| option == "ro")
        {
            self.options.push("ro".to_owned());
        }
        json!({
            "destination": self.place, "type": self.kind,
            "source": self.source, "options": self.options,
        })
    }
}

fn defaults(shm_size: i64) -> Vec<Default> {
    let shm = format!("nosuid,noexec,nodev,mode=1777,size={shm_size}");
    #[rustfmt::skip]
    let list = vec![
        Default::new("/proc",          "proc",   "proc",   "nosuid,noexec,nodev"),
        Default::new("/dev",           "tmpfs",  "tmpfs",  "nosuid,strictatime,mode=755,size=65536k"),
        Default::new("/dev/pts",       "devpts", "devpts", "nosuid,noexec,newinstance,ptmxmode=0666,mode=0620,gid=5"),
        Default::new("/sys",           "sysfs",  "sysfs",  "nosuid,noexec,nodev,ro"),
        Default::new("/sys/fs/cgroup", "cgroup", "cgroup", "ro,nosuid,noexec,nodev"),
        Default::new("/dev/mqueue",    "mqueue", "mqueue", "nosuid,noexec,nodev"),
        Default::new("/dev/shm",       "tmpfs",  "shm",    &shm),
    ];
    list
}

fn user_mount(mount: &ResolvedMount, kernel: (u32, u32)) -> Result<Value, RuntimeError> {
    let destination = &mount.destination;
    check_destination(destination)?;
    let (source, recursive, propagation) = match &mount.kind {
        MountKind::Tmpfs { options } => {
            let mut options = tmpfs_options(options)?;
            if mount.access != Access::ReadWrite && !options.iter().any(|option| option == "ro") {
                options.push("ro".to_owned());
            }
            return Ok(json!({
                "destination": destination, "type": "tmpfs", "source": "tmpfs", "options": options,
            }));
        }
        MountKind::Bind { source, recursive, propagation } => (source, *recursive, propagation),
    };
    let mut options = vec![if recursive { "rbind" } else { "bind" }];
    let can = kernel >= RECURSIVE_READ_ONLY;
    match mount.access {
        Access::ReadWrite => {}
        Access::ReadOnlyForceRecursive if !can => {
            return Err(RuntimeError::invalid(
                "kernel does not support recursively read-only mounts: needs 5.12 or newer",
            ));
        }
        Access::ReadOnly | Access::ReadOnlyForceRecursive if can => options.push("rro"),
        Access::ReadOnly | Access::ReadOnlyNonRecursive | Access::ReadOnlyForceRecursive => {
            options.push("ro");
        }
    }
    options.push(if propagation.is_empty() { "rprivate" } else { propagation });
    Ok(json!({
        "destination": destination, "type": "bind", "source": source, "options": options,
    }))
}

/// libcontainer gives all mounts of a container the propagation of its root and ignores what a
/// single one says, so the strongest wish decides for all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Propagation {
    Private,
    Slave,
    Shared,
}

impl Propagation {
    fn name(self) -> &'static str {
        match self {
            Self::Private => "private",
            Self::Slave => "slave",
            Self::Shared => "shared",
        }
    }
}

fn wanted_propagation(mount: &ResolvedMount) -> Result<Propagation, RuntimeError> {
    let MountKind::Bind { source, propagation, .. } = &mount.kind else {
        return Ok(Propagation::Private);
    };
    let (wanted, accepted, what): (_, &[&str], _) = match propagation.as_str() {
        "" | "private" | "rprivate" => return Ok(Propagation::Private),
        "shared" | "rshared" => (Propagation::Shared, &["shared:"], "shared"),
        "slave" | "rslave" => (Propagation::Slave, &["shared:", "master:"], "shared or slave"),
        other => {
            return Err(RuntimeError::invalid(format!("invalid propagation mode: {other}")));
        }
    };
    let table = Path::new("/proc/self/mountinfo");
    let text = fs::read_to_string(table)
        .map_err(|error| RuntimeError::Read { path: table.to_owned(), source: error })?;
    let real = fs::canonicalize(source)
        .map_err(|error| RuntimeError::Stat { path: source.clone(), source: error })?;
    let (place, tags) = mount_of(&text, &real).unwrap_or(("/", ""));
    if tags.split(' ').any(|tag| accepted.iter().any(|prefix| tag.starts_with(prefix))) {
        return Ok(wanted);
    }
    Err(RuntimeError::invalid(format!(
        "path {} is mounted on {place} but it is not a {what} mount",
        source.display()
    )))
}

/// The mount that `path` is on: its place and its optional fields. The later of equals covers
/// the earlier.
fn mount_of<'a>(mountinfo: &'a str, path: &Path) -> Option<(&'a str, &'a str)> {
    mountinfo
        .lines()
        .filter_map(|line| {
            let (left, _) = line.split_once(" - ")?;
            let mut fields = left.splitn(7, ' ');
            let place = fields.nth(4)?;
            Some((place, fields.nth(1).unwrap_or_default()))
        })
        .filter(|(place, _)| path.starts_with(place))
        .max_by_key(|(place, _)| place.len())
}

/// Absolute, and not the root.
pub(crate) fn check_destination(destination: &str) -> Result<(), RuntimeError> {
    if clean(destination) == "/" {
        return Err(RuntimeError::invalid("invalid specification: destination can't be '/'"));
    }
    if !destination.starts_with('/') {
        return Err(RuntimeError::invalid(format!(
            "invalid mount path: '{destination}' mount path must be absolute"
        )));
    }
    Ok(())
}

/// Go's `path.Clean` for absolute paths.
pub(crate) fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => drop(parts.pop()),
            part => parts.push(part),
        }
    }
    let cleaned = parts.join("/");
    if path.starts_with('/') { format!("/{cleaned}") } else { cleaned }
}

fn depth(path: &str) -> usize {
    clean(path).matches('/').count()
}

/// `--tmpfs`'s options with Docker's defaults before them; the last of two that conflict stays.
pub(crate) fn tmpfs_options(data: &str) -> Result<Vec<String>, RuntimeError> {
    const FLAGS: [(&str, &[&str]); 10] = [
        ("access", &["ro", "rw"]),
        ("suid", &["suid", "nosuid"]),
        ("dev", &["dev", "nodev"]),
        ("exec", &["exec", "noexec"]),
        ("sync", &["sync", "async"]),
        ("dirsync", &["dirsync"]),
        ("mand", &["mand", "nomand"]),
        ("atime", &["atime", "noatime", "relatime", "norelatime", "strictatime", "nostrictatime"]),
        ("diratime", &["diratime", "nodiratime"]),
        ("propagation", &["private", "rprivate", "shared", "rshared", "slave", "rslave"]),
    ];
    const KEYS: [&str; 7] = ["size", "mode", "uid", "gid", "nr_inodes", "nr_blocks", "mpol"];
    let defaults = ["noexec", "nosuid", "nodev", "rprivate"];
    let given = data.split(',').filter(|option| !option.is_empty() && *option != "defaults");
    let mut kept: Vec<(&str, &str)> = Vec::new();
    for option in defaults.into_iter().chain(given) {
        let flag = FLAGS.iter().find(|(_, names)| names.contains(&option)).map(|(key, _)| *key);
        let key = match (flag, option.split_once('=')) {
            (Some(key), _) => key,
            (None, Some((key, _))) if KEYS.contains(&key) => key,
            (None, Some((key, value))) => {
                return Err(RuntimeError::invalid(format!(
                    "invalid tmpfs option [{key:?} {value:?}]"
                )));
            }
            (None, None) => {
                return Err(RuntimeError::invalid(format!("invalid tmpfs option [{option:?}]")));
            }
        };
        kept.retain(|(other, _)| *other != key);
        kept.push((key, option));
    }
    Ok(kept.into_iter().map(|(_, option)| option.to_owned()).collect())
}

/// The options of `--mount type=tmpfs` as the text that `--tmpfs` takes.
pub fn tmpfs_data(options: Option<&TmpfsOptions>, access: Access) -> Result<String, RuntimeError> {
    let mut parts = Vec::new();
    if access != Access::ReadWrite {
        parts.push("ro".to_owned());
    }
    let Some(options) = options else { return Ok(parts.join(",")) };
    if options.mode != 0 {
        parts.push(format!("mode={:o}", options.mode));
    }
    if options.size_bytes != 0 {
        parts.push(format!("size={}", options.size_bytes));
    }
    for option in &options.options {
        match option.as_slice() {
            [name] if matches!(name.as_str(), "exec" | "noexec") => parts.push(name.clone()),
            [name] | [name, _] => {
                return Err(RuntimeError::invalid(format!("invalid option: {name}")));
            }
            _ => return Err(RuntimeError::invalid("invalid option array length")),
        }
    }
    Ok(parts.join(","))
}

/// The mount that keeps the shared memory of a shareable container where others can join it.
/// The watcher makes it on the host; the container gets it as a bind mount on `/dev/shm`.
pub fn shareable_shm(place: &Path, size: i64) -> berth_shim_proto::Mount {
    berth_shim_proto::Mount {
        fs_type: "tmpfs".to_owned(),
        source: PathBuf::from("shm"),
        target: place.to_owned(),
        work_dir: None,
        options: ["nosuid", "noexec", "nodev", "mode=1777"]
            .into_iter()
            .map(str::to_owned)
            .chain([format!("size={size}")])
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAN: Plan<'static> = Plan {
        mounts: &[],
        shm_size: 64 << 20,
        no_shm: false,
        read_only_root: false,
        writable_sys: false,
        writable_cgroups: false,
        kernel: (6, 1),
    };

    fn places(plan: Plan<'_>) -> Vec<String> {
        let (list, _) = to_oci(plan).unwrap();
        list.iter().map(|mount| mount["destination"].as_str().unwrap().to_owned()).collect()
    }

    fn options(plan: Plan<'_>, place: &str) -> Vec<String> {
        let (list, _) = to_oci(plan).unwrap();
        let mount = list.into_iter().find(|mount| mount["destination"] == place).unwrap();
        serde_json::from_value(mount["options"].clone()).unwrap()
    }

    #[test]
    fn own_mounts_replace_dockers_and_come_in_order() {
        let mounts = [ResolvedMount::bind("/srv", "/a/b"), ResolvedMount::bind("/srv", "/dev/")];
        assert_eq!(
            places(Plan { mounts: &mounts, ..PLAN }),
            ["/proc", "/sys", "/sys/fs/cgroup", "/dev/", "/a/b"]
        );
        let shm = [ResolvedMount::bind("/shm", "/dev/shm")];
        let all = ["/proc", "/dev", "/dev/pts", "/sys", "/sys/fs/cgroup", "/dev/mqueue"];
        assert_eq!(places(Plan { mounts: &shm, ..PLAN }), [&all[..], &["/dev/shm"]].concat());
        assert_eq!(places(Plan { no_shm: true, ..PLAN }), all);
    }

    #[test]
    fn privileged_and_read_only_containers_have_other_options() {
        let writable = Plan { writable_sys: true, writable_cgroups: true, ..PLAN };
        assert_eq!(options(writable, "/sys"), ["nosuid", "noexec", "nodev"]);
        assert_eq!(options(writable, "/sys/fs/cgroup"), ["nosuid", "noexec", "nodev"]);
        assert_eq!(options(PLAN, "/sys/fs/cgroup"), ["ro", "nosuid", "noexec", "nodev"]);
        assert_eq!(
            options(PLAN, "/dev/shm"),
            ["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]
        );
        let dev = options(Plan { read_only_root: true, ..PLAN }, "/dev");
        assert!(!dev.contains(&"ro".to_owned()), "{dev:?}");
    }

    #[test]
    fn bind_mounts() {
        let check = |mount: ResolvedMount, kernel| {
            to_oci(Plan { mounts: &[mount], kernel, ..PLAN })
                .map(|(list, _)| list.last().unwrap()["options"].clone())
                .map_err(|error| error.to_string())
        };
        let bind = |access| ResolvedMount { access, ..ResolvedMount::bind("/etc", "/x") };
        let flat = ResolvedMount {
            kind: MountKind::Bind {
                source: "/etc".into(),
                recursive: false,
                propagation: "private".to_owned(),
            },
            ..bind(Access::ReadOnlyNonRecursive)
        };
        let force = bind(Access::ReadOnlyForceRecursive);
        let no = "kernel does not support recursively read-only mounts: needs 5.12 or newer";
        #[rustfmt::skip]
        let table = [
            (bind(Access::ReadWrite),   (6, 1), Ok(json!(["rbind", "rprivate"]))),
            (bind(Access::ReadOnly),    (6, 1), Ok(json!(["rbind", "rro", "rprivate"]))),
            (bind(Access::ReadOnly),    (5, 4), Ok(json!(["rbind", "ro", "rprivate"]))),
            (force.clone(),             (6, 1), Ok(json!(["rbind", "rro", "rprivate"]))),
            (force,                     (5, 4), Err(no.to_owned())),
            (flat,                      (6, 1), Ok(json!(["bind", "ro", "private"]))),
        ];
        for (mount, kernel, expected) in table {
            assert_eq!(check(mount.clone(), kernel), expected, "{mount:?} {kernel:?}");
        }
    }

    #[test]
    fn tmpfs_options_are_merged_as_docker_merges_them() {
        #[rustfmt::skip]
        let table: &[(&str, Result<&[&str], &str>)] = &[
            ("",                    Ok(&["noexec", "nosuid", "nodev", "rprivate"])),
            ("exec,size=64m",       Ok(&["nosuid", "nodev", "rprivate", "exec", "size=64m"])),
            ("rw,noexec,ro",        Ok(&["nosuid", "nodev", "rprivate", "noexec", "ro"])),
            ("size=1,size=2,mode=700", Ok(&["noexec", "nosuid", "nodev", "rprivate", "size=2", "mode=700"])),
            ("huge=always",         Err("invalid tmpfs option [\"huge\" \"always\"]")),
            ("bogus",               Err("invalid tmpfs option [\"bogus\"]")),
        ];
        for (data, expected) in table {
            let got = tmpfs_options(data).map_err(|error| error.to_string());
            let expected = expected
                .map(|list| list.iter().map(|option| (*option).to_owned()).collect())
                .map_err(str::to_owned);
            assert_eq!(got, expected, "{data}");
        }
        let options = TmpfsOptions { size_bytes: 1024, mode: 0o1770, ..TmpfsOptions::default() };
        assert_eq!(tmpfs_data(Some(&options), Access::ReadOnly).unwrap(), "ro,mode=1770,size=1024");
    }

    #[test]
    fn the_mount_of_a_path_is_the_deepest_and_last() {
        let table = "1 0 8:1 / / rw shared:1 - ext4 a rw\n2 1 8:2 / /mnt rw - ext4 b rw\n\
            3 2 8:3 / /mnt rw shared:7 master:1 - ext4 c rw\n4 1 8:4 / /mntx rw - ext4 d rw\n";
        #[rustfmt::skip]
        let cases = [
            ("/home",    Some(("/", "shared:1"))),
            ("/mnt/a",   Some(("/mnt", "shared:7 master:1"))),
            ("/mntx",    Some(("/mntx", ""))),
        ];
        for (path, expected) in cases {
            assert_eq!(mount_of(table, Path::new(path)), expected, "{path}");
        }
    }

    #[test]
    fn paths_are_cleaned_as_go_cleans_them() {
        for (path, expected) in [("/a//b/../c/.", "/a/c"), ("/..", "/"), ("/", "/"), ("a/..", "")] {
            assert_eq!(clean(path), expected, "{path}");
        }
    }
}
