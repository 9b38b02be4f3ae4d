//! The container's control groups: who is in them, freezing, memory events, removal.

use std::fs;
use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_sys::mountinfo;
use berth_sys::process::{pidfd_open, pidfd_send_signal};
use rustix::event::{EventfdFlags, eventfd};
use rustix::fs::inotify;

const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);
const REMOVE_TIMEOUT: Duration = Duration::from_secs(2);
const KILL: i32 = 9;

/// The directories of one container, in every hierarchy where it has one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cgroups {
    dirs: Vec<PathBuf>,
    /// With version 1 the hierarchies of these controllers.
    freezer: Option<PathBuf>,
    memory: Option<PathBuf>,
    /// With version 2 only.
    unified: Option<PathBuf>,
}

impl Cgroups {
    /// Where `path` (as in the spec's `cgroupsPath`) is, as libcontainer places it.
    pub(crate) fn find(path: &Path) -> io::Result<Self> {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let mut found = Self::default();
        if relative.as_os_str().is_empty() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "empty cgroupsPath"));
        }
        let mut unified = None;
        for mount in mountinfo::all()? {
            let dir = mount.mount_point.join(relative);
            match mount.fs_type.as_str() {
                "cgroup" => {
                    let options = mount.super_options.to_string_lossy().into_owned();
                    let has = |name: &str| options.split(',').any(|option| option == name);
                    if has("freezer") {
                        found.freezer = Some(dir.clone());
                    }
                    if has("memory") {
                        found.memory = Some(dir.clone());
                    }
                    found.dirs.push(dir);
                }
                "cgroup2" => unified = Some(dir),
                _ => {}
            }
        }
        // With any hierarchy of version 1 libcontainer uses those alone.
        if found.dirs.is_empty() {
            found.dirs.extend(unified.clone());
            found.unified = unified;
        }
        Ok(found)
    }

    /// The directory that device programs are attached to; `None` with version 1, whose devices
    /// controller does that work.
    pub(crate) fn unified(&self) -> Option<&Path> {
        self.unified.as_deref()
    }

    /// Puts this process, which has one thread, into the groups of version 1. With version 2 a
    /// process is best made inside: gives the directory for that.
    ///
    /// `0` in `tasks` moves the writing thread only, which the kernel does at once; a pid in
    /// `cgroup.procs` makes it wait for an RCU grace period of the whole machine.
    pub(crate) fn enter(&self) -> io::Result<Option<fs::File>> {
        if let Some(dir) = &self.unified {
            return fs::File::open(dir).map(Some);
        }
        for dir in &self.dirs {
            match write(&dir.join("tasks"), "0") {
                // A hierarchy in which the container was given no group.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                other => other?,
            }
        }
        Ok(None)
    }

    /// Puts this process into the group of version 2, where it could not be made inside.
    pub(crate) fn move_in(&self) -> io::Result<()> {
        self.unified.as_ref().map_or(Ok(()), |dir| write(&dir.join("cgroup.procs"), "0"))
    }

    /// Everybody in it, groups below included.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids = Vec::new();
        let home = self.unified.as_ref().or(self.freezer.as_ref()).or(self.dirs.first());
        if let Some(dir) = home {
            collect(dir, &mut pids);
        }
        pids
    }

    /// Sends a signal to everybody; says whether there was anybody.
    pub(crate) fn signal_all(&self, signal: i32) -> bool {
        if signal == KILL && self.kill_at_once() {
            return true;
        }
        let pids = self.processes();
        for &pid in &pids {
            // Whoever has just ended needs no signal.
            if let Ok(fd) = pidfd_open(pid) {
                drop(pidfd_send_signal(fd, signal));
            }
        }
        !pids.is_empty()
    }

    fn kill_at_once(&self) -> bool {
        self.unified.as_ref().is_some_and(|dir| write(&dir.join("cgroup.kill"), "1").is_ok())
    }

    /// Freezes or thaws everybody, and waits until it is so.
    pub(crate) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let deadline = Instant::now() + FREEZE_TIMEOUT;
        let mut pause = Duration::from_micros(100);
        loop {
            // Again in each round: with version 1 a process that forks meanwhile can escape.
            self.ask_to_freeze(frozen)?;
            if self.is_frozen()? == frozen {
                return Ok(());
            }
            if Instant::now() > deadline {
                if frozen {
                    self.ask_to_freeze(false)?;
                }
                return Err(io::Error::new(io::ErrorKind::TimedOut, "unable to freeze"));
            }
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    fn ask_to_freeze(&self, frozen: bool) -> io::Result<()> {
        match (&self.unified, &self.freezer) {
            (Some(dir), _) => write(&dir.join("cgroup.freeze"), if frozen { "1" } else { "0" }),
            (None, Some(dir)) => {
                write(&dir.join("freezer.state"), if frozen { "FROZEN" } else { "THAWED" })
            }
            (None, None) => Err(io::Error::new(io::ErrorKind::Unsupported, "no freezer")),
        }
    }

    fn is_frozen(&self) -> io::Result<bool> {
        match (&self.unified, &self.freezer) {
            (Some(dir), _) => Ok(value_of(&dir.join("cgroup.events"), "frozen")? == 1),
            (None, Some(dir)) => {
                Ok(fs::read_to_string(dir.join("freezer.state"))?.trim() == "FROZEN")
            }
            (None, None) => Ok(false),
        }
    }

    /// How many processes the kernel killed for lack of memory.
    pub(crate) fn oom_kills(&self) -> u64 {
        let file = match (&self.unified, &self.memory) {
            (Some(dir), _) => dir.join("memory.events"),
            (None, Some(dir)) => dir.join("memory.oom_control"),
            (None, None) => return 0,
        };
        value_of(&file, "oom_kill").unwrap_or(0)
    }

    /// A descriptor that becomes readable when there may have been such a kill.
    pub(crate) fn watch_oom(&self) -> io::Result<Option<OwnedFd>> {
        if let Some(dir) = &self.unified {
            let watch =
                inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
            inotify::add_watch(&watch, dir.join("memory.events"), inotify::WatchFlags::MODIFY)?;
            return Ok(Some(watch));
        }
        let Some(dir) = &self.memory else { return Ok(None) };
        let control = fs::File::open(dir.join("memory.oom_control"))?;
        let event = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        let order = format!("{} {}", event.as_raw_fd(), control.as_raw_fd());
        write(&dir.join("cgroup.event_control"), &order)?;
        Ok(Some(event))
    }

    /// Kills whoever is left and removes the groups.
    pub(crate) fn remove(&self) -> io::Result<()> {
        let deadline = Instant::now() + REMOVE_TIMEOUT;
        let mut pause = Duration::from_micros(200);
        loop {
            let mut last = Ok(());
            for dir in &self.dirs {
                last = remove_tree(dir).and(last);
            }
            if last.is_ok() || Instant::now() > deadline {
                return last;
            }
            // Frozen processes of version 1 die only when they are thawed.
            drop(self.ask_to_freeze(false));
            self.signal_all(KILL);
            while matches!(berth_sys::process::reap(), Ok(Some(_))) {}
            std::thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(20));
        }
    }
}

fn write(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    fs::File::options().write(true).open(path)?.write_all(text.as_bytes())
}

fn collect(dir: &Path, pids: &mut Vec<i32>) {
    let text = fs::read_to_string(dir.join("cgroup.procs")).unwrap_or_default();
    pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()));
    for child in children(dir) {
        collect(&child, pids);
    }
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(dir) else { return Vec::new() };
    let dirs = entries.flatten().filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()));
    dirs.map(|entry| entry.path()).collect()
}

fn remove_tree(dir: &Path) -> io::Result<()> {
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(()) => return Ok(()),
        Err(_) => {}
    }
    for child in children(dir) {
        remove_tree(&child)?;
    }
    match fs::remove_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// The number after `key` in a file of `key value` lines; 0 when it is not there.
fn value_of(path: &Path, key: &str) -> io::Result<u64> {
    let text = fs::read_to_string(path)?;
    let mut pairs = text.lines().filter_map(|line| line.split_once(' '));
    Ok(pairs.find(|(name, _)| *name == key).and_then(|(_, value)| value.parse().ok()).unwrap_or(0))
}
