//! Docker's settings as an OCI runtime specification.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use berth_api::container::{ContainerConfig, HostConfig};
use berth_shim_proto::Failure;
use berth_types::IdMaps;
use serde_json::{Map, Value, json};

use crate::caps::{self, CapSet};
use crate::devices::{self, Node, Rule};
use crate::error::RuntimeError;
use crate::host::{Host, is_there};
use crate::limits;
use crate::mounts::{self, MountKind, Plan, ResolvedMount};
use crate::process::{capabilities, user_to_oci};
use crate::seccomp::{self, Circumstances, Filter};
use crate::security::{BUILTIN, Security, UNCONFINED};
use crate::user::{Accounts, User};

mod env;
#[cfg(test)]
mod tests;

pub(crate) use env::{merge as merge_env, set_home};

/// Where `--init`'s program is in a container.
pub const INIT_PATH: &str = "/sbin/docker-init";
/// Where containers' groups are when nothing is said.
pub const CGROUP_PARENT: &str = "/berth";
/// Docker's exit code of a container that could not be started, but for its program.
const NOT_STARTED: i32 = 128;
/// Where a container sees control groups.
const CGROUPS: &str = "/sys/fs/cgroup";

/// Which network stack a container has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Network {
    /// One made for it by the runtime, with nothing but `lo`: `--network none`.
    New,
    /// One that the daemon has made for it.
    Own(PathBuf),
    /// Another container's.
    Join(PathBuf),
    /// The host's.
    Host,
}

/// The user namespace that a container is created in.
#[derive(Debug, Clone)]
pub struct Users<'a> {
    /// Its file.
    pub namespace: PathBuf,
    /// Its maps.
    pub ids: &'a IdMaps,
}

/// Files of the container's directory that show up in its `/etc`. Left out where the container
/// has a mount of its own.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct EtcFiles {
    pub hosts: Option<PathBuf>,
    pub hostname: Option<PathBuf>,
    pub resolv_conf: Option<PathBuf>,
}

/// All that a specification is made of. The settings were validated and their defaults filled in.
#[derive(Debug, Clone)]
pub struct SpecInput<'a> {
    /// The container's full id.
    pub id: &'a str,
    /// The container's settings, the image's merged in.
    pub config: &'a ContainerConfig,
    /// The host-side settings.
    pub host_config: &'a HostConfig,
    /// Where the root is mounted when the container is created.
    pub root: &'a Path,
    /// Binds, volumes and `--mount type=tmpfs`; `--tmpfs` is read from the settings.
    pub mounts: &'a [ResolvedMount],
    /// The host name; the host's own with `--uts host`.
    pub hostname: &'a str,
    /// The network.
    pub network: Network,
    /// A user namespace; without one the container has the host's users.
    pub users: Option<Users<'a>>,
    /// The IPC namespace of another container (`/proc/PID/ns/ipc`), for `--ipc container:`.
    pub join_ipc: Option<PathBuf>,
    /// The process namespace of another container, for `--pid container:`.
    pub join_pid: Option<PathBuf>,
    /// A directory of the host for `/dev/shm`: this container's own when it is shareable, the
    /// other one's with `--ipc container:`. Without it, it is a tmpfs inside.
    pub shm: Option<PathBuf>,
    /// Files for `/etc`.
    pub etc: EtcFiles,
    /// The root's account files.
    pub accounts: &'a Accounts,
    /// More environment, from links.
    pub link_env: &'a [String],
    /// The daemon's `--cgroup-parent`; empty for [`CGROUP_PARENT`].
    pub cgroup_parent: &'a str,
    /// Whether the daemon was started with `--init`.
    pub default_init: bool,
    /// The host's init program, as [`find_init`](crate::host::find_init) found it.
    pub init_binary: Option<&'a Path>,
    /// The daemon's own `--seccomp-profile`: `unconfined` or a profile's JSON.
    pub default_seccomp: Option<&'a str>,
    /// The daemon's own `--no-new-privileges`.
    pub default_no_new_privileges: bool,
    /// The machine.
    pub host: &'a Host,
}

