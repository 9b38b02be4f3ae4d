//! Debian's `docker-registry` beside an engine, in its network namespace: one that is open to
//! everybody, and one that asks for `user` and `secret`.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tempfile::TempDir;

/// Where the open one listens.
pub(crate) const OPEN: &str = "127.0.0.1:5000";
/// Where the other one does.
pub(crate) const LOCKED: &str = "127.0.0.1:5001";

/// `secret`, as htpasswd writes it.
const USERS: &str = "user:$2y$05$abcdefghijklmnopqrstuuOQiyCxlgf/oeuTqixKmWdcYUh4Hjl0a\n";
/// How long one may take to come up.
const START: Duration = Duration::from_secs(20);

/// Both, until this is dropped.
#[derive(Debug)]
pub(crate) struct Registries {
    /// Removed after they are gone.
    dir: TempDir,
    running: Vec<Child>,
}

impl Registries {
    /// Starts them; `namespace` is nsenter's flag, where the engine has a network of its own.
    pub(crate) fn start(namespace: Option<&str>) -> Result<Self> {
        let mut this = Self { dir: TempDir::with_prefix("registry-")?, running: Vec::new() };
        let users = this.dir.path().join("users");
        File::create_new(&users)?.write_all(USERS.as_bytes())?;
        let ask = format!("auth: {{ htpasswd: {{ realm: berth, path: {} }} }}\n", users.display());
        for (name, address, auth) in [("open", OPEN, ""), ("locked", LOCKED, &*ask)] {
            let child = start(this.dir.path(), name, namespace, address, auth)?;
            this.running.push(child);
        }
        for name in ["open", "locked"] {
            wait(&this.dir.path().join(name).with_extension("log"))?;
        }
        Ok(this)
    }

    /// Where the open one keeps what it has.
    pub(crate) fn open_dir(&self) -> PathBuf {
        self.dir.path().join("open")
    }
}

impl Drop for Registries {
    fn drop(&mut self) {
        for child in &mut self.running {
            if let Err(error) = child.kill().and_then(|()| child.wait()) {
                crate::ui::detail(&format!("a registry does not end: {error}"));
            }
        }
    }
}

fn start(
    dir: &Path,
    name: &str,
    namespace: Option<&str>,
    address: &str,
    auth: &str,
) -> Result<Child> {
    let config = dir.join(name).with_extension("yml");
    let text = format!(
        "version: 0.1\nlog: {{ level: info }}\nhttp: {{ addr: '{address}' }}\n\
         storage: {{ filesystem: {{ rootdirectory: {} }} }}\n{auth}",
        dir.join(name).display(),
    );
    File::create_new(&config)?.write_all(text.as_bytes())?;
    let log = File::create_new(dir.join(name).with_extension("log"))?;
    let mut words = vec!["docker-registry", "serve"];
    if let Some(flag) = namespace {
        words.splice(0..0, ["nsenter", flag, "--"]);
    }
    let mut command = Command::new(words[0]);
    command.args(&words[1..]).arg(&config).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    command.spawn().context("cannot start docker-registry")
}

fn wait(log: &Path) -> Result<()> {
    let until = Instant::now() + START;
    loop {
        let said = std::fs::read_to_string(log)?;
        if said.contains("listening on") {
            return Ok(());
        }
        if Instant::now() > until {
            bail!("docker-registry does not listen: {said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
