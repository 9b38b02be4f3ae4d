//! `xtask vm init`: process 1 of the machine, once the host's files are its root.
//!
//! Mounts what programs expect, runs the command, gives its exit code to the host, and powers off.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::AsFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::fs::CWD;
use rustix::mount::{MountFlags, UnmountFlags};
use rustix::process::{Pid, Signal, WaitOptions, WaitStatus};
use rustix::system::RebootCommand;
use rustix::termios::Winsize;
use serde_json::Value;

use super::initramfs;
use super::setup::POWER_CUT;
use crate::{processes, run};

/// Ports between machine and host: what the command prints, and its exit code.
pub(super) const PORTS: [&str; 3] = ["out", "err", "code"];
/// What comes from the last of them before the command is run.
pub(super) const UP: &str = "up\n";
const NAP: Duration = Duration::from_millis(10);
const CUT_LIMIT: Duration = Duration::from_mins(1);
/// How long processes that were killed are waited for.
const END_LIMIT: Duration = Duration::from_secs(5);
/// A control group that is always there, as init systems have one.
const FIRST_GROUP: &str = "/sys/fs/cgroup/init.scope";

/// Never returns where it belongs: the machine is powered off at the end.
pub(super) fn init() -> Result<()> {
    if std::process::id() != 1 {
        bail!("vm init is process 1 of a virtual machine");
    }
    let done = work();
    if let Err(error) = &done {
        crate::ui::error(&format!("{error:#}"));
    }
    end_processes();
    unmount_disks();
    rustix::fs::sync();
    rustix::system::reboot(RebootCommand::PowerOff)?;
    done
}

fn work() -> Result<()> {
    let file = Path::new("/").join(initramfs::JOB);
    let job: Value = serde_json::from_slice(&std::fs::read(&file)?)?;
    std::fs::remove_file(&file)?;
    mount_all(&job)?;
    rustix::system::sethostname(b"berth-vm")?;
    run::output(Command::new("/bin/busybox").args(["ip", "link", "set", "lo", "up"]))?;
    let mut code = port("code")?;
    code.write_all(UP.as_bytes())?;
    // A port can be opened once.
    let mut err = port("err")?;
    if let Some(limit) = job["limit"].as_u64() {
        super::stuck::watch(Duration::from_secs(limit), err.try_clone()?);
    }
    let child = command(&job, &err)?.spawn();
    let answer = match child {
        Ok(child) => wait(&child)?,
        Err(error) => {
            writeln!(err, "cannot start {}: {error}", job["command"])?;
            127
        }
    };
    writeln!(code, "{answer}")?;
    if answer == i32::from(POWER_CUT) && job["is_last_boot"] == false {
        // Until the host ends the machine, with everything as it is.
        std::thread::sleep(CUT_LIMIT);
    }
    Ok(())
}

fn mount_all(job: &Value) -> Result<()> {
    let needed = needed(job);
    mount_over("/run", "mode=755", &needed)?;
    mount_over("/tmp", "mode=1777", &needed)?;
    for dir in ["/dev/pts", "/dev/shm", "/run/lock"] {
        std::fs::create_dir_all(dir)?;
    }
    mount("devpts", "/dev/pts", "devpts", "mode=620,ptmxmode=666")?;
    mount("tmpfs", "/dev/shm", "tmpfs", "mode=1777")?;
    for (link, to) in [("fd", ""), ("stdin", "/0"), ("stdout", "/1"), ("stderr", "/2")] {
        std::os::unix::fs::symlink(format!("/proc/self/fd{to}"), Path::new("/dev").join(link))?;
    }
    if job["cgroup"] == 1 {
        mount_cgroups_v1()?;
    } else {
        mount("cgroup2", "/sys/fs/cgroup", "cgroup2", "")?;
        make_first_group()?;
    }
    if let Some(share) = job["share"].as_str() {
        std::fs::create_dir_all(share)?;
        mount("share", share, "virtiofs", "")?;
    }
    Ok(())
}

