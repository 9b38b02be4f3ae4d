//! The cases.

use std::os::unix::net::{UnixDatagram, UnixListener};
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, ensure};
use rustix::process::Signal;

use super::lab::{self, docker, docker_at, expect, put, refused, wait_until};
use super::{Case, storage};
use crate::daemon::{BerthDaemon, berth_program};

/// All of them.
pub(super) const ALL: &[Case] = &[
    Case { name: "a socket that was handed over is served and left", run: handed_socket },
    Case { name: "a service manager is told of start and end", run: notified },
    Case { name: "SIGHUP takes over what may change", run: reloaded },
    Case { name: "TLS asks for a certificate of the CA", run: tls },
    Case { name: "what is wrong refuses the start with exit code 1", run: bad_starts },
    Case { name: "a check of the storage finds damage and nothing else", run: storage::checked },
    Case { name: "a repair mends the storage or says what is missing", run: storage::repaired },
    Case { name: "the storage is shown with what it takes", run: storage::shown },
    Case {
        name: "a backup beside a writing container is restored elsewhere",
        run: storage::backed_up,
    },
    Case {
        name: "a backup that is killed leaves nothing that looks complete",
        run: storage::backup_killed,
    },
    Case {
        name: "a repair that is killed at any step is finished later",
        run: storage::repair_killed,
    },
    Case { name: "containers stay when the daemon stops", run: containers_stay },
    Case { name: "without live-restore they stop with it", run: containers_stop },
];

fn handed_socket() -> Result<()> {
    let mut daemon = lab::prepare("fd")?;
    let path = daemon.exec_root().join("handed.sock");
    let listener = UnixListener::bind(&path)?;
    let berth = berth_program()?.display().to_string();
    // What a service manager does: the socket is descriptor 3, and the variables name this process.
    let script = "exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec \"$@\"";
    daemon.set_program(&["sh", "-c", script, "sh", &berth, "daemon"]);
    daemon.set_stdin(listener.into());
    daemon.set_flags(&["--host=fd://"]);
    daemon.restart()?;
    let host = format!("unix://{}", path.display());
    let format = ["version", "--format", "{{.Server.Version}}"];
    let answer = docker_at(&daemon, &host, &format)?;
    ensure!(answer.code == 0 && answer.stdout == expect(&daemon, &format)?, "{answer:?}");
    daemon.stop()?;
    ensure!(path.try_exists()?, "the socket is not the daemon's to remove");
    Ok(())
}

fn notified() -> Result<()> {
    let mut daemon = lab::prepare("notify")?;
    let path = daemon.exec_root().join("notify.sock");
    let socket = UnixDatagram::bind(&path)?;
    socket.set_read_timeout(Some(Duration::from_secs(20)))?;
    daemon.set_env(&[("NOTIFY_SOCKET", path.to_str().context("a plain path")?)]);
    daemon.restart()?;
    let hear = || -> Result<String> {
        let mut buffer = [0; 512];
        let length = socket.recv(&mut buffer).context("nothing was told")?;
        Ok(String::from_utf8_lossy(&buffer[..length]).into_owned())
    };
    let first = hear()?;
    ensure!(first.lines().any(|line| line == "READY=1"), "{first:?}");
    daemon.stop()?;
    let last = hear()?;
    ensure!(last.lines().any(|line| line == "STOPPING=1"), "{last:?}");
    Ok(())
}

fn reloaded() -> Result<()> {
    let mut daemon = lab::prepare("reload")?;
    let file = daemon.exec_root().join("daemon.json");
    put(&file, "{\"labels\": [\"a=1\"]}")?;
    daemon.restart()?;
    let labels =
        |daemon: &BerthDaemon| expect(daemon, &["info", "--format", "{{json .Labels}} {{.Debug}}"]);
    ensure!(labels(&daemon)? == "[\"a=1\"] false", "{}", labels(&daemon)?);
    put(&file, "{\"labels\": [\"a=2\"], \"debug\": true}")?;
    lab::signal(&daemon, Signal::HUP)?;
    wait_until("the labels change", || Ok(labels(&daemon)? == "[\"a=2\"] true"))?;
    // The CLI cuts times to seconds.
    let soon = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?.as_secs() + 1;
    let until = format!("--until={soon}");
    let filter = "--filter=event=reload";
    let events =
        expect(&daemon, &["events", "--since=1m", &until, filter, "--format", "{{.Type}}"])?;
    ensure!(events == "daemon", "{events:?}");
    // A file that is wrong changes nothing, and does not end the daemon.
    put(&file, "{\"labels\": [\"a=3\"], \"no-such-key\": 1}")?;
    lab::signal(&daemon, Signal::HUP)?;
    wait_until("the log tells of it", || Ok(daemon.end_of_log().contains("no-such-key")))?;
    ensure!(labels(&daemon)? == "[\"a=2\"] true", "{}", labels(&daemon)?);
    Ok(())
}

