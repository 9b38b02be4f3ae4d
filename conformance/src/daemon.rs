//! An engine on directories of its own, gone without a trace when it is dropped.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::mount::UnmountFlags;
use rustix::process::{Pid, Signal, kill_process};

use crate::ui;

/// How long a daemon may take to come up.
const START: Duration = Duration::from_mins(1);
/// How long a daemon may take to go.
const STOP: Duration = Duration::from_secs(30);
const NAP: Duration = Duration::from_millis(1);
/// How large a file system in a file is; the file is sparse.
const IMAGE: u64 = 4 << 30;

/// Puts a copy of `/etc` in its place in which the user of `--userns-remap=default` has the range that
/// the goldens have. The first argument is a directory for it, the others are what is run then.
const OWN_ACCOUNTS: &str = r#"
dir=$0; mkdir -p "$dir"; mount -t tmpfs tmpfs "$dir"; mkdir "$dir/upper" "$dir/work"
mount -t overlay overlay -o "lowerdir=/etc,upperdir=$dir/upper,workdir=$dir/work" /etc
put() { grep -v '^dockremap:' "/etc/$1" >"$dir/new" || :; echo "dockremap:$2" >>"$dir/new"; cat "$dir/new" >"/etc/$1"; }
put passwd x:64999:64999::/nonexistent:/bin/false
put group x:64999:
put subuid 100000:65536
put subgid 100000:65536
exec "$@"
"#;

/// A daemon, berth unless told otherwise. Dropped: what runs in its directories is ended, its mounts,
/// control groups and directories are gone, unless `BERTH_KEEP` is set.
#[derive(Debug)]
pub(crate) struct BerthDaemon {
    /// The program and its first words; `berth daemon` when empty.
    program: Vec<String>,
    /// Runs containers with remapped users.
    remapping: bool,
    data_root: PathBuf,
    exec_root: PathBuf,
    flags: Vec<String>,
    env: Vec<(String, String)>,
    stdin: Option<OwnedFd>,
    /// Another daemon's directory, which is not removed.
    foreign_root: Option<PathBuf>,
    child: Option<Child>,
    /// Holds the network namespace, so that a restarted daemon finds its containers' network.
    namespace: Option<Child>,
    /// nsenter's flag, of another daemon whose namespace this one is in.
    beside: Option<String>,
}

impl BerthDaemon {
    /// A daemon on new directories, whose names end in `name` and this process's number, that is
    /// not started yet.
    pub(crate) fn prepare(name: &str) -> Result<Self> {
        let own = std::process::id();
        let data_root = PathBuf::from(format!("/var/lib/{name}-{own}"));
        let exec_root = PathBuf::from(format!("/run/{name}-{own}"));
        // Only what is made here may be removed in the end.
        let create = |dir: &Path| {
            std::fs::create_dir(dir).with_context(|| format!("cannot create {}", dir.display()))
        };
        create(&data_root)?;
        if let Err(error) = create(&exec_root) {
            std::fs::remove_dir(&data_root)?;
            return Err(error);
        }
        Ok(Self {
            program: Vec::new(),
            remapping: false,
            data_root,
            exec_root,
            flags: Vec::new(),
            env: Vec::new(),
            stdin: None,
            foreign_root: None,
            child: None,
            namespace: None,
            beside: None,
        })
    }

    /// Puts the data root on a new file system of this kind, in a file that is gone with its mount.
    pub(crate) fn put_on(&self, kind: &str) -> Result<()> {
        let image = self.data_root.with_extension("image");
        File::create_new(&image)?.set_len(IMAGE)?;
        let made = make_and_mount(kind, &image, &self.data_root);
        std::fs::remove_file(&image)?;
        made
    }

    /// Another program than berth, which takes the same flags.
    pub(crate) fn set_program(&mut self, words: &[&str]) {
        self.program = words.iter().map(|&word| word.to_owned()).collect();
    }

    /// Has the daemon remap users, with accounts that only it sees: it gets mounts of its own.
    pub(crate) fn set_remapping(&mut self) {
        self.remapping = true;
    }

    /// Flags besides.
    pub(crate) fn set_flags(&mut self, flags: &[&str]) {
        self.flags = flags.iter().map(|&flag| flag.to_owned()).collect();
    }

