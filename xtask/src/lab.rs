//! An engine on directories of its own, in a network namespace of its own, gone without a trace
//! when it is dropped.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::http::Client;
use crate::{host, ui};

/// How long a daemon may take to come up.
const START: Duration = Duration::from_mins(1);
/// How long a daemon may take to go.
const STOP: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(1);

/// Which program runs the engine.
#[derive(Debug, Clone)]
pub(crate) enum Program {
    /// `berth daemon`, by the path of `berth`.
    Berth(PathBuf),
    /// dockerd, which brings its own containerd.
    Dockerd,
}

/// Where an engine's data root is made, and further flags for it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    pub(crate) below: &'a Path,
    pub(crate) flags: &'a [String],
}

/// A running engine. Dropped: its containers are removed, it is ended, its mounts and directories are
/// gone.
#[derive(Debug)]
pub(crate) struct Lab {
    program: Program,
    data_root: PathBuf,
    exec_root: PathBuf,
    child: Option<Child>,
    has_bridge: bool,
    flags: Vec<String>,
}

impl Lab {
    /// Starts the engine in new directories, whose names end in `name` and this process's number.
    pub(crate) fn start(name: &str, program: Program) -> Result<Self> {
        Self::start_at(name, program, &Place { below: Path::new("/var/lib"), flags: &[] })
    }

    /// Like [`start`](Self::start), with the data root at a place of one's own.
    pub(crate) fn start_at(name: &str, program: Program, place: &Place<'_>) -> Result<Self> {
        let own = std::process::id();
        let data_root = place.below.join(format!("{name}-{own}"));
        let exec_root = PathBuf::from(format!("/run/{name}-{own}"));
        // Only what is made here may be removed in the end.
        let create = |dir: &Path| {
            std::fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))
        };
        create(&data_root)?;
        if let Err(error) = create(&exec_root) {
            report("remove the data root", std::fs::remove_dir(&data_root));
            return Err(error);
        }
        let has_bridge = host::on_path("unshare") && host::on_path("ip");
        let flags = place.flags.to_vec();
        let mut lab = Self { program, data_root, exec_root, child: None, has_bridge, flags };
        lab.launch()?;
        Ok(lab)
    }

    /// Ends the daemon, starts it again on the same directories, and says how long it took from the
    /// start of the process until it listed its containers.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        self.end_daemon();
        self.launch()
    }

    pub(crate) fn data_root(&self) -> &Path {
        &self.data_root
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.exec_root.join("api.sock")
    }

    /// Whether containers can have a network of their own.
    pub(crate) fn has_bridge(&self) -> bool {
        self.has_bridge
    }

    /// The last lines of the daemon's log.
    pub(crate) fn end_of_log(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    fn log(&self) -> PathBuf {
        self.data_root.with_extension("log")
    }

    fn command(&self) -> Command {
        let mut words: Vec<String> = match &self.program {
            Program::Berth(path) => vec![path.display().to_string(), "daemon".to_owned()],
            Program::Dockerd => vec!["dockerd".to_owned()],
        };
        let flags = [
            ("--data-root", self.data_root.clone()),
            ("--exec-root", self.exec_root.clone()),
            ("--pidfile", self.exec_root.join("pid")),
            // One that is not there: the machine's own configuration is somebody else's.
            ("--config-file", self.exec_root.join("daemon.json")),
        ];
        for (flag, path) in flags {
            words.extend([flag.to_owned(), path.display().to_string()]);
        }
        words.push(format!("--host=unix://{}", self.socket().display()));
        words.push(format!("--cgroup-parent=/{}", self.cgroup()));
        words.extend(self.flags.iter().cloned());
        if !self.has_bridge {
            words.extend(["--bridge=none", "--iptables=false"].map(str::to_owned));
        } else if matches!(self.program, Program::Dockerd) && !host::on_path("iptables") {
            words.push("--iptables=false".to_owned());
        }
        if !self.has_bridge {
            let mut command = Command::new(&words[0]);
            command.args(&words[1..]);
            return command;
        }
        let mut command = Command::new("unshare");
        command.args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"]).args(&words);
        command
    }

    /// The control group of its containers.
    fn cgroup(&self) -> String {
        self.exec_root.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Removes the control groups, empty by now, of every hierarchy.
    fn remove_cgroups(&self) {
        let root = Path::new("/sys/fs/cgroup");
        let hierarchies = std::fs::read_dir(root).into_iter().flatten();
        let hierarchies = hierarchies.filter_map(|entry| Some(entry.ok()?.path()));
        for hierarchy in hierarchies.chain([root.to_owned()]) {
            let dir = hierarchy.join(self.cgroup());
            if dir.is_dir() {
                report(&format!("remove {}", dir.display()), std::fs::remove_dir(&dir));
            }
        }
    }

    fn launch(&mut self) -> Result<Duration> {
        crate::run::write(&self.exec_root.join("daemon.json"), b"{}")?;
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.log())
            .with_context(|| format!("cannot write {}", self.log().display()))?;
        let mut command = self.command();
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for this program, which then ends the daemon in order.
        command.process_group(0);
        let begun = Instant::now();
        let child = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        let child = self.child.insert(child);
        loop {
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("the daemon ended at once: {status}\n{}", self.end_of_log());
            }
            let socket = self.exec_root.join("api.sock");
            if Client::connect(&socket).and_then(|api| api.get("/containers/json?all=1")).is_ok() {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() > START {
                bail!("the daemon does not answer\n{}", self.end_of_log());
            }
            std::thread::sleep(NAP);
        }
    }

    /// Asks the daemon to end, and after a while makes it.
    fn end_daemon(&mut self) {
        let Some(mut child) = self.child.take() else { return };
        signal(child.id(), Signal::TERM);
        let until = Instant::now() + STOP;
        while Instant::now() < until {
            match child.try_wait() {
                Ok(None) => std::thread::sleep(NAP),
                Ok(Some(_)) | Err(_) => return,
            }
        }
        report("end the daemon", child.kill());
        report("wait for the daemon", child.wait().map(|_| ()));
    }

    fn remove_containers(&self) -> Result<()> {
        let api = Client::connect(&self.socket())?;
        for container in api.get("/containers/json?all=1")?.as_array().into_iter().flatten() {
            let id = container["Id"].as_str().unwrap_or_default();
            api.delete(&format!("/containers/{id}?force=1&v=1"))?;
        }
        Ok(())
    }

    /// Ends what a daemon that died left running; finds it by the name of this lab's own directory.
    fn end_leftovers(&self) {
        let mark = self.exec_root.display().to_string();
        for process in crate::processes::all() {
            let of_this_lab = process.arguments.iter().any(|word| word.contains(&mark));
            if of_this_lab && process.is_watcher() {
                for child in crate::processes::children(process.pid) {
                    signal(child, Signal::KILL);
                }
                std::thread::sleep(Duration::from_millis(50));
                signal(process.pid, Signal::KILL);
            }
        }
    }

    fn unmount_all(&self) {
        let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let points = table.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
        let mut own: Vec<PathBuf> = points
            .filter(|point| {
                point.starts_with(&self.data_root) || point.starts_with(&self.exec_root)
            })
            .collect();
        own.sort();
        for point in own.iter().rev() {
            report(
                &format!("unmount {}", point.display()),
                rustix::mount::unmount(point, UnmountFlags::DETACH).map_err(Into::into),
            );
        }
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if self.child.is_some()
            && let Err(error) = self.remove_containers()
        {
            ui::line(&format!("containers not removed: {error:#}"));
        }
        self.end_daemon();
        self.end_leftovers();
        self.unmount_all();
        self.remove_cgroups();
        for dir in [&self.data_root, &self.exec_root] {
            if let Err(error) = remove_subvolumes(dir) {
                ui::line(&format!("{error:#}"));
            }
            report(&format!("remove {}", dir.display()), std::fs::remove_dir_all(dir));
        }
        report("remove the daemon's log", std::fs::remove_file(self.log()));
    }
}

