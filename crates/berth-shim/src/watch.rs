//! A watcher's life: detach, create, report, watch, clean up.

use std::collections::BTreeMap;
use std::fs;
use std::io::{self as stdio, Write as _};
use std::os::unix::net::UnixListener;
use std::path::Path;

use berth_logs::{Writer, WriterOptions};
use berth_shim_proto::{Event, ExitRecord, LogTarget, Ready, ShimConfig};
use berth_sys::fork::{Forked, daemonize, fork};
use berth_sys::signals::SignalFd;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cgroups::Cgroups;
use crate::error::ShimError;
use crate::io::{self, Ends};
use crate::process::{Process, end_fork, host_uid, in_fork, receive_terminal};
use crate::shim::{INIT, Shim};
use crate::state::{self, SpecPart};
use crate::status::{Heard, Outcome, Report};
use crate::{create, mounts, say};

const SIGNALS: [i32; 5] = [1, 2, 3, 15, 17];

/// Watches a container from its creation to its end. The calling process returns at once when the
/// watcher has detached.
pub(crate) fn run(dir: &Path) -> Result<(), ShimError> {
    let bundle = fs::canonicalize(dir).map_err(ShimError::file("open", dir))?;
    let config = state::read_config(&bundle)?;
    io::close_others(&[]).map_err(ShimError::system("close what was inherited"))?;
    if let Forked::Parent { .. } = daemonize().map_err(ShimError::system("detach"))? {
        return Ok(());
    }
    let signals = settle().map_err(ShimError::system("detach"))?;
    let spec = match prepare(&bundle, &config) {
        Ok(spec) => spec,
        Err(error) => return give_up(&error),
    };
    let cgroups_path = spec.cgroups_path(&config.id);
    let cgroups = match Cgroups::find(&cgroups_path) {
        Ok(cgroups) => cgroups,
        Err(source) => {
            return give_up(&ShimError::File {
                action: "find the control groups of",
                path: cgroups_path,
                source,
            });
        }
    };
    let created = mounts::set_up(&config).and_then(|()| {
        begin(&bundle, &config, &spec, &cgroups, signals).inspect_err(|_| {
            undo(&bundle, &config, &cgroups);
        })
    });
    match created {
        Ok(shim) => watch(shim),
        Err(error) => give_up(&error),
    }
}

/// Undoes what a watcher left that was killed.
pub(crate) fn cleanup(dir: &Path) -> Result<(), ShimError> {
    let bundle = fs::canonicalize(dir).map_err(ShimError::file("open", dir))?;
    let config = state::read_config(&bundle)?;
    let path = SpecPart::read(&bundle)?.cgroups_path(&config.id);
    let cgroups = Cgroups::find(&path).map_err(ShimError::file("find", &path))?;
    undo(&bundle, &config, &cgroups);
    Ok(())
}

fn prepare(bundle: &Path, config: &ShimConfig) -> Result<SpecPart, ShimError> {
    state::replace(bundle, state::SHIM_PID, &std::process::id().to_string())?;
    // Of an earlier run of the same container.
    for stale in [state::EXIT, state::INIT_PID, state::SOCKET, state::CONSOLE] {
        state::remove(&bundle.join(stale));
    }
    state::remove(&bundle.join(state::STATE_DIR).join(&config.id));
    SpecPart::read(bundle)
}

/// Tells the daemon that there is no container.
fn give_up(error: &ShimError) -> Result<(), ShimError> {
    report(&Ready::Failed(error.failure(128)))
}

/// Makes the fork a process of its own: nothing of the daemon's but the pipe and the log.
fn settle() -> stdio::Result<SignalFd> {
    // Executed through a descriptor, it would be called by the descriptor's number.
    rustix::thread::set_name(c"berth-shim")?;
    rustix::process::chdir("/")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::stdio::dup2_stdin(io::dev_null()?)?;
    berth_sys::process::become_subreaper()?;
    // Blocked, so that nothing but SIGKILL ends the watcher before its container.
    SignalFd::new(&SIGNALS)
}

