//! Starting a watcher and hearing its first word.

use std::io::{self, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use berth_shim_proto::Ready;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use super::{Bundle, Program};
use crate::error::RuntimeError;

/// How long the watcher's first process may take to end after the watcher has detached from it.
const DETACH: Duration = Duration::from_secs(5);
const MAX_READY: usize = 1 << 20;

/// Starts it and waits for its [`Ready`]. When it fails to give one it is ended.
pub(super) fn run(
    shim: &Program,
    bundle: &Bundle,
    timeout: Duration,
) -> Result<Ready, RuntimeError> {
    let spawn = |source| RuntimeError::Spawn { path: shim.path().to_owned(), source };
    let mut child = shim
        .command()
        .arg(bundle.dir())
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(bundle.open_log()?)
        .spawn()
        .map_err(spawn)?;
    let answer = match child.stdout.take() {
        Some(stdout) => read_answer(stdout, Instant::now() + timeout),
        None => Ok(Answer::Ended),
    };
    let id = || bundle.id().to_owned();
    let result = match answer {
        Ok(Answer::Line(line)) => serde_json::from_slice(&line)
            .map_err(|error| RuntimeError::Protocol { id: id(), text: error.to_string() }),
        Ok(Answer::Ended) => {
            Err(RuntimeError::WatcherEnded { id: id(), stderr: bundle.log_tail() })
        }
        Ok(Answer::Late) => Err(RuntimeError::Timeout { id: id(), after: timeout }),
        Err(source) => Err(RuntimeError::Unreachable { id: id(), source }),
    };
    if result.is_err() {
        end(&mut child, bundle);
    }
    reap(child);
    result
}

enum Answer {
    Line(Vec<u8>),
    Ended,
    Late,
}

fn read_answer(mut stdout: ChildStdout, deadline: Instant) -> io::Result<Answer> {
    let mut line = Vec::new();
    let mut buffer = [0; 4096];
    while line.len() < MAX_READY {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(Answer::Late);
        }
        let wait = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(&stdout, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return Ok(Answer::Late),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(errno) => return Err(errno.into()),
        }
        let count = match stdout.read(&mut buffer) {
            Ok(0) => return Ok(Answer::Ended),
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(error),
        };
        if let Some(at) = buffer[..count].iter().position(|byte| *byte == b'\n') {
            line.extend_from_slice(&buffer[..at]);
            return Ok(Answer::Line(line));
        }
        line.extend_from_slice(&buffer[..count]);
    }
    Err(io::ErrorKind::InvalidData.into())
}

/// Ends the first process, and the detached watcher where it has told its pid, so that no
/// container comes to life that nobody waits for.
fn end(child: &mut Child, bundle: &Bundle) {
    if let Err(error) = child.kill() {
        tracing::debug!(%error, id = bundle.id(), "the watcher's first process had ended");
    }
    if let Err(error) = bundle.kill_shim() {
        tracing::warn!(%error, id = bundle.id(), "cannot end a watcher that does not answer");
    }
}

impl Bundle {
    /// Kills the watcher and, when it is created, the container's init.
    fn kill_shim(&self) -> Result<(), RuntimeError> {
        let (shim, init) = (self.live_shim_pid()?, self.init_pid()?);
        // Init first: it could be anybody once the watcher that holds its pid is gone.
        for pid in [shim.and(init), shim].into_iter().flatten() {
            let Some(pid) = Pid::from_raw(pid) else { continue };
            let sent = pidfd_open(pid, PidfdFlags::empty())
                .and_then(|fd| pidfd_send_signal(fd, Signal::KILL));
            match sent {
                Ok(()) | Err(rustix::io::Errno::SRCH) => {}
                Err(errno) => {
                    let source = errno.into();
                    return Err(RuntimeError::Unreachable { id: self.id().to_owned(), source });
                }
            }
        }
        Ok(())
    }
}

/// The first process ends as soon as the watcher has detached; one that does not is left to a
/// thread, so that it becomes no zombie.
fn reap(mut child: Child) {
    let deadline = Instant::now() + DETACH;
    let mut pause = Duration::from_micros(100);
    loop {
        match child.try_wait() {
            Ok(Some(_)) | Err(_) => return,
            Ok(None) if Instant::now() < deadline => thread::sleep(pause),
            Ok(None) => break,
        }
        pause = (pause * 2).min(Duration::from_millis(20));
    }
    thread::spawn(move || {
        if let Err(error) = child.wait() {
            tracing::warn!(%error, "cannot wait for a watcher's first process");
        }
    });
}