/// A specification and what belongs beside it.
#[derive(Debug, Clone, PartialEq)]
pub struct Built {
    /// The specification, complete but for the filter.
    pub spec: Value,
    /// The container's capabilities; they are in the specification as well.
    pub caps: CapSet,
    /// The seccomp filter, when there is one.
    pub filter: Option<Arc<Filter>>,
    /// The device rules, for the program that enforces them on version 2 control groups.
    pub device_rules: Vec<Rule>,
    /// For [`ShimConfig`](berth_shim_proto::ShimConfig). It is not in the specification, for
    /// libcontainer would give it to the watcher.
    pub oom_score_adj: i32,
    /// The container's group.
    pub cgroups_path: String,
    /// What was lowered or left out, to be logged.
    pub warnings: Vec<String>,
}

/// Makes the specification.
pub fn build(input: &SpecInput<'_>) -> Result<Built, RuntimeError> {
    let SpecInput { config, host_config, host, .. } = *input;
    let security = Security::parse(host_config)?;
    let mut warnings = Vec::new();
    let oom_score_adj = limits::oom_score_adj(host_config, host, &mut warnings);
    let caps = container_caps(input)?;
    let mut mounts = all_mounts(input)?;
    let args = final_args(input, &mut mounts)?;
    let user = input.accounts.resolve(&config.user, &host_config.group_add)?;
    if let Some(users) = &input.users {
        check_mapped(&user, users.ids, NOT_STARTED)?;
    }
    let (mut nodes, device_rules) = device_access(host_config)?;
    if input.users.is_some() {
        // Nodes cannot be made in a user namespace, and libcontainer binds them from the path that
        // they have inside.
        let bind = |node: Node| ResolvedMount::bind(node.host, node.path);
        mounts.extend(nodes.drain(..).map(bind));
    }
    let (mounts, propagation) = mounts_to_oci(input, &security, &mounts)?;
    let cgroups_path = cgroups_path(input)?;

    let process = process(input, &security, &args, &user, &caps, &mut warnings);
    let mut resources = limits::to_oci(host_config)?;
    resources["devices"] = device_rules.iter().map(|rule| rule.to_oci()).collect();
    let mut linux = Map::new();
    linux.insert("namespaces".to_owned(), namespaces(input));
    linux.insert("cgroupsPath".to_owned(), json!(cgroups_path));
    linux.insert("rootfsPropagation".to_owned(), json!(propagation));
    linux.insert("resources".to_owned(), resources);
    linux.insert("devices".to_owned(), nodes.iter().map(Node::to_oci).collect());
    linux.insert("sysctl".to_owned(), sysctls(input));
    hidden_paths(input, &security, &mut linux);
    let filter = seccomp_filter(input, &security, &caps)?;
    let mut spec = json!({
        "ociVersion": "1.2.0",
        "process": process,
        "root": { "path": input.root, "readonly": host_config.readonly_rootfs },
        "mounts": mounts,
        "linux": linux,
    });
    if host_config.uts_mode != "host" {
        spec["hostname"] = json!(input.hostname);
        if !config.domainname.is_empty() {
            spec["domainname"] = json!(config.domainname);
        }
    }
    if !host_config.annotations.is_empty() {
        spec["annotations"] = json!(*host_config.annotations);
    }
    let caps = CapSet::of(&caps);
    Ok(Built { spec, caps, filter, device_rules, oom_score_adj, cgroups_path, warnings })
}

/// The capabilities of the container's processes.
pub(crate) fn container_caps(input: &SpecInput<'_>) -> Result<Vec<String>, RuntimeError> {
    let HostConfig { cap_add, cap_drop, privileged, .. } = input.host_config;
    Ok(caps::resolve(cap_add, cap_drop, *privileged, input.host.caps)?)
}

