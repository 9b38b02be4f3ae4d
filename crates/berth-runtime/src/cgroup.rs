//! Control groups: which version and controllers this machine has, and what a container's say.
//!
//! Reading only; the watcher makes and removes them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use berth_types::Timestamp;

use crate::limits::parse_list;

mod usage;

pub use usage::{IoBytes, Usage};

/// How the kernel's control groups are mounted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    /// Version 1, perhaps with an unused version 2 tree beside it.
    V1,
    /// Version 2 alone.
    V2,
    /// Not at all.
    None,
}

/// What the control groups of this machine can limit.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is a field of /info, or a warning when it is missing")]
pub struct Cgroups {
    pub mode: Mode,
    /// Where each version 1 controller is; the version 2 tree under the empty name.
    pub mounts: BTreeMap<String, PathBuf>,
    pub memory_limit: bool,
    pub swap_limit: bool,
    pub memory_reservation: bool,
    pub oom_kill_disable: bool,
    pub memory_swappiness: bool,
    pub kernel_memory: bool,
    pub kernel_memory_tcp: bool,
    pub cpu_shares: bool,
    pub cpu_cfs: bool,
    pub cpu_realtime: bool,
    pub cpuset: bool,
    pub cpus: String,
    pub mems: String,
    pub pids_limit: bool,
    pub blkio_weight: bool,
    pub blkio_weight_device: bool,
    pub blkio_read_bps: bool,
    pub blkio_write_bps: bool,
    pub blkio_read_iops: bool,
    pub blkio_write_iops: bool,
    pub devices: bool,
}

const UNIFIED: &str = "/sys/fs/cgroup";

impl Cgroups {
    /// Looks at the machine.
    pub fn detect() -> Self {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        Self::from_mountinfo(&mounts)
    }

    fn from_mountinfo(text: &str) -> Self {
        let (v1, v2) = parse_mounts(text);
        if v2.as_deref() == Some(Path::new(UNIFIED)) {
            return Self::v2(Path::new(UNIFIED));
        }
        if v1.is_empty() {
            return Self::nothing();
        }
        Self::v1(v1)
    }

    fn nothing() -> Self {
        Self {
            mode: Mode::None,
            mounts: BTreeMap::new(),
            memory_limit: false,
            swap_limit: false,
            memory_reservation: false,
            oom_kill_disable: false,
            memory_swappiness: false,
            kernel_memory: false,
            kernel_memory_tcp: false,
            cpu_shares: false,
            cpu_cfs: false,
            cpu_realtime: false,
            cpuset: false,
            cpus: String::new(),
            mems: String::new(),
            pids_limit: false,
            blkio_weight: false,
            blkio_weight_device: false,
            blkio_read_bps: false,
            blkio_write_bps: false,
            blkio_read_iops: false,
            blkio_write_iops: false,
            devices: false,
        }
    }

    fn v1(mounts: BTreeMap<String, PathBuf>) -> Self {
        let has = |controller: &str, file: &str| {
            mounts.get(controller).is_some_and(|dir| crate::host::is_there(&dir.join(file)))
        };
        let text =
            |file: &str| mounts.get("cpuset").map_or_else(String::new, |m| read_line(m, file));
        Self {
            mode: Mode::V1,
            memory_limit: mounts.contains_key("memory"),
            swap_limit: has("memory", "memory.memsw.limit_in_bytes"),
            memory_reservation: has("memory", "memory.soft_limit_in_bytes"),
            oom_kill_disable: has("memory", "memory.oom_control"),
            memory_swappiness: has("memory", "memory.swappiness"),
            kernel_memory: has("memory", "memory.kmem.limit_in_bytes"),
            kernel_memory_tcp: has("memory", "memory.kmem.tcp.limit_in_bytes"),
            cpu_shares: has("cpu", "cpu.shares"),
            cpu_cfs: has("cpu", "cpu.cfs_quota_us"),
            cpu_realtime: has("cpu", "cpu.rt_period_us"),
            cpuset: mounts.contains_key("cpuset"),
            cpus: text("cpuset.cpus"),
            mems: text("cpuset.mems"),
            pids_limit: mounts.contains_key("pids"),
            blkio_weight: has("blkio", "blkio.weight") || has("blkio", "blkio.bfq.weight"),
            blkio_weight_device: has("blkio", "blkio.weight_device"),
            blkio_read_bps: has("blkio", "blkio.throttle.read_bps_device"),
            blkio_write_bps: has("blkio", "blkio.throttle.write_bps_device"),
            blkio_read_iops: has("blkio", "blkio.throttle.read_iops_device"),
            blkio_write_iops: has("blkio", "blkio.throttle.write_iops_device"),
            devices: mounts.contains_key("devices"),
            mounts,
        }
    }