    /// Gives the daemon a network namespace of its own, where loopback is up.
    pub(crate) fn set_namespace(&mut self) -> Result<()> {
        self.namespace = Some(hold_namespace()?);
        Ok(())
    }

    /// Puts the daemon into another one's network namespace.
    pub(crate) fn set_beside(&mut self, namespace_flag: Option<String>) {
        self.beside = namespace_flag;
    }

    /// What the next start has in its environment besides.
    pub(crate) fn set_env(&mut self, env: &[(&str, &str)]) {
        self.env = env.iter().map(|&(k, v)| (k.to_owned(), v.to_owned())).collect();
    }

    /// The standard input of the next start.
    pub(crate) fn set_stdin(&mut self, stdin: OwnedFd) {
        self.stdin = Some(stdin);
    }

    /// Points it at the directory of another daemon.
    pub(crate) fn set_data_root(&mut self, root: &Path) {
        self.foreign_root = Some(root.to_owned());
    }

    /// The flag of nsenter that leads into the daemon's network namespace, if it has one.
    pub(crate) fn namespace_flag(&self) -> Option<String> {
        if self.beside.is_some() {
            return self.beside.clone();
        }
        let namespace = self.namespace.as_ref()?;
        Some(format!("--net=/proc/{}/ns/net", namespace.id()))
    }