fn report(ready: &Ready) -> Result<(), ShimError> {
    let tell = || {
        let mut line = serde_json::to_vec(ready)?;
        line.push(b'\n');
        // A daemon that is gone reads `exit.json` or finds the socket.
        drop(stdio::stdout().write_all(&line));
        rustix::stdio::dup2_stdout(io::dev_null()?)?;
        Ok(())
    };
    tell().map_err(ShimError::system("report"))
}

fn begin(
    bundle: &Path,
    config: &ShimConfig,
    spec: &SpecPart,
    cgroups: &Cgroups,
    signals: SignalFd,
) -> Result<Shim, ShimError> {
    let log = open_log(&config.log)?;
    let (pid, ends) = create_container(bundle, config, host_uid(config, spec.uid())?)?;
    if let Some(dir) = cgroups.unified() {
        enforce_devices(bundle, dir)?;
    }
    state::replace(bundle, state::INIT_PID, &pid.to_string())?;
    let init = Process::init(config, pid, ends)?;
    let listener = listen(bundle, state::SOCKET)?;
    listener.set_nonblocking(true).map_err(ShimError::system("listen"))?;
    let oom_fd = cgroups.watch_oom().unwrap_or_else(|error| {
        say(&format!("cannot watch for lack of memory: {error}"));
        None
    });
    Ok(Shim {
        bundle: bundle.to_owned(),
        config: config.clone(),
        cgroups: cgroups.clone(),
        namespaces: spec.namespaces()?,
        signals,
        listener: Some(listener),
        processes: BTreeMap::from([(INIT, init)]),
        conns: BTreeMap::new(),
        log,
        oom_fd,
        oom: false,
        started: false,
        paused: false,
        next_key: 0,
        unclaimed: BTreeMap::new(),
        compressor: None,
        buffer: Vec::new(),
    })
}

fn open_log(target: &LogTarget) -> Result<Option<Writer>, ShimError> {
    let LogTarget::JsonFile { path, max_size, max_file, compress, attrs } = target else {
        return Ok(None);
    };
    let options = WriterOptions {
        path: path.clone(),
        max_size: *max_size,
        max_file: *max_file,
        compress: *compress,
        attrs: attrs.clone(),
    };
    Writer::open(options).map(Some).map_err(|source| ShimError::Log { source })
}

/// Binds a socket in the bundle. Its path is too long for an address; this process has one thread.
fn listen(bundle: &Path, name: &str) -> Result<UnixListener, ShimError> {
    let bind = || {
        rustix::process::chdir(bundle)?;
        let listener = UnixListener::bind(name);
        rustix::process::chdir("/")?;
        listener
    };
    bind().map_err(ShimError::file("bind", &bundle.join(name)))
}

/// Forks off libcontainer; gives init's pid and the watcher's ends of its streams.
fn create_container(
    bundle: &Path,
    config: &ShimConfig,
    uid: u32,
) -> Result<(i32, Ends), ShimError> {
    let console = config.tty.then(|| listen(bundle, state::CONSOLE)).transpose()?;
    let streams = || {
        if config.tty {
            return Ok((Ends::default(), io::nothing()?));
        }
        io::pipes(config.open_stdin, uid)
    };
    let (ends, inside) = streams().map_err(ShimError::system("make pipes"))?;
    let (reader, writer) = stdio::pipe().map_err(ShimError::system("make pipes"))?;
    let creator = match fork().map_err(ShimError::system("fork"))? {
        Forked::Child => {
            drop((reader, ends));
            let report = Report::new(writer.into());
            let result = in_fork(inside).and_then(|()| create::create(bundle, config, &report));
            end_fork(result, &report, 128)
        }
        Forked::Parent { pid } => pid,
    };
    drop((writer, inside));
    let pid = hear_of_init(creator, reader)?;
    let Some(console) = console else { return Ok((pid, ends)) };
    let (stream, _) = console.accept().map_err(ShimError::system("take the terminal"))?;
    state::remove(&bundle.join(state::CONSOLE));
    let master = receive_terminal(&stream, uid, config.console_size)?;
    Ok((pid, io::terminal(master).map_err(ShimError::system("take the terminal"))?))
}