/// Directories of the host that the command needs, wherever they are: its working directory, and
/// what was built beside it.
fn needed(job: &Value) -> Vec<PathBuf> {
    let program = Path::new(job["command"][0].as_str().unwrap_or_default());
    let built = program.parent().and_then(Path::parent);
    let dirs = job["working_dir"].as_str().map(Path::new).into_iter().chain(built);
    dirs.map(Path::to_owned).collect()
}

/// An empty file system in place of the host's directory, but for what is needed of it.
fn mount_over(dir: &str, data: &str, needed: &[PathBuf]) -> Result<()> {
    use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
    let clone = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let below = needed.iter().filter(|path| path.starts_with(dir) && *path != Path::new(dir));
    let kept = below
        .map(|path| {
            let tree = open_tree(CWD, path, clone);
            Ok((path, tree.with_context(|| format!("cannot keep {}", path.display()))?))
        })
        .collect::<Result<Vec<_>>>()?;
    mount("tmpfs", dir, "tmpfs", data)?;
    for (path, tree) in kept {
        std::fs::create_dir_all(path)?;
        move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)
            .with_context(|| format!("cannot show {}", path.display()))?;
    }
    Ok(())
}

/// With the first group below the root, the kernel rewrites its own code (static keys, of memory allocation
/// among others). Under emulation that now and then hangs both processors when the other one is at work:
/// one boot in twenty under load. Now it idles; and a machine that hangs before its command is booted again.
fn make_first_group() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let controllers = std::fs::read_to_string(root.join("cgroup.controllers"))?;
    for controller in controllers.split_whitespace() {
        run::write(&root.join("cgroup.subtree_control"), format!("+{controller}").as_bytes())?;
    }
    std::fs::create_dir(FIRST_GROUP).context(FIRST_GROUP)
}

/// A hierarchy for each controller, as on machines whose init still did that.
fn mount_cgroups_v1() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    mount("tmpfs", root, "tmpfs", "mode=755")?;
    let table = std::fs::read_to_string("/proc/cgroups")?;
    let names = table.lines().filter(|line| !line.starts_with('#'));
    for name in names.filter_map(|line| line.split_whitespace().next()) {
        std::fs::create_dir(root.join(name))?;
        mount("cgroup", root.join(name), "cgroup", name)?;
    }
    std::fs::create_dir(root.join("systemd"))?;
    mount("cgroup", root.join("systemd"), "cgroup", "none,name=systemd")
}

fn mount(source: &str, at: impl AsRef<Path>, kind: &str, data: &str) -> Result<()> {
    let at = at.as_ref();
    let data = std::ffi::CString::new(data)?;
    rustix::mount::mount(source, at, kind, MountFlags::empty(), Some(data.as_c_str()))
        .with_context(|| format!("cannot mount {kind} on {}", at.display()))
}

fn command(job: &Value, err: &File) -> Result<Command> {
    let strings = |value: &Value| -> Vec<String> {
        let words = value.as_array().into_iter().flatten();
        words.filter_map(|word| word.as_str().map(str::to_owned)).collect()
    };
    let words = strings(&job["command"]);
    let (program, arguments) = words.split_first().context("a job has a command")?;
    let mut command = Command::new(program);
    command.args(arguments).current_dir(job["working_dir"].as_str().context("a directory")?);
    command.envs([("HOME", "/root"), ("LANG", "C.UTF-8"), ("BERTH_VM", "1")]);
    // There is one processor, and a mount namespace that one test makes holds what another mounted.
    command.env("RUST_TEST_THREADS", "1");
    command.env("BERTH_VM_BOOT", job["boot"].to_string());
    command.env("BERTH_VM_DISKS", job["disks"].as_str().unwrap_or_default());
    for pair in job["env"].as_array().into_iter().flatten() {
        if let [name, value] = strings(pair).as_slice() {
            command.env(name, value);
        }
    }
    if job["terminal"].is_object() {
        let tty = terminal(&job["terminal"], &mut command)?;
        command.stdin(tty.try_clone()?).stdout(tty.try_clone()?).stderr(tty);
    } else {
        command.stdin(Stdio::null()).stdout(port("out")?).stderr(err.try_clone()?).process_group(0);
    }
    Ok(command)
}