    /// Starts the daemon on the same directories, which must not run, and says how long it took until
    /// it answered.
    pub(crate) fn restart(&mut self) -> Result<Duration> {
        let begun = Instant::now();
        self.spawn()?;
        loop {
            if answers(&self.socket()) {
                return Ok(begun.elapsed());
            }
            let child = self.child.as_mut().context("the daemon was just started")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                bail!("the daemon ended at once: {status}\n{}", self.end_of_log());
            }
            if begun.elapsed() > START {
                bail!("the daemon does not answer\n{}", self.end_of_log());
            }
            std::thread::sleep(NAP);
        }
    }

    /// Starts the daemon without waiting for anything.
    pub(crate) fn spawn(&mut self) -> Result<()> {
        let log = File::options().create(true).append(true).open(self.log())?;
        write_new(&self.exec_root.join("daemon.json"), b"{}\n")?;
        let mut words = self.program.clone();
        if words.is_empty() {
            words = vec![berth_program()?.display().to_string(), "daemon".to_owned()];
        }
        if self.remapping {
            let etc = self.exec_root.join("etc");
            let own = ["unshare", "--mount", "--propagation=private", "sh", "-ec", OWN_ACCOUNTS];
            let own = own.into_iter().map(str::to_owned).chain([etc.display().to_string()]);
            words.splice(0..0, own);
            words.push("--userns-remap=default".to_owned());
        }
        if let Some(enter) = self.namespace_flag() {
            words.splice(0..0, ["nsenter".to_owned(), enter, "--".to_owned()]);
        }
        let mut command = Command::new(&words[0]);
        command.args(&words[1..]);
        let paths = [
            ("--data-root", self.foreign_root.clone().unwrap_or_else(|| self.data_root.clone())),
            ("--exec-root", self.exec_root.clone()),
            ("--pidfile", self.exec_root.join("pid")),
            // An empty one: the machine's own configuration is somebody else's.
            ("--config-file", self.exec_root.join("daemon.json")),
        ];
        for (flag, path) in paths {
            command.arg(flag).arg(path);
        }
        command.arg(format!("--host=unix://{}", self.socket().display())).args(&self.flags);
        command.envs(self.env.iter().map(|(key, value)| (key, value)));
        command.stdin(self.stdin.take().map_or_else(Stdio::null, Stdio::from));
        command.stdout(log.try_clone()?).stderr(log);
        // Ctrl-C on the terminal is for this program, which then ends the daemon in order.
        command.process_group(0);
        self.child = Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }

    /// The daemon's number, while it runs.
    pub(crate) fn pid(&self) -> Option<Pid> {
        Pid::from_raw(self.child.as_ref()?.id().cast_signed())
    }

    /// How the daemon has ended, if it has without being told to.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.as_mut().map(Child::try_wait).transpose()?.flatten())
    }

    /// Kills the daemon, if nobody has yet, and waits until it is gone.
    pub(crate) fn kill9(&mut self) -> Result<()> {
        let Some(mut child) = self.child.take() else { return Ok(()) };
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Asks the daemon to end, and after a while makes it.
    pub(crate) fn stop(&mut self) -> Result<()> {
        if let Some(pid) = self.pid() {
            kill_process(pid, Signal::TERM)?;
        }
        let until = Instant::now() + STOP;
        while let Some(child) = &mut self.child {
            if child.try_wait()?.is_some() {
                self.child = None;
            } else if Instant::now() > until {
                return self.kill9();
            } else {
                std::thread::sleep(NAP);
            }
        }
        Ok(())
    }

    /// The API's socket.
    pub(crate) fn socket(&self) -> PathBuf {
        self.exec_root.join("api.sock")
    }

    /// Where everything that lasts is.
    pub(crate) fn data_root(&self) -> &Path {
        &self.data_root
    }

    /// Where everything is that ends with the machine.
    pub(crate) fn exec_root(&self) -> &Path {
        &self.exec_root
    }

    /// The file that the daemon logs to.
    pub(crate) fn log(&self) -> PathBuf {
        self.data_root.with_extension("log")
    }

    /// The last lines of the daemon's log.
    pub(crate) fn end_of_log(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }

    /// Ends everything and removes every trace.
    fn clear(&mut self) -> Result<()> {
        self.kill9()?;
        // The processes of containers hold their mounts; the watchers' arguments name this place.
        // A self-test that the daemon did not live to finish has its own below it. Again until there
        // are none: one that was just being started forks meanwhile.
        let until = Instant::now() + STOP;
        loop {
            let found = naming(&self.exec_root);
            if found.is_empty() {
                break;
            }
            if Instant::now() > until {
                bail!("processes {found:?} do not end");
            }
            for pid in found {
                for child in children(pid).into_iter().chain([pid]) {
                    let Some(child) = Pid::from_raw(child.cast_signed()) else { continue };
                    match kill_process(child, Signal::KILL) {
                        Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            std::thread::sleep(NAP);
        }
        std::thread::sleep(Duration::from_millis(50));
        self.remove_cgroups();
        for dir in [&self.data_root, &self.exec_root] {
            for mount in mounts_below(dir)?.into_iter().rev() {
                rustix::mount::unmount(mount, UnmountFlags::DETACH)?;
            }
            remove_subvolumes(dir)?;
            std::fs::remove_dir_all(dir).with_context(|| format!("remove {}", dir.display()))?;
        }
        std::fs::remove_file(self.log())?;
        if let Some(mut namespace) = self.namespace.take() {
            // It ends when its input does.
            drop(namespace.stdin.take());
            namespace.wait()?;
        }
        Ok(())
    }

    /// Control groups are named after the containers, whatever their parents are called. One that
    /// still holds a process stays.
    fn remove_cgroups(&self) {
        let Ok(entries) = std::fs::read_dir(self.data_root.join("containers")) else { return };
        let ids: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.file_name())).collect();
        let mut groups = Vec::new();
        collect_dirs(Path::new("/sys/fs/cgroup"), 5, &mut groups);
        for group in groups.iter().rev() {
            if group.file_name().is_some_and(|name| ids.iter().any(|id| id == name))
                && let Err(error) = std::fs::remove_dir(group)
            {
                ui::detail(&format!("cannot remove {}: {error}", group.display()));
            }
        }
    }
}

impl Drop for BerthDaemon {
    fn drop(&mut self) {
        if std::env::var_os("BERTH_KEEP").is_some() {
            ui::detail(&format!("kept: {}, {}", self.data_root.display(), self.log().display()));
            return;
        }
        if let Err(error) = self.clear() {
            ui::detail(&format!("not everything was removed: {error:#}"));
        }
    }
}

/// Whether the API is served on this socket.
pub(crate) fn answers(socket: &Path) -> bool {
    use std::io::{Read as _, Write as _};
    let ask = || -> std::io::Result<bool> {
        let mut stream = std::os::unix::net::UnixStream::connect(socket)?;
        stream.set_read_timeout(Some(START))?;
        stream.write_all(b"GET /_ping HTTP/1.1\r\nHost: berth\r\nConnection: close\r\n\r\n")?;
        let mut head = [0; 12];
        stream.read_exact(&mut head)?;
        Ok(&head == b"HTTP/1.1 200")
    };
    ask().unwrap_or(false)
}

/// Where something is mounted at or below `dir`, parents first.
pub(crate) fn mounts_below(dir: &Path) -> Result<Vec<PathBuf>> {
    let text = std::fs::read_to_string("/proc/self/mountinfo")?;
    let points = text.lines().filter_map(|line| line.split(' ').nth(4)).map(PathBuf::from);
    Ok(points.filter(|point| point.starts_with(dir)).collect())
}

/// The processes whose arguments name a place below `exec_root/containers`: watchers and what they
/// forked. Each once.
pub(crate) fn watchers(exec_root: &Path) -> Vec<u32> {
    naming(&exec_root.join("containers"))
}

/// The processes whose arguments name a place at or below `mark`. Each once.
fn naming(mark: &Path) -> Vec<u32> {
    let names_it = |pid: &u32| {
        let arguments = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let arguments = String::from_utf8_lossy(&arguments);
        arguments.split('\0').any(|word| Path::new(word).starts_with(mark))
    };
    processes().into_iter().filter(names_it).collect()
}

/// The children of a process.
pub(crate) fn children(parent: u32) -> Vec<u32> {
    let is_child = |pid: &u32| {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let after_name = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
        after_name.split_whitespace().nth(1).and_then(|ppid| ppid.parse().ok()) == Some(parent)
    };
    processes().into_iter().filter(is_child).collect()
}

fn processes() -> Vec<u32> {
    let Ok(entries) = std::fs::read_dir("/proc") else { return Vec::new() };
    entries.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok()).collect()
}