/// Entrypoint and command in one list, the program first.
pub fn args(config: &ContainerConfig) -> Result<Vec<String>, RuntimeError> {
    let args: Vec<String> = config.entrypoint.iter().chain(config.cmd.iter()).cloned().collect();
    if args.first().is_none_or(String::is_empty) {
        return Err(RuntimeError::invalid("no command specified"));
    }
    if let Some(arg) = args.iter().find(|arg| arg.contains('\0')) {
        return Err(RuntimeError::invalid(format!("an argument contains a NUL byte: {arg:?}")));
    }
    Ok(args)
}

/// Puts `--init`'s program in front, where the container is its own process tree.
fn final_args(
    input: &SpecInput<'_>,
    mounts: &mut Vec<ResolvedMount>,
) -> Result<Vec<String>, RuntimeError> {
    let args = args(input.config)?;
    let wanted = input.host_config.init.unwrap_or(input.default_init);
    if !wanted || !input.host_config.pid_mode.is_empty() {
        return Ok(args);
    }
    let binary = input.init_binary.ok_or(RuntimeError::NoInit)?;
    let mut mount = ResolvedMount::bind(binary, INIT_PATH);
    mount.access = mounts::Access::ReadOnlyNonRecursive;
    mounts.push(mount);
    Ok([INIT_PATH, "--"].into_iter().map(str::to_owned).chain(args).collect())
}

/// The mounts asked for, and the ones that a container always has.
fn all_mounts(input: &SpecInput<'_>) -> Result<Vec<ResolvedMount>, RuntimeError> {
    let mut mounts = input.mounts.to_vec();
    for (destination, options) in &input.host_config.tmpfs {
        mounts.push(ResolvedMount {
            kind: MountKind::Tmpfs { options: options.clone() },
            destination: destination.clone(),
            access: mounts::Access::ReadWrite,
        });
    }
    let mut seen: Vec<String> = Vec::new();
    for mount in &mounts {
        let place = mounts::clean(&mount.destination);
        if seen.contains(&place) {
            return Err(RuntimeError::invalid(format!("Duplicate mount point: {place}")));
        }
        seen.push(place);
    }
    let etc = &input.etc;
    let host_shm = PathBuf::from("/dev/shm");
    let shm =
        if input.host_config.ipc_mode == "host" { Some(&host_shm) } else { input.shm.as_ref() };
    let own = [
        (etc.resolv_conf.as_ref(), "/etc/resolv.conf"),
        (etc.hostname.as_ref(), "/etc/hostname"),
        (etc.hosts.as_ref(), "/etc/hosts"),
        (shm, "/dev/shm"),
    ];
    for (source, destination) in own {
        if let Some(source) = source
            && !seen.iter().any(|place| place == destination)
        {
            let mut mount = ResolvedMount::bind(source, destination);
            if input.host_config.readonly_rootfs && destination.starts_with("/etc/") {
                mount.access = mounts::Access::ReadOnlyNonRecursive;
            }
            mounts.push(mount);
        }
    }
    Ok(mounts)
}

fn mounts_to_oci(
    input: &SpecInput<'_>,
    security: &Security,
    mounts: &[ResolvedMount],
) -> Result<(Vec<Value>, &'static str), RuntimeError> {
    let host_config = input.host_config;
    mounts::to_oci(Plan {
        mounts,
        shm_size: host_config.shm_size,
        no_shm: host_config.ipc_mode == "none",
        read_only_root: host_config.readonly_rootfs,
        writable_sys: host_config.privileged,
        writable_cgroups: security.writable_cgroups.unwrap_or(host_config.privileged),
        kernel: input.host.kernel,
    })
}