/// Makes the console the terminal of this session, to which the shell will belong.
fn terminal(settings: &Value, command: &mut Command) -> Result<File> {
    let tty = File::options().read(true).write(true).open("/dev/hvc0")?;
    let number = |name: &str| settings[name].as_u64().and_then(|number| u16::try_from(number).ok());
    let size = Winsize {
        ws_row: number("rows").unwrap_or(24),
        ws_col: number("columns").unwrap_or(80),
        ws_xpixel: 0,
        ws_ypixel: 0,
    };
    rustix::process::setsid()?;
    rustix::process::ioctl_tiocsctty(tty.as_fd())?;
    rustix::termios::tcsetwinsize(&tty, size)?;
    command.env("TERM", settings["kind"].as_str().unwrap_or("linux"));
    Ok(tty)
}

/// The device of a port; they appear some time after the start.
fn port(name: &str) -> Result<File> {
    for _ in 0..500 {
        if let Some(device) = find_port(name)? {
            return Ok(File::options().write(true).open(device)?);
        }
        std::thread::sleep(NAP);
    }
    bail!("there is no port {name}");
}

fn find_port(name: &str) -> Result<Option<PathBuf>> {
    for entry in std::fs::read_dir("/sys/class/virtio-ports")? {
        let entry = entry?;
        let label = std::fs::read_to_string(entry.path().join("name")).unwrap_or_default();
        if label.trim() == name {
            return Ok(Some(Path::new("/dev").join(entry.file_name())));
        }
    }
    Ok(None)
}

/// Waits for the command, and for every orphan that ends meanwhile: they are process 1's to bury.
fn wait(child: &Child) -> Result<i32> {
    let command = Pid::from_raw(child.id().cast_signed());
    loop {
        let Some((ended, status)) = rustix::process::wait(WaitOptions::empty())? else { continue };
        if Some(ended) == command {
            return Ok(code(status));
        }
    }
}

/// As shells count.
fn code(status: WaitStatus) -> i32 {
    let by_signal = || status.terminating_signal().map_or(255, |signal| 128 + signal);
    status.exit_status().unwrap_or_else(by_signal)
}

/// Kernel threads have no arguments.
fn end_processes() {
    for process in processes::all() {
        let pid = Pid::from_raw(process.pid.cast_signed());
        if let Some(pid) = pid.filter(|pid| !pid.is_init())
            && !process.arguments.is_empty()
            && let Err(error) = rustix::process::kill_process(pid, Signal::KILL)
        {
            crate::ui::error(&format!("{} does not end: {error}", process.name));
        }
    }
    // What they had open is closed, and what was mounted for them alone is gone, when they are. All are
    // children by now.
    let until = Instant::now() + END_LIMIT;
    while Instant::now() < until {
        match rustix::process::wait(WaitOptions::NOHANG) {
            Ok(Some(_)) => {}
            Ok(None) => std::thread::sleep(NAP),
            Err(_) => return,
        }
    }
}

/// Disks may be looked at after this machine: their file systems are closed in order.
fn unmount_disks() {
    let table = std::fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for line in table.lines().rev() {
        let Some((head, tail)) = line.split_once(" - ") else { continue };
        let is_disk = tail.split(' ').nth(1).is_some_and(|source| source.starts_with("/dev/"));
        if let Some(point) = head.split(' ').nth(4).filter(|_| is_disk)
            && let Err(error) = rustix::mount::unmount(point, UnmountFlags::empty())
        {
            crate::ui::error(&format!("{point} stays mounted: {error}"));
        }
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn init_runs_nowhere_else() {
        assert!(super::init().is_err());
    }
}