/// `berth`: named by `BERTH_BIN`, or beside this program.
pub(crate) fn berth_program() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("BERTH_BIN") {
        return Ok(path.into());
    }
    let path = std::env::current_exe()?.with_file_name("berth");
    if !path.is_file() {
        bail!(
            "{} is missing: build berth (cargo build --release), or set BERTH_BIN",
            path.display()
        );
    }
    Ok(path)
}

/// A process that holds a network namespace whose loopback is up, until its input ends.
fn hold_namespace() -> Result<Child> {
    use std::io::Read as _;
    let mut child = Command::new("unshare")
        .args(["--net", "sh", "-c", "ip link set lo up && echo up && exec cat"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .process_group(0)
        .spawn()
        .context("cannot run unshare")?;
    let mut word = [0; 3];
    let output = child.stdout.as_mut().context("a pipe was asked for")?;
    output.read_exact(&mut word).context("no network namespace (needs unshare and ip)")?;
    Ok(child)
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

fn make_and_mount(kind: &str, image: &Path, target: &Path) -> Result<()> {
    let quiet: &[&str] = if kind == "ext4" { &["-q", "-F"] } else { &["-q"] };
    let mut make = Command::new(format!("mkfs.{kind}"));
    make.args(quiet).arg(image).stdout(Stdio::null());
    let mut mount = Command::new("mount");
    mount.args(["-t", kind, "-o", "loop"]).arg(image).arg(target);
    for mut command in [make, mount] {
        let status = command.status().with_context(|| format!("cannot run {command:?}"))?;
        if !status.success() {
            bail!("{command:?}: {status}");
        }
    }
    Ok(())
}

/// Writes a file, unless it is there.
fn write_new(path: &Path, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    match File::create_new(path) {
        Ok(mut file) => Ok(file.write_all(bytes)?),
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => Ok(()),
        Err(error) => Err(error).with_context(|| format!("cannot write {}", path.display())),
    }
}

fn collect_dirs(dir: &Path, depth: u32, into: &mut Vec<PathBuf>) {
    let Ok(entries) = std::fs::read_dir(dir) else { return };
    for entry in entries.filter_map(Result::ok) {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            into.push(entry.path());
            if depth > 1 {
                collect_dirs(&entry.path(), depth - 1, into);
            }
        }
    }
}
