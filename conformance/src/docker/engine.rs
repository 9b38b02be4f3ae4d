//! The engines that cases run on.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::daemon::BerthDaemon;

/// What berth calls its platform in `docker version`.
pub(super) const BERTH: &str = "berth";

const EXPERIMENTAL: &str = "--experimental";

/// What an engine is told beside its directories.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Plain,
    /// To remap users.
    Remapping,
    /// To have experimental features.
    Experimental,
}

/// An engine and how to reach it.
#[derive(Debug)]
pub(super) struct Engine {
    socket: PathBuf,
    daemon: Option<BerthDaemon>,
}

/// Which engine it is.
#[derive(Debug)]
pub(super) struct Version {
    /// `berth`, or `dockerd` for anything else.
    pub(super) name: String,
    pub(super) number: String,
}

impl Engine {
    /// berth, with this storage driver or the one it chooses, its data root on a file system of
    /// this kind or on what the machine has.
    pub(super) fn berth(driver: Option<&str>, file_system: Option<&str>) -> Result<Self> {
        let mut daemon = BerthDaemon::prepare(&format!("berth-{}", driver.unwrap_or("conf")))?;
        if let Some(kind) = file_system {
            daemon.put_on(kind)?;
        }
        let flags = driver.map(|driver| format!("--storage-driver={driver}"));
        daemon.set_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
        Self::own(daemon)
    }

    /// berth, with containers whose users are remapped.
    pub(super) fn remapping_berth() -> Result<Self> {
        let mut daemon = BerthDaemon::prepare("berth-userns")?;
        daemon.set_remapping();
        Self::own(daemon)
    }

    /// berth, with experimental features.
    pub(super) fn experimental_berth() -> Result<Self> {
        let mut daemon = BerthDaemon::prepare("berth-experimental")?;
        daemon.set_flags(&[EXPERIMENTAL]);
        Self::own(daemon)
    }

    /// dockerd on directories of its own.
    pub(super) fn dockerd(kind: Kind) -> Result<Self> {
        let mut daemon = BerthDaemon::prepare("berth-conf-dockerd")?;
        daemon.set_program(&["dockerd"]);
        match kind {
            Kind::Plain => {}
            Kind::Remapping => daemon.set_remapping(),
            Kind::Experimental => daemon.set_flags(&[EXPERIMENTAL]),
        }
        Self::own(daemon)
    }

    /// dockerd in the network of `other`, to exchange images with it.
    pub(super) fn witness(other: &Self) -> Result<Self> {
        let mut daemon = BerthDaemon::prepare("berth-conf-witness")?;
        daemon.set_program(&["dockerd"]);
        daemon.set_flags(&["--bridge=none", "--iptables=false", "--ip6tables=false"]);
        daemon.set_beside(other.namespace_flag());
        daemon.restart()?;
        Ok(Self { socket: daemon.socket(), daemon: Some(daemon) })
    }

    fn own(mut daemon: BerthDaemon) -> Result<Self> {
        daemon.set_namespace()?;
        daemon.restart()?;
        Ok(Self { socket: daemon.socket(), daemon: Some(daemon) })
    }

    /// One that runs already. It must hold nothing, for the cases prune.
    pub(super) fn foreign(socket: &Path) -> Result<Self> {
        let engine = Self { socket: socket.to_owned(), daemon: None };
        for args in [["ps", "-aq"].as_slice(), &["images", "-aq"], &["volume", "ls", "-q"]] {
            let held = output(engine.docker().args(args))?;
            if !held.is_empty() {
                bail!("{} is in use: docker {} lists something", socket.display(), args.join(" "));
            }
        }
        Ok(engine)
    }

    /// The value of `DOCKER_HOST`.
    pub(super) fn host(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The flag of nsenter that leads to its network, if it has one of its own.
    pub(super) fn namespace_flag(&self) -> Option<String> {
        self.daemon.as_ref()?.namespace_flag()
    }

    /// The docker CLI, pointed at this engine.
    pub(super) fn docker(&self) -> Command {
        let mut command = Command::new("docker");
        command.env("DOCKER_HOST", self.host()).env_remove("DOCKER_API_VERSION");
        command
    }

    /// The directories that appear in its answers, and the names they get in transcripts.
    pub(super) fn paths(&self) -> Result<Vec<(String, String)>> {
        let root = output(self.docker().args(["info", "--format", "{{.DockerRootDir}}"]))?;
        Ok(vec![
            (root, "<data-root>".to_owned()),
            (self.socket.display().to_string(), "<socket>".to_owned()),
        ])
    }

    pub(super) fn version(&self) -> Result<Version> {
        let ask = |format: &str| output(self.docker().args(["version", "--format", format]));
        let berth = ask("{{.Server.Platform.Name}}")? == BERTH;
        Ok(Version {
            name: if berth { BERTH } else { "dockerd" }.to_owned(),
            number: ask("{{.Server.Version}}")?,
        })
    }

    /// Ends it. Fails when the engine has ended by itself, has logged a panic, or does not end.
    pub(super) fn finish(mut self) -> Result<()> {
        let Some(mut daemon) = self.daemon.take() else { return Ok(()) };
        if let Some(status) = daemon.ended()? {
            bail!("the daemon has ended by itself: {status}\n{}", daemon.end_of_log());
        }
        if std::env::var_os("BERTH_KEEP").is_none() {
            daemon.stop()?;
        }
        let log = std::fs::read_to_string(daemon.log())?;
        if let Some(line) = log.lines().find(|line| line.contains("panicked at")) {
            bail!("the daemon has logged a panic: {line}");
        }
        Ok(())
    }
}

/// The version of the docker CLI on the path, as `28.2.2`.
pub(super) fn cli_version() -> Result<String> {
    let text = output(Command::new("docker").arg("--version"))?;
    let number =
        text.strip_prefix("Docker version ").and_then(|rest| rest.split([',', '+']).next());
    Ok(number.with_context(|| format!("docker --version says {text:?}"))?.to_owned())
}

/// Standard output of a command that must succeed, trimmed.
pub(super) fn output(command: &mut Command) -> Result<String> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
}