fn signal(pid: u32, signal: Signal) {
    if let Some(pid) = i32::try_from(pid).ok().and_then(Pid::from_raw)
        && let Err(error) = kill_process(pid, signal)
        && error != rustix::io::Errno::SRCH
    {
        ui::line(&format!("process {} not ended: {error}", pid.as_raw_nonzero()));
    }
}

/// Cleaning up goes on after a failure, and says so; what is gone already is as it should be.
fn report(what: &str, done: std::io::Result<()>) {
    if let Err(error) = done
        && error.kind() != std::io::ErrorKind::NotFound
    {
        ui::line(&format!("cannot {what}: {error}"));
    }
}

/// Frozen layers of the btrfs driver are read-only subvolumes, which no plain removal empties.
fn remove_subvolumes(data_root: &Path) -> Result<()> {
    let Ok(layers) = std::fs::read_dir(data_root.join("btrfs/subvolumes")) else { return Ok(()) };
    for layer in layers {
        let layer = layer?;
        if !layer.file_type()?.is_dir() {
            continue;
        }
        let mut command = Command::new("btrfs");
        command.args(["-q", "subvolume", "delete"]).arg(layer.path());
        let status = command.status().context("cannot run btrfs (Debian: btrfs-progs)")?;
        if !status.success() {
            bail!("{command:?}: {status}");
        }
    }
    Ok(())
}
