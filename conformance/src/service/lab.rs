//! A daemon in a network namespace of its own, and the docker CLI in the same.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use rustix::process::{Signal, kill_process};

use crate::daemon::BerthDaemon;

/// Longer than anything here takes.
const PATIENCE: Duration = Duration::from_secs(20);

/// What a command printed, and its exit code.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Output {
    pub(super) code: i32,
    pub(super) stdout: String,
    pub(super) stderr: String,
}

/// A daemon that is not started yet.
pub(super) fn prepare(name: &str) -> Result<BerthDaemon> {
    let mut daemon = BerthDaemon::prepare(&format!("berth-service-{name}"))?;
    daemon.set_namespace()?;
    Ok(daemon)
}

/// A daemon with the image `box`.
pub(super) fn start(name: &str, flags: &[&str]) -> Result<BerthDaemon> {
    let mut daemon = prepare(name)?;
    daemon.set_flags(flags);
    daemon.restart()?;
    let import = "tar -C / -c bin/busybox | docker -H \"$SOCKET\" import - box";
    let done =
        finish(in_namespace(&daemon, "sh").args(["-c", import]).env("SOCKET", socket(&daemon)))?;
    ensure!(done.code == 0, "no image: {}", done.stderr);
    Ok(daemon)
}

fn socket(daemon: &BerthDaemon) -> String {
    format!("unix://{}", daemon.socket().display())
}

/// Runs the docker CLI on the daemon's own socket.
pub(super) fn docker(daemon: &BerthDaemon, args: &[&str]) -> Result<Output> {
    docker_at(daemon, &socket(daemon), args)
}

/// Runs the docker CLI on another address.
pub(super) fn docker_at(daemon: &BerthDaemon, host: &str, args: &[&str]) -> Result<Output> {
    finish(in_namespace(daemon, "docker").args(["-H", host]).args(args))
}

/// Runs it, and gives its output when it succeeds.
pub(super) fn expect(daemon: &BerthDaemon, args: &[&str]) -> Result<String> {
    let done = docker(daemon, args)?;
    ensure!(done.code == 0, "docker {args:?}: {}", done.stderr);
    Ok(done.stdout)
}

/// Runs berth's own command line on the daemon's socket.
pub(super) fn berth(daemon: &BerthDaemon, args: &[&str]) -> Result<Output> {
    finish(Command::new(crate::daemon::berth_program()?).args(["-H", &socket(daemon)]).args(args))
}

/// Runs berth's command line, and kills the daemon when it reaches `step`; then the daemon runs again.
pub(super) fn killed_at(
    daemon: &mut BerthDaemon,
    steps: &Path,
    step: &str,
    args: &[&str],
) -> Result<()> {
    let socket = socket(daemon);
    let program = crate::daemon::berth_program()?;
    let mut command = Command::new(program);
    command.args(["-H", &socket]).args(args);
    killed(daemon, steps, step, command)
}

/// Like [`killed_at`], with docker's command line.
pub(super) fn killed_at_docker(
    daemon: &mut BerthDaemon,
    steps: &Path,
    step: &str,
    args: &[&str],
) -> Result<()> {
    let mut command = Command::new("docker");
    command.args(["-H", &socket(daemon)]).args(args);
    killed(daemon, steps, step, command)
}

fn killed(daemon: &mut BerthDaemon, steps: &Path, step: &str, mut command: Command) -> Result<()> {
    daemon.stop()?;
    put(steps, "")?;
    let file = steps.display().to_string();
    daemon.set_env(&[("BERTH_STEPS", &file), ("BERTH_STEPS_PAUSE_MS", "300")]);
    daemon.restart()?;
    let mut client =
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).spawn()?;
    let reached = wait_until(step, || {
        let lines = std::fs::read_to_string(steps)?;
        Ok(lines.lines().any(|line| line.split(' ').next() == Some(step)))
    });
    daemon.kill9()?;
    client.wait()?;
    daemon.set_env(&[]);
    daemon.restart()?;
    reached
}

/// Runs a line of shell.
pub(super) fn shell(line: &str, env: &[(&str, &str)]) -> Result<Output> {
    finish(Command::new("sh").args(["-c", line]).envs(env.iter().copied()))
}

/// A directory that is removed in the end.
pub(super) struct Gone(pub(super) std::path::PathBuf);

impl Drop for Gone {
    fn drop(&mut self) {
        match std::fs::remove_dir_all(&self.0) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                crate::ui::line(&format!("{} stays: {error}", self.0.display()));
            }
            _ => {}
        }
    }
}

fn in_namespace(daemon: &BerthDaemon, program: &str) -> Command {
    let mut command = Command::new("nsenter");
    command.args(daemon.namespace_flag()).arg("--").arg(program);
    // Whatever this user's CLI is configured to do is not what is looked at.
    command.env("DOCKER_CONFIG", daemon.exec_root().join("cli"));
    command.env_remove("DOCKER_HOST").env_remove("DOCKER_TLS_VERIFY").env_remove("DOCKER_CONTEXT");
    command
}

fn finish(command: &mut Command) -> Result<Output> {
    let output = command.stdin(Stdio::null()).output().with_context(|| format!("{command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).trim().to_owned();
    Ok(Output {
        code: output.status.code().unwrap_or(-1),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// Runs the daemon until it ends by itself; its exit code, and the end of its log.
pub(super) fn refused(daemon: &mut BerthDaemon) -> Result<(i32, String)> {
    daemon.spawn()?;
    let begun = Instant::now();
    loop {
        if let Some(status) = daemon.ended()? {
            return Ok((status.code().unwrap_or(-1), daemon.end_of_log()));
        }
        ensure!(begun.elapsed() < PATIENCE, "the daemon goes on");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Sends the daemon a signal.
pub(super) fn signal(daemon: &BerthDaemon, signal: Signal) -> Result<()> {
    Ok(kill_process(daemon.pid().context("the daemon runs")?, signal)?)
}

/// Waits until `condition` holds.
pub(super) fn wait_until(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let begun = Instant::now();
    while !condition()? {
        if begun.elapsed() > PATIENCE {
            bail!("waited too long until {what}");
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    Ok(())
}

/// Writes a file, over what is there.
pub(super) fn put(path: &Path, text: &str) -> Result<()> {
    let mut file = std::fs::File::create(path).with_context(|| path.display().to_string())?;
    Ok(file.write_all(text.as_bytes())?)
}

/// A CA, and certificates of it for a server on loopback and for a client, in `dir`.
pub(super) fn certificates(dir: &Path) -> Result<()> {
    std::fs::create_dir_all(dir)?;
    put(&dir.join("server.ext"), "subjectAltName=IP:127.0.0.1\nextendedKeyUsage=serverAuth\n")?;
    put(&dir.join("client.ext"), "extendedKeyUsage=clientAuth\n")?;
    let openssl = |words: &str| -> Result<()> {
        let words = words.split_whitespace();
        let done = finish(Command::new("openssl").args(words).current_dir(dir))?;
        ensure!(done.code == 0, "openssl: {}", done.stderr);
        Ok(())
    };
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(&format!("req -x509 {key} -keyout ca-key.pem -out ca.pem -days 2 -subj /CN=ca"))?;
    for who in ["server", "client"] {
        openssl(&format!("req {key} -keyout {who}-key.pem -out {who}.csr -subj /CN={who}"))?;
        openssl(&format!(
            "x509 -req -in {who}.csr -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 2 \
             -extfile {who}.ext -out {who}.pem"
        ))?;
    }
    Ok(())
}
