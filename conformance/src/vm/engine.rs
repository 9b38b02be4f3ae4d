//! A daemon on a scratch disk, and containers of it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::client::{Client, Request};
use crate::daemon::BerthDaemon;
use crate::kill::fixture;
use crate::wait;

/// How long to wait for what should come soon; emulation is slow.
const PATIENCE: Duration = Duration::from_secs(20);
/// Where the daemon's directories are.
const DATA: &str = "/var/lib";

/// A daemon with one image.
#[derive(Debug)]
pub(super) struct Engine {
    daemon: BerthDaemon,
    api: Client,
}

impl Engine {
    /// Starts one with these flags, over the storage driver that they name or that berth chooses.
    pub(super) fn start(flags: &[&str]) -> Result<Self> {
        mount_disk()?;
        let mut daemon = BerthDaemon::prepare("berth-vm")?;
        daemon.set_flags(flags);
        daemon.restart()?;
        let api = Client::new(&daemon.socket());
        let import =
            Request::post_tar("/images/create?fromSrc=-&repo=vm", fixture::busybox_layer()?);
        api.expect(&import)?;
        Ok(Self { daemon, api })
    }

    /// As if it had crashed, and somebody had started it again.
    pub(super) fn kill_and_restart(&mut self) -> Result<()> {
        self.daemon.kill9()?;
        self.start_again()
    }

    pub(super) fn stop(&mut self) -> Result<()> {
        self.daemon.stop()
    }

    pub(super) fn start_again(&mut self) -> Result<()> {
        self.daemon.restart().map(drop)
    }

    pub(super) fn data_root(&self) -> &Path {
        self.daemon.data_root()
    }

    /// A container that [left](Container::leave) its handle.
    pub(super) fn container(&self, id: String) -> Container<'_> {
        Container { api: &self.api, id }
    }

    pub(super) fn socket(&self) -> PathBuf {
        self.daemon.socket()
    }

    pub(super) fn api(&self) -> &Client {
        &self.api
    }

    pub(super) fn end_of_log(&self) -> String {
        self.daemon.end_of_log()
    }

    /// A container of this shell script that runs.
    pub(super) fn run(&self, script: &str, host_config: &Value) -> Result<Container<'_>> {
        let mut host_config = host_config.clone();
        host_config["NetworkMode"] = "none".into();
        // A terminal: its log has no frames.
        self.run_config(&json!({
            "Image": "vm", "Cmd": ["sh", "-c", script], "Tty": true, "HostConfig": host_config,
        }))
    }

    pub(super) fn run_config(&self, config: &Value) -> Result<Container<'_>> {
        let made = self.api.post("/containers/create", config.clone())?.json()?;
        let id = made["Id"].as_str().context("create gives an id")?.to_owned();
        let container = Container { api: &self.api, id };
        container.api.post(&container.path("/start"), Value::Null)?;
        Ok(container)
    }
}

/// A container, removed when it is dropped.
#[derive(Debug)]
pub(super) struct Container<'a> {
    api: &'a Client,
    id: String,
}

impl Container<'_> {
    /// A path of the API below this container.
    pub(super) fn path(&self, rest: &str) -> String {
        format!("/containers/{}{rest}", self.id)
    }

    pub(super) fn post(&self, rest: &str, body: Value) -> Result<Value> {
        let answer = self.api.post(&self.path(rest), body)?;
        if answer.body.is_empty() { Ok(Value::Null) } else { answer.json() }
    }

    pub(super) fn state(&self) -> Result<Value> {
        Ok(self.api.get(&self.path("/json"))?["State"].take())
    }

    /// Waits for its end; gives its exit code.
    pub(super) fn wait(&self) -> Result<i64> {
        let answer = self.post("/wait", Value::Null)?;
        answer["StatusCode"].as_i64().context("wait gives a code")
    }

    pub(super) fn output(&self) -> Result<String> {
        let bytes = self.api.bytes(&self.path("/logs?stdout=1"))?;
        Ok(String::from_utf8_lossy(&bytes).replace('\r', ""))
    }

    /// Its control group, by the kernel's word for its first process.
    pub(super) fn cgroup(&self) -> Result<PathBuf> {
        cgroup_of(self.pid()?)
    }

    pub(super) fn pid(&self) -> Result<u64> {
        self.state()?["Pid"].as_u64().filter(|pid| *pid > 0).context("it does not run")
    }

    /// Runs a command in it, and gives the exec's record.
    pub(super) fn exec(&self, words: &[&str]) -> Result<Value> {
        let made = self.post("/exec", json!({ "Cmd": words }))?;
        let id = made["Id"].as_str().context("exec gives an id")?;
        self.api.post(&format!("/exec/{id}/start"), json!({ "Detach": true }))?;
        self.api.get(&format!("/exec/{id}/json"))
    }

    /// Lets it run on without this handle; gives its id.
    pub(super) fn leave(mut self) -> String {
        std::mem::take(&mut self.id)
    }

    pub(super) fn remove(&self) -> Result<()> {
        self.api.delete(&self.path("?force=1")).map(|_| ())
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        if self.id.is_empty() {
            return;
        }
        if let Err(error) = self.remove()
            && !format!("{error:#}").contains("No such container")
        {
            crate::ui::detail(&format!("a container stays: {error:#}"));
        }
    }
}

/// The control group of a process.
pub(super) fn cgroup_of(pid: u64) -> Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup"))?;
    let [line] = text.lines().collect::<Vec<_>>()[..] else {
        bail!("more than one hierarchy: {text:?}");
    };
    let path = line.strip_prefix("0::/").with_context(|| format!("not version 2: {line:?}"))?;
    Ok(Path::new("/sys/fs/cgroup").join(path))
}

/// A value of a control group.
pub(super) fn read(cgroup: &Path, file: &str) -> Result<String> {
    let path = cgroup.join(file);
    let text = std::fs::read_to_string(&path);
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    Ok(text.trim().to_owned())
}

/// Waits for what should come soon.
pub(super) fn eventually(what: &str, is_so: impl FnMut() -> Result<bool>) -> Result<()> {
    wait::within(PATIENCE, what, is_so)
}

/// The machine's root is an overlay, on which overlay2 has no place. Once for all engines.
fn mount_disk() -> Result<()> {
    if is_mounted(DATA)? {
        return Ok(());
    }
    let disks = std::env::var("BERTH_VM_DISKS").unwrap_or_default();
    let disk = disks.split(':').find(|disk| !disk.is_empty()).context("a machine with a disk")?;
    for words in [&["mkfs.ext4", "-q", "-F", disk][..], &["mount", disk, DATA]] {
        let done = Command::new(words[0]).args(&words[1..]).output()?;
        if !done.status.success() {
            bail!("{words:?}: {}", String::from_utf8_lossy(&done.stderr));
        }
    }
    Ok(())
}

fn is_mounted(dir: &str) -> Result<bool> {
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    Ok(mounts.lines().any(|line| line.split(' ').nth(1) == Some(dir)))
}