fn tls() -> Result<()> {
    let mut daemon = lab::prepare("tls")?;
    let dir = daemon.exec_root().join("certificates");
    lab::certificates(&dir)?;
    let file = |name: &str| dir.join(name).display().to_string();
    let host = "tcp://127.0.0.1:2376";
    let served = format!("--host={host}");
    let (ca, own, key) = (
        format!("--tlscacert={}", file("ca.pem")),
        format!("--tlscert={}", file("server.pem")),
        format!("--tlskey={}", file("server-key.pem")),
    );
    daemon.set_flags(&["--tlsverify", &ca, &own, &key, &served]);
    daemon.restart()?;
    let format = ["version", "--format", "{{.Server.Version}}"];
    let (client, client_key) = (
        format!("--tlscert={}", file("client.pem")),
        format!("--tlskey={}", file("client-key.pem")),
    );
    let with = [&["--tlsverify", &ca, &client, &client_key][..], &format[..]].concat();
    let answer = docker_at(&daemon, host, &with)?;
    ensure!(answer.code == 0, "with a certificate: {answer:?}");
    let without = [&["--tls", &ca][..], &format[..]].concat();
    let answer = docker_at(&daemon, host, &without)?;
    ensure!(answer.code == 1, "without a certificate: {answer:?}");
    let answer = docker_at(&daemon, host, &format)?;
    let plain = "Client sent an HTTP request to an HTTPS server.";
    ensure!(answer.code == 1 && answer.stderr.contains(plain), "without TLS: {answer:?}");
    let answer = docker(&daemon, &format)?;
    ensure!(answer.code == 0, "the unix socket needs none: {answer:?}");
    Ok(())
}

fn bad_starts() -> Result<()> {
    #[rustfmt::skip]
    let table: &[(&str, &[&str], &str)] = &[
        ("{",                          &[],                     "unexpected end of JSON input"),
        ("{\"no-such-key\": 1}",       &[],                     "the following directives don't match any configuration option: no-such-key"),
        ("{\"debug\": true}",          &["--debug"],            "the following directives are specified both as a flag and in the configuration file: debug: (from flag: true, from file: true)"),
        ("{\"storage-driver\": \"nosuch\"}", &[],               "error initializing graphdriver: driver not supported"),
        ("{}",                         &["--host=nosuch://x"],  "invalid bind address (nosuch://x): unsupported proto 'nosuch'"),
        ("{}",                         &["--host=fd://"],       "no sockets found via socket activation: make sure the service was started by systemd"),
        ("{}",                         &["--label=x"],          "bad attribute format: x"),
    ];
    for (config, flags, expected) in table {
        let mut daemon = lab::prepare("bad")?;
        put(&daemon.exec_root().join("daemon.json"), config)?;
        daemon.set_flags(flags);
        let (code, log) = refused(&mut daemon)?;
        ensure!(code == 1 && log.contains(expected), "{config} {flags:?}: {code}, {log}");
    }
    let first = lab::start("one", &[])?;
    let mut second = lab::prepare("two")?;
    second.set_data_root(first.data_root());
    let (code, log) = refused(&mut second)?;
    ensure!(code == 1 && log.contains("another daemon uses the data root"), "{code}, {log}");
    ensure!(expect(&first, &["images", "-q"])?.len() == 12, "the first daemon goes on");
    Ok(())
}

pub(super) const SLEEPER: [&str; 8] =
    ["run", "-d", "--name=sleeper", "--network=none", "box", "/bin/busybox", "sleep", "600"];
pub(super) const STATE: [&str; 4] =
    ["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "sleeper"];
const PID: [&str; 4] = ["inspect", "--format", "{{.State.Pid}}", "sleeper"];

fn containers_stay() -> Result<()> {
    let mut daemon = lab::start("stay", &[])?;
    expect(&daemon, &SLEEPER)?;
    let pid = expect(&daemon, &PID)?;
    daemon.stop()?;
    daemon.restart()?;
    ensure!(expect(&daemon, &STATE)? == "running 0", "{}", expect(&daemon, &STATE)?);
    ensure!(expect(&daemon, &PID)? == pid, "it is another process");
    expect(&daemon, &["rm", "-f", "sleeper"]).map(drop)
}

fn containers_stop() -> Result<()> {
    let mut daemon = lab::start("stop", &["--live-restore=false", "--shutdown-timeout=1"])?;
    expect(&daemon, &SLEEPER)?;
    let pid = expect(&daemon, &PID)?;
    daemon.stop()?;
    let proc = std::path::PathBuf::from(format!("/proc/{pid}"));
    ensure!(!proc.try_exists()?, "its process is left");
    daemon.restart()?;
    // Init of a pid namespace is not ended by a SIGTERM that it does not handle.
    ensure!(expect(&daemon, &STATE)? == "exited 137", "{}", expect(&daemon, &STATE)?);
    Ok(())
}