/// Waits for the creating fork to end, and hears what it and init have to say.
fn hear_of_init(creator: i32, mut reader: stdio::PipeReader) -> Result<i32, ShimError> {
    let wait = ShimError::system("wait for the container's creation");
    berth_sys::process::wait_for(creator).map_err(wait)?;
    let mut heard = Heard::default();
    let mut text = [0; 4096];
    // Init holds the pipe until its program is executed: there is no end to wait for.
    let ready = |reader: &stdio::PipeReader| {
        poll(&mut [PollFd::new(reader, PollFlags::IN)], Some(&Timespec::default()))
    };
    while ready(&reader).is_ok_and(|count| count > 0) {
        match stdio::Read::read(&mut reader, &mut text) {
            Ok(count) if count > 0 => heard.add(&text[..count]),
            _ => break,
        }
    }
    match heard.outcome() {
        Some(Outcome::Pid(pid)) => Ok(pid),
        Some(Outcome::Failed(failure)) => Err(ShimError::Refused { failure }),
        None => Err(ShimError::Runtime {
            text: "the process that creates the container was killed".to_owned(),
        }),
    }
}

/// Attaches the device program that the daemon prepared. Without it the container must not run.
fn enforce_devices(bundle: &Path, cgroup: &Path) -> Result<(), ShimError> {
    let path = bundle.join(state::DEVICES);
    let attach = || {
        let bytes = fs::read(&path)?;
        let words: Vec<u64> =
            bytes.as_chunks::<8>().0.iter().map(|chunk| u64::from_ne_bytes(*chunk)).collect();
        let program = berth_sys::bpf::load_device_program(&words)?;
        berth_sys::bpf::attach_device_program(fs::File::open(cgroup)?, program)
    };
    attach().map_err(|source| ShimError::NoDeviceProgram { path: path.clone(), source })
}

fn watch(mut shim: Shim) -> Result<(), ShimError> {
    let (pid, shim_pid) = (shim.processes[&INIT].pid, std::process::id().cast_signed());
    report(&Ready::Created { shim_pid, pid })?;
    let exit = shim.watch()?;
    let oom_killed = exit.oom_killed || shim.cgroups.oom_kills() > 0;
    let exit = ExitRecord { oom_killed, ..exit };
    finish(shim, &exit)
}

/// Init has ended and its output is logged.
fn finish(mut shim: Shim, exit: &ExitRecord) -> Result<(), ShimError> {
    let record = serde_json::to_string(exit).unwrap_or_default();
    if let Err(error) = state::replace(&shim.bundle, state::EXIT, &record) {
        say(&berth_types::kind::chain(&error));
    }
    shim.oom_fd = None;
    undo(&shim.bundle, &shim.config, &shim.cgroups);
    // From here on nothing in the bundle is touched: the daemon may start the container again.
    shim.listener = None;
    shim.log = None;
    shim.processes.clear();
    shim.tell(&Event::Exited(exit.clone()));
    shim.linger()
}

/// Removes the container's groups, mounts and files; whoever is left in it is killed.
fn undo(bundle: &Path, config: &ShimConfig, cgroups: &Cgroups) {
    if let Err(error) = cgroups.remove() {
        say(&format!("cannot remove the container's control groups: {error}"));
    }
    state::remove(&bundle.join(state::STATE_DIR));
    mounts::tear_down(config);
    for file in [state::SOCKET, state::CONSOLE, state::INIT_PID, state::SHIM_PID] {
        state::remove(&bundle.join(file));
    }
}