    fn v2(root: &Path) -> Self {
        let line = read_line(root, "cgroup.controllers");
        let controllers: BTreeSet<&str> = line.split_whitespace().collect();
        let has = |controller| controllers.contains(controller);
        let io = has("io");
        Self {
            mode: Mode::V2,
            mounts: BTreeMap::from([(String::new(), root.to_owned())]),
            memory_limit: has("memory"),
            swap_limit: has("memory") && swap_is_accounted(root),
            memory_reservation: has("memory"),
            cpu_shares: has("cpu"),
            cpu_cfs: has("cpu"),
            cpuset: has("cpuset"),
            cpus: read_line(root, "cpuset.cpus.effective"),
            mems: read_line(root, "cpuset.mems.effective"),
            pids_limit: has("pids"),
            blkio_weight: io,
            blkio_weight_device: io,
            blkio_read_bps: io,
            blkio_write_bps: io,
            blkio_read_iops: io,
            blkio_write_iops: io,
            devices: true,
            ..Self::nothing()
        }
    }

    /// `CgroupVersion` of `/info`.
    pub fn version(&self) -> &'static str {
        match self.mode {
            Mode::V1 => "1",
            Mode::V2 => "2",
            Mode::None => "",
        }
    }

    /// `CgroupDriver` of `/info`.
    pub fn driver(&self) -> &'static str {
        match self.mode {
            Mode::V1 | Mode::V2 => "cgroupfs",
            Mode::None => "none",
        }
    }

    /// The warnings of `/info` about what is missing, in Docker's order.
    pub fn warnings(&self) -> Vec<String> {
        let v1 = self.mode == Mode::V1;
        #[rustfmt::skip]
        let table = [
            (self.memory_limit,             "WARNING: No memory limit support"),
            (self.swap_limit,               "WARNING: No swap limit support"),
            (self.kernel_memory_tcp || !v1, "WARNING: No kernel memory TCP limit support"),
            (self.oom_kill_disable || !v1,  "WARNING: No oom kill disable support"),
            (self.cpu_cfs,                  "WARNING: No cpu cfs quota support"),
            (self.cpu_cfs,                  "WARNING: No cpu cfs period support"),
            (self.cpu_shares,               "WARNING: No cpu shares support"),
            (self.cpuset,                   "WARNING: No cpuset support"),
        ];
        table.iter().filter(|(there, _)| !there).map(|(_, text)| (*text).to_owned()).collect()
    }

    /// The processors that a container may be bound to.
    pub fn available_cpus(&self) -> BTreeSet<u32> {
        parse_list(&self.cpus).unwrap_or_default()
    }

    /// The memory nodes that a container may be bound to.
    pub fn available_mems(&self) -> BTreeSet<u32> {
        parse_list(&self.mems).unwrap_or_default()
    }

    /// Where a container's group is in `controller`'s hierarchy. Without that controller, `None`.
    pub fn dir(&self, controller: &str, cgroups_path: &str) -> Option<PathBuf> {
        let key = if self.mode == Mode::V2 { "" } else { controller };
        Some(self.mounts.get(key)?.join(cgroups_path.trim_start_matches('/')))
    }

    /// Where a container sees the version 1 hierarchies, each once.
    pub fn places_inside(&self) -> BTreeSet<String> {
        let dirs = self.mounts.values().filter(|_| self.mode == Mode::V1);
        dirs.filter_map(|dir| Some(format!("{UNIFIED}/{}", dir.file_name()?.to_str()?))).collect()
    }

    /// The processes of a container's group and of the groups below it, ascending.
    pub fn processes(&self, cgroups_path: &str) -> io::Result<Vec<i32>> {
        const ANY: [&str; 5] = ["pids", "memory", "devices", "cpu", "freezer"];
        let dir = ANY.iter().find_map(|controller| self.dir(controller, cgroups_path));
        let mut pids = BTreeSet::new();
        let mut left: Vec<PathBuf> = dir.into_iter().collect();
        while let Some(dir) = left.pop() {
            let Some(procs) = read_optional(&dir.join("cgroup.procs"))? else { continue };
            pids.extend(procs.lines().filter_map(|line| line.trim().parse::<i32>().ok()));
            for entry in fs::read_dir(&dir)? {
                let entry = entry?;
                if entry.file_type()?.is_dir() {
                    left.push(entry.path());
                }
            }
        }
        Ok(pids.into_iter().collect())
    }

    /// What a container uses now; parts that cannot be read are zero.
    pub fn usage(&self, cgroups_path: &str) -> Usage {
        usage::read(self, cgroups_path, Timestamp::now())
    }

    /// No controller at all, for tables.
    #[cfg(test)]
    pub(crate) fn detect_nothing() -> Self {
        Self::nothing()
    }

    /// Every controller and limit, for tables.
    #[cfg(test)]
    pub(crate) fn full() -> Self {
        Self {
            mode: Mode::V2,
            mounts: BTreeMap::new(),
            memory_limit: true,
            swap_limit: true,
            memory_reservation: true,
            oom_kill_disable: true,
            memory_swappiness: true,
            kernel_memory: false,
            kernel_memory_tcp: false,
            cpu_shares: true,
            cpu_cfs: true,
            cpu_realtime: true,
            cpuset: true,
            cpus: "0-3".to_owned(),
            mems: "0".to_owned(),
            pids_limit: true,
            blkio_weight: true,
            blkio_weight_device: true,
            blkio_read_bps: true,
            blkio_write_bps: true,
            blkio_read_iops: true,
            blkio_write_iops: true,
            devices: true,
        }
    }
}

