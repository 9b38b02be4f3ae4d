//! What this machine, and this daemon on it, can do for a container.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use rustix::process::{Resource, getrlimit};

use crate::caps::CapSet;
use crate::cgroup::Cgroups;

/// Facts about the machine, read once at start.
#[derive(Debug, Clone)]
pub struct Host {
    /// The capabilities that the daemon holds and can pass on.
    pub caps: CapSet,
    /// Cgroups and their controllers.
    pub cgroups: Cgroups,
    /// How many processors there are.
    pub cpus: u32,
    /// The kernel's `(major, minor)`.
    pub kernel: (u32, u32),
    /// Whether the kernel has seccomp filters.
    pub seccomp: bool,
    /// Whether AppArmor is on.
    pub apparmor: bool,
    /// Whether there are cgroup namespaces.
    pub cgroup_namespaces: bool,
    /// Whether packets are forwarded between interfaces.
    pub ipv4_forwarding: bool,
    /// The daemon's hard resource limits by Docker's name; missing means unlimited.
    pub hard_limits: BTreeMap<&'static str, u64>,
    /// The daemon's own `oom_score_adj`: the lowest a container can have without `CAP_SYS_RESOURCE`.
    pub oom_score_adj: i64,
    /// Directories under `/sys` with the processors' temperatures, which are masked.
    pub thermal: Vec<String>,
}

/// Docker's names of resource limits.
pub const LIMITS: [(&str, Resource); 15] = [
    ("core", Resource::Core),
    ("cpu", Resource::Cpu),
    ("data", Resource::Data),
    ("fsize", Resource::Fsize),
    ("locks", Resource::Locks),
    ("memlock", Resource::Memlock),
    ("msgqueue", Resource::Msgqueue),
    ("nice", Resource::Nice),
    ("nofile", Resource::Nofile),
    ("nproc", Resource::Nproc),
    ("rss", Resource::Rss),
    ("rtprio", Resource::Rtprio),
    ("rttime", Resource::Rttime),
    ("sigpending", Resource::Sigpending),
    ("stack", Resource::Stack),
];

const SYS_RESOURCE: &str = "CAP_SYS_RESOURCE";

impl Host {
    /// Looks at the machine. What cannot be read counts as not there.
    pub fn detect() -> Self {
        let status = read("/proc/self/status");
        let hard_limits = LIMITS
            .iter()
            .filter_map(|(name, resource)| Some((*name, getrlimit(*resource).maximum?)))
            .collect();
        Self {
            caps: CapSet::parse_status(&status, "CapEff").unwrap_or_else(CapSet::full),
            cgroups: Cgroups::detect(),
            cpus: online_cpus(),
            kernel: parse_kernel(&rustix::system::uname().release().to_string_lossy()),
            seccomp: status.lines().any(|line| line.starts_with("Seccomp:")),
            apparmor: read("/sys/module/apparmor/parameters/enabled").trim() == "Y",
            cgroup_namespaces: is_there(Path::new("/proc/self/ns/cgroup")),
            ipv4_forwarding: read("/proc/sys/net/ipv4/ip_forward").trim() == "1",
            hard_limits,
            oom_score_adj: read("/proc/self/oom_score_adj").trim().parse().unwrap_or(0),
            thermal: thermal_paths(),
        }
    }

    /// Whether limits may be raised and out-of-memory scores lowered.
    pub fn may_raise_limits(&self) -> bool {
        self.caps.has(SYS_RESOURCE)
    }

    /// A machine with everything, for tables.
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        Self {
            caps: CapSet::full(),
            cgroups: Cgroups::full(),
            cpus: 4,
            kernel: (6, 1),
            seccomp: true,
            apparmor: false,
            cgroup_namespaces: true,
            ipv4_forwarding: true,
            hard_limits: BTreeMap::new(),
            oom_score_adj: 0,
            thermal: Vec::new(),
        }
    }
}

/// The program that Docker calls `docker-init`: `given`, or the first one found on this host.
pub fn find_init(given: Option<&Path>) -> Option<PathBuf> {
    const PLACES: [&str; 7] = [
        "/usr/local/libexec/docker/docker-init",
        "/usr/libexec/docker/docker-init",
        "/usr/local/bin/docker-init",
        "/usr/bin/docker-init",
        "/usr/bin/tini-static",
        "/usr/bin/tini",
        "/sbin/tini",
    ];
    if let Some(given) = given {
        return is_there(given).then(|| given.to_owned());
    }
    PLACES.iter().map(PathBuf::from).find(|path| is_there(path))
}

pub(crate) fn is_there(path: &Path) -> bool {
    path.try_exists().unwrap_or(false)
}

fn read(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default()
}

fn online_cpus() -> u32 {
    let online = crate::limits::parse_list(read("/sys/devices/system/cpu/online").trim());
    let count = online.map_or(0, |cpus| cpus.len());
    u32::try_from(count).unwrap_or(0).max(1)
}

fn parse_kernel(release: &str) -> (u32, u32) {
    let mut parts = release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse().ok());
    let mut next = || parts.next().flatten().unwrap_or(0);
    (next(), next())
}

fn thermal_paths() -> Vec<String> {
    let possible = crate::limits::parse_list(read("/sys/devices/system/cpu/possible").trim());
    possible
        .unwrap_or_default()
        .into_iter()
        .map(|cpu| format!("/sys/devices/system/cpu/cpu{cpu}/thermal_throttle"))
        .filter(|path| is_there(Path::new(path)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kernel_versions() {
        #[rustfmt::skip]
        let table = [
            ("6.18.0-rc1+",     (6, 18)),
            ("4.19",            (4, 19)),
            ("5",               (5, 0)),
            ("",                (0, 0)),
        ];
        for (release, expected) in table {
            assert_eq!(parse_kernel(release), expected, "{release}");
        }
    }

    #[test]
    fn this_machine_can_be_looked_at() {
        let host = Host::detect();
        assert!(host.cpus >= 1 && host.kernel >= (4, 0), "{host:?}");
        assert!(host.caps.has("CAP_CHOWN") || !rustix::process::geteuid().is_root());
    }
}
