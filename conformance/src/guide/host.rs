//! The guide's host: `docker` and the system's own programs by their names, berth in dockerd's place.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::daemon::{answers, berth_program};

/// Where everything of the guide's host is.
pub(super) const DATA_ROOT: &str = "/var/lib/docker";
const CONFIG: &str = "/etc/docker/daemon.json";
const SOCKET: &str = "/run/docker.sock";
const LOG: &str = "/var/lib/docker.log";
/// Emulation is slow, and the pool has to be made.
const PATIENCE: Duration = Duration::from_mins(2);
const NAP: Duration = Duration::from_millis(50);

/// A machine that is the guide's; its files are the virtual machine's own.
#[derive(Debug)]
pub(super) struct Host {
    engine: Option<Child>,
    /// Directories of the programs that the engine finds; all, if there are none.
    path: Option<String>,
    /// The disks after the one with the data root.
    pub(super) disks: Vec<String>,
}

impl Host {
    /// In the first boot the disk of the data root is made anew, unless something is there already.
    pub(super) fn new(boot: u32, disks: &str) -> Result<Self> {
        let mut disks = disks.split(':').filter(|disk| !disk.is_empty()).map(str::to_owned);
        let root = disks.next().context("a machine with a disk")?;
        let host = Self { engine: None, path: None, disks: disks.collect() };
        ensure!(host.disks.len() >= 2, "two disks besides the data root's");
        if !sh("cat /proc/self/mounts")?.contains(" /var/lib ") {
            if boot == 1 {
                sh(&format!("mkfs.ext4 -q -F {root}"))?;
            }
            sh(&format!("mount {root} /var/lib"))?;
        }
        std::fs::create_dir_all("/etc/docker")?;
        Ok(host)
    }

    /// What the engine finds of programs: those of these directories only.
    pub(super) fn set_path(&mut self, path: Option<&str>) {
        self.path = path.map(str::to_owned);
    }

    /// The guide's `systemctl start docker`: returns when it serves.
    pub(super) fn start(&mut self) -> Result<()> {
        self.spawn()?;
        let begun = Instant::now();
        while !answers(Path::new(SOCKET)) {
            let engine = self.engine.as_mut().context("it was just started")?;
            if let Some(status) = engine.try_wait()? {
                self.engine = None;
                bail!("the engine ended at once: {status}\n{}", last_words()?);
            }
            ensure!(begun.elapsed() < PATIENCE, "the engine does not serve\n{}", last_words()?);
            std::thread::sleep(NAP);
        }
        Ok(())
    }

    /// Starts it where it is to refuse; gives what it said.
    pub(super) fn start_refused(&mut self) -> Result<String> {
        match self.start() {
            Ok(()) => {
                self.stop()?;
                bail!("it started");
            }
            Err(_) if self.engine.is_none() => last_words(),
            Err(error) => Err(error),
        }
    }

    /// The guide's `systemctl stop docker`.
    pub(super) fn stop(&mut self) -> Result<()> {
        let Some(mut engine) = self.engine.take() else { return Ok(()) };
        let pid = Pid::from_raw(engine.id().cast_signed()).context("a process has a number")?;
        kill_process(pid, Signal::TERM)?;
        let status = engine.wait()?;
        ensure!(status.success(), "the engine ended with {status}\n{}", last_words()?);
        Ok(())
    }

    /// Leaves everything that runs to the end of the machine.
    pub(super) fn leave(mut self) {
        self.engine = None;
    }

    fn spawn(&mut self) -> Result<()> {
        let log = File::create(LOG)?;
        let mut command = Command::new(berth_program()?);
        command.arg("daemon").args(["--data-root", DATA_ROOT, "--config-file", CONFIG]);
        command.args(["--exec-root", "/run/docker", "--pidfile", "/run/docker.pid"]);
        command.arg("--host").arg(format!("unix://{SOCKET}"));
        if let Some(path) = &self.path {
            command.env("PATH", path);
        }
        command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
        self.engine = Some(command.spawn().with_context(|| format!("cannot start {command:?}"))?);
        Ok(())
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        if let Err(error) = self.stop() {
            crate::ui::detail(&format!("{error:#}"));
        }
    }
}

/// What the engine logged since its start.
fn last_words() -> Result<String> {
    let text = std::fs::read(LOG).context(LOG)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// Writes `daemon.json`.
pub(super) fn configure(text: &str) -> Result<()> {
    write(CONFIG, text.as_bytes())
}

/// What `docker info` says up to the storage driver's last line.
pub(super) fn info() -> Result<String> {
    sh("docker info 2>/dev/null | sed -n '/^Server:/,/^ Logging Driver:/p' | sed '1d;$d'")
}

/// Runs a line of shell as root; gives what it printed, or fails with all that it said.
pub(super) fn sh(script: &str) -> Result<String> {
    let mut command = Command::new("bash");
    command.args(["-c", script]).env("LC_ALL", "C");
    command.env("BERTH_HOST", format!("unix://{SOCKET}"));
    let own = berth_program()?;
    let dirs = own.parent().map(Path::display).context("a program is in a directory")?;
    command.env("PATH", format!("{dirs}:{}", std::env::var("PATH").unwrap_or_default()));
    if !Path::new("/run/udev/control").try_exists()? {
        // Else LVM's programs wait for what udev would do.
        command.env("DM_DISABLE_UDEV", "1");
    }
    let done = command.output().with_context(|| format!("cannot run {script}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    if !done.status.success() {
        let (out, error) = (text(&done.stdout), text(&done.stderr));
        bail!("{script}: {}\n{out}{error}", done.status);
    }
    Ok(text(&done.stdout))
}

/// Writes a file.
pub(super) fn write(path: &str, bytes: &[u8]) -> Result<()> {
    use std::io::Write as _;
    File::create(path).and_then(|mut file| file.write_all(bytes)).with_context(|| path.to_owned())
}