/// The version 1 hierarchies by controller, and the version 2 tree.
fn parse_mounts(text: &str) -> (BTreeMap<String, PathBuf>, Option<PathBuf>) {
    let mut v1 = BTreeMap::new();
    let mut v2 = None;
    for line in text.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let Some(mount_point) = left.split(' ').nth(4) else { continue };
        let mut right = right.split(' ');
        match right.next() {
            Some("cgroup") => {
                let options = right.nth(1).unwrap_or_default();
                for option in options.split(',').filter(|option| *option != "rw") {
                    let name = option.strip_prefix("name=").unwrap_or(option);
                    v1.entry(name.to_owned()).or_insert_with(|| PathBuf::from(mount_point));
                }
            }
            Some("cgroup2") if v2.is_none() => v2 = Some(PathBuf::from(mount_point)),
            _ => {}
        }
    }
    (v1, v2)
}

/// Whether limits of swap have an effect. The root group has no `memory.swap.max`; any other one that
/// has memory's files tells.
fn swap_is_accounted(root: &Path) -> bool {
    let own = fs::read_to_string("/proc/self/cgroup").unwrap_or_default();
    let own = own.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or("/");
    let own = root.join(own.trim_start_matches('/'));
    if own != root {
        return accounts_swap(&own).unwrap_or(false);
    }
    let entries = fs::read_dir(root).into_iter().flatten().flatten();
    let told = entries.map(|entry| entry.path()).find_map(|group| accounts_swap(&group));
    // Where nobody has made a group yet, whether the kernel has swap at all decides.
    told.unwrap_or_else(|| crate::host::is_there(Path::new("/proc/swaps")))
}