fn process(
    input: &SpecInput<'_>,
    security: &Security,
    args: &[String],
    user: &User,
    caps: &[String],
    warnings: &mut Vec<String>,
) -> Value {
    let SpecInput { config, host_config, host, .. } = *input;
    let cwd = if config.working_dir.is_empty() { "/" } else { &config.working_dir };
    let mut env = env::of_container(config, input.hostname, input.link_env);
    set_home(&mut env, &user.home);
    let mut process = json!({
        "terminal": config.tty,
        "user": user_to_oci(user),
        "args": args,
        "env": env,
        "cwd": mounts::clean(cwd),
        "capabilities": capabilities(caps),
        "rlimits": limits::rlimits(&host_config.ulimits, host, warnings),
    });
    let [height, width] = host_config.console_size;
    if config.tty && height > 0 && width > 0 {
        process["consoleSize"] = json!({ "height": height, "width": width });
    }
    if security.no_new_privileges || input.default_no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    if let Some(profile) = &security.apparmor
        && host.apparmor
        && profile != UNCONFINED
    {
        process["apparmorProfile"] = json!(profile);
    }
    process
}

fn namespaces(input: &SpecInput<'_>) -> Value {
    let HostConfig { ipc_mode, pid_mode, uts_mode, cgroupns_mode, .. } = input.host_config;
    let mut list = vec![json!({ "type": "mount" })];
    let mut add = |kind: &str, path: Option<&Path>| match path {
        Some(path) => list.push(json!({ "type": kind, "path": path })),
        None => list.push(json!({ "type": kind })),
    };
    match &input.network {
        Network::New => add("network", None),
        Network::Own(path) | Network::Join(path) => add("network", Some(path)),
        Network::Host => {}
    }
    if uts_mode != "host" {
        add("uts", None);
    }
    if pid_mode != "host" {
        add("pid", input.join_pid.as_deref());
    }
    if ipc_mode != "host" {
        add("ipc", input.join_ipc.as_deref());
    }
    if cgroupns_mode == "private" && input.host.cgroup_namespaces {
        add("cgroup", None);
    }
    if let Some(users) = &input.users {
        add("user", Some(&users.namespace));
    }
    Value::Array(list)
}

/// Unprivileged pings and ports below 1024 where the network is the container's own, and what
/// was asked for.
fn sysctls(input: &SpecInput<'_>) -> Value {
    const PING: (&str, &str) = ("net.ipv4.ping_group_range", "0 2147483647");
    const PORTS: (&str, &str) = ("net.ipv4.ip_unprivileged_port_start", "0");
    let mut list = Map::new();
    if matches!(input.network, Network::New | Network::Own(_)) {
        // In a user namespace the range's end is nobody.
        let settings = if input.users.is_some() { &[PORTS][..] } else { &[PING, PORTS] };
        for (key, value) in settings {
            if is_there(&Path::new("/proc/sys").join(key.replace('.', "/"))) {
                list.insert((*key).to_owned(), json!(value));
            }
        }
    }
    for (key, value) in &input.host_config.sysctls {
        list.insert(key.clone(), json!(value));
    }
    Value::Object(list)
}

/// Refuses a user or groups that are nobody on the host, in runc's words.
pub(crate) fn check_mapped(user: &User, ids: &IdMaps, exit_code: i32) -> Result<(), RuntimeError> {
    let refuse = |reason: &str| {
        let message = format!("unable to setup user: {reason}");
        Err(RuntimeError::Failed(Failure { exit_code, message }))
    };
    if ids.uids.to_host(user.uid.into()).is_err() {
        return refuse("cannot set uid to unmapped user in user namespace");
    }
    if ids.gids.to_host(user.gid.into()).is_err() {
        return refuse("cannot set gid to unmapped user in user namespace");
    }
    if user.groups.iter().any(|gid| ids.gids.to_host((*gid).into()).is_err()) {
        return refuse("setgroups: invalid argument");
    }
    Ok(())
}

fn device_access(host_config: &HostConfig) -> Result<(Vec<Node>, Vec<Rule>), RuntimeError> {
    let mut nodes = Vec::new();
    let mut rules = devices::default_rules();
    if host_config.privileged {
        nodes = devices::host_nodes();
        rules = vec![Rule::parse("a *:* rwm")?];
    }
    for device in &host_config.devices {
        if host_config.privileged && device.path_on_host == device.path_in_container {
            continue;
        }
        let (more, allowed) = devices::mapping(
            &device.path_on_host,
            &device.path_in_container,
            &device.cgroup_permissions,
        )?;
        nodes.retain(|node| !more.iter().any(|new| new.path == node.path));
        nodes.extend(more);
        if !host_config.privileged {
            rules.extend(allowed);
        }
    }
    if !host_config.privileged {
        for rule in &host_config.device_cgroup_rules {
            rules.push(Rule::parse(rule)?);
        }
    }
    Ok((nodes, rules))
}