/// `None` for a group without memory's files, which cannot tell.
fn accounts_swap(group: &Path) -> Option<bool> {
    let has = |file: &str| crate::host::is_there(&group.join(file));
    has("memory.current").then(|| has("memory.swap.max"))
}

fn read_line(dir: &Path, file: &str) -> String {
    fs::read_to_string(dir.join(file)).unwrap_or_default().trim().to_owned()
}

fn read_optional(path: &Path) -> io::Result<Option<String>> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound) => Ok(None),
        // The group was removed while it was read.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::NODEV.raw_os_error()) => {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
25 1 0:22 / /sys/fs/cgroup rw - tmpfs tmpfs rw\n\
26 25 0:23 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n\
27 25 0:24 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n\
28 25 0:25 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
29 25 0:26 / /sys/fs/cgroup/memory rw shared:3 - cgroup cgroup rw,memory\n";

    #[test]
    fn a_hybrid_machine_counts_as_version_one() {
        let (v1, v2) = parse_mounts(HYBRID);
        assert_eq!(v2, Some(PathBuf::from("/sys/fs/cgroup/unified")));
        assert_eq!(v1["cpuacct"], PathBuf::from("/sys/fs/cgroup/cpu,cpuacct"));
        assert_eq!(v1["systemd"], PathBuf::from("/sys/fs/cgroup/systemd"));
        let cgroups = Cgroups::from_mountinfo(HYBRID);
        assert_eq!(
            (cgroups.mode, cgroups.version(), cgroups.driver()),
            (Mode::V1, "1", "cgroupfs")
        );
        assert_eq!(
            cgroups.dir("memory", "/berth/abc"),
            Some(PathBuf::from("/sys/fs/cgroup/memory/berth/abc"))
        );
        assert_eq!(cgroups.dir("pids", "/berth/abc"), None);
        let inside: Vec<String> = cgroups.places_inside().into_iter().collect();
        assert_eq!(
            inside,
            ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory", "/sys/fs/cgroup/systemd"]
        );
    }

    #[test]
    fn a_group_tells_of_swap_if_it_has_memorys_files() {
        #[rustfmt::skip]
        let table: &[(&[&str], Option<bool>)] = &[
            (&["cgroup.procs"],                      None),
            (&["memory.current"],                    Some(false)),
            (&["memory.current", "memory.swap.max"], Some(true)),
        ];
        for (files, told) in table {
            let group = tempfile::tempdir().unwrap();
            for file in *files {
                fs::File::create(group.path().join(file)).unwrap();
            }
            assert_eq!(accounts_swap(group.path()), *told, "{files:?}");
        }
    }

    #[test]
    fn missing_limits_are_dockers_warnings() {
        let lacking = Cgroups { swap_limit: false, cpu_cfs: false, ..Cgroups::full() };
        assert_eq!(
            lacking.warnings(),
            [
                "WARNING: No swap limit support",
                "WARNING: No cpu cfs quota support",
                "WARNING: No cpu cfs period support"
            ]
        );
        assert_eq!(Cgroups::full().warnings(), Vec::<String>::new());
        let none = Cgroups::from_mountinfo("");
        assert_eq!((none.mode, none.driver()), (Mode::None, "none"));
    }

    #[test]
    fn processes_of_nested_groups_are_listed() {
        let dir = tempfile::tempdir().unwrap();
        let group = dir.path().join("berth/abc/inner");
        fs::create_dir_all(&group).unwrap();
        #[expect(clippy::disallowed_methods, reason = "a test's own scratch files")]
        {
            fs::write(dir.path().join("berth/abc/cgroup.procs"), "7\n30\n").unwrap();
            fs::write(group.join("cgroup.procs"), "9\n").unwrap();
        }
        let mounts = BTreeMap::from([(String::new(), dir.path().to_owned())]);
        let cgroups = Cgroups { mounts, ..Cgroups::full() };
        assert_eq!(cgroups.processes("/berth/abc").unwrap(), [7, 9, 30]);
        assert_eq!(cgroups.processes("/berth/gone").unwrap(), Vec::<i32>::new());
    }
}