/// The paths of `/proc` and `/sys` that are masked or read-only; a list that was given, even an
/// empty one, replaces Docker's.
fn hidden_paths(input: &SpecInput<'_>, security: &Security, linux: &mut Map<String, Value>) {
    const MASKED: [&str; 12] = [
        "/proc/asound",
        "/proc/acpi",
        "/proc/interrupts",
        "/proc/kcore",
        "/proc/keys",
        "/proc/latency_stats",
        "/proc/timer_list",
        "/proc/timer_stats",
        "/proc/sched_debug",
        "/proc/scsi",
        "/sys/firmware",
        "/sys/devices/virtual/powercap",
    ];
    const READ_ONLY: [&str; 5] =
        ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];
    let HostConfig { masked_paths, readonly_paths, privileged, .. } = input.host_config;
    let open = *privileged || security.unmasked;
    let masked: Vec<String> = if !masked_paths.is_null() {
        masked_paths.to_vec()
    } else if open {
        Vec::new()
    } else {
        MASKED.into_iter().map(str::to_owned).chain(input.host.thermal.iter().cloned()).collect()
    };
    let mut read_only: Vec<String> = if !readonly_paths.is_null() {
        readonly_paths.to_vec()
    } else if open {
        Vec::new()
    } else {
        READ_ONLY.into_iter().map(str::to_owned).collect()
    };
    // libcontainer 0.7.0 mounts the version 1 hierarchies writable whatever the mount's options
    // say, and a container could lift its own limits.
    let own_mount = input.mounts.iter().any(|mount| mounts::clean(&mount.destination) == CGROUPS);
    if !security.writable_cgroups.unwrap_or(*privileged) && !own_mount {
        read_only.extend(input.host.cgroups.places_inside());
    }
    linux.insert("maskedPaths".to_owned(), json!(masked));
    linux.insert("readonlyPaths".to_owned(), json!(read_only));
}

fn seccomp_filter(
    input: &SpecInput<'_>,
    security: &Security,
    caps: &[String],
) -> Result<Option<Arc<Filter>>, RuntimeError> {
    let around = Circumstances { caps, arch: seccomp::native_arch(), kernel: input.host.kernel };
    let privileged = input.host_config.privileged;
    let profile = match security.seccomp.as_deref().filter(|profile| !profile.is_empty()) {
        Some(profile) => Some(profile),
        None if privileged => return Ok(None),
        None => input.default_seccomp,
    };
    let profile = match profile {
        Some(UNCONFINED) => return Ok(None),
        _ if !input.host.seccomp => return Ok(None),
        None | Some(BUILTIN | "") => None,
        profile => profile,
    };
    Ok(seccomp::filter(profile, around)?)
}

fn cgroups_path(input: &SpecInput<'_>) -> Result<String, RuntimeError> {
    let parents = [input.host_config.cgroup_parent.as_str(), input.cgroup_parent, CGROUP_PARENT];
    let parent = parents.into_iter().find(|parent| !parent.is_empty()).unwrap_or(CGROUP_PARENT);
    check_cgroup_parent(parent)?;
    Ok(format!("{}/{}", mounts::clean(&format!("/{parent}")).trim_end_matches('/'), input.id))
}

/// No way up.
pub(crate) fn check_cgroup_parent(parent: &str) -> Result<(), RuntimeError> {
    if parent.split('/').any(|part| part == "..") || parent.contains('\0') {
        return Err(RuntimeError::invalid(format!("invalid cgroup parent: {parent:?}")));
    }
    Ok(())
}
