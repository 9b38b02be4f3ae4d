//! The daemon's side of the conversation with a container's watcher.
//!
//! [`Bundle`] is the directory that [`berth_shim_proto`] describes; [`ShimHandle`] speaks with the
//! watcher that lives there. Each call is one connection, so calls do not wait for each other, and
//! nothing is kept open between them.

use std::fs::{self, File};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_shim_proto::{Event, ExecRequest, Ready, Request, Response, State};

use crate::error::RuntimeError;

mod bundle;
mod program;
mod spawn;
#[cfg(test)]
mod tests;

pub use bundle::{Bundle, Found};
pub use program::Program;

/// How long the watcher may take to answer.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
const MAX_LINE: usize = 1 << 20;

/// A watcher that can be spoken with.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShimHandle {
    id: String,
    dir: PathBuf,
}

/// The pids of a container that was created.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pids {
    /// The watcher.
    pub shim: i32,
    /// The container's init, in the host's pid namespace.
    pub init: i32,
}

/// Which process of a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target<'a> {
    /// Its init.
    Init,
    /// An exec's process.
    Exec(&'a str),
    /// All of them.
    All,
}

/// Which streams to join.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct Streams {
    pub stdin: bool,
    pub stdout: bool,
    pub stderr: bool,
}

impl ShimHandle {
    pub(crate) fn new(id: &str, dir: &Path) -> Self {
        Self { id: id.to_owned(), dir: dir.to_owned() }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Lets the created container run.
    pub fn start(&self) -> Result<(), RuntimeError> {
        self.order(&Request::Start)
    }

    /// Sends a signal.
    pub fn signal(&self, signal: i32, target: Target<'_>) -> Result<(), RuntimeError> {
        let (exec, all) = match target {
            Target::Init => (None, false),
            Target::Exec(exec) => (Some(exec.to_owned()), false),
            Target::All => (None, true),
        };
        self.order(&Request::Signal { signal, exec, all })
    }

    /// Sets a terminal's size; of init or of an exec.
    pub fn resize(&self, exec: Option<&str>, height: u16, width: u16) -> Result<(), RuntimeError> {
        self.order(&Request::Resize { exec: exec.map(str::to_owned), height, width })
    }

    /// Freezes all processes.
    pub fn pause(&self) -> Result<(), RuntimeError> {
        self.order(&Request::Pause { freeze: true })
    }

    /// Thaws them.
    pub fn unpause(&self) -> Result<(), RuntimeError> {
        self.order(&Request::Pause { freeze: false })
    }

    /// Joins the container's streams. The connection is the byte stream that
    /// [`berth_shim_proto`] describes.
    pub fn attach(&self, streams: Streams) -> Result<UnixStream, RuntimeError> {
        let Streams { stdin, stdout, stderr } = streams;
        match self.ask(&Request::Attach { stdin, stdout, stderr })? {
            (Response::Ok, stream) => Ok(stream),
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    /// Runs one more process: its pid, and its byte stream when it is attached. A program that cannot be
    /// run is [`RuntimeError::Failed`], with Docker's exit code.
    pub fn exec(&self, request: &ExecRequest) -> Result<(i32, UnixStream), RuntimeError> {
        match self.ask(&Request::Exec(request.clone()))? {
            (Response::ExecStarted { pid }, stream) => Ok((pid, stream)),
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    /// What the watcher knows now.
    pub fn state(&self) -> Result<State, RuntimeError> {
        match self.ask(&Request::State)? {
            (Response::State(state), _) => Ok(state),
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    /// What happens from now on, the present state first.
    pub fn subscribe(&self) -> Result<Events, RuntimeError> {
        match self.ask(&Request::Subscribe)? {
            (Response::Ok, stream) => {
                Ok(Events { id: self.id.clone(), lines: BufReader::new(stream) })
            }
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    fn order(&self, request: &Request) -> Result<(), RuntimeError> {
        match self.ask(request)? {
            (Response::Ok, _) => Ok(()),
            (other, _) => Err(self.nonsense(&other)),
        }
    }

    /// One request, one answer; a failure is an error. Afterwards the connection has no timeout.
    fn ask(&self, request: &Request) -> Result<(Response, UnixStream), RuntimeError> {
        let unreachable = |source| RuntimeError::Unreachable { id: self.id.clone(), source };
        let mut line = serde_json::to_vec(request)
            .map_err(|source| RuntimeError::Encode { what: "request", source })?;
        line.push(b'\n');
        let mut stream = connect(&self.dir).map_err(unreachable)?;
        stream.set_read_timeout(Some(ANSWER_TIMEOUT)).map_err(unreachable)?;
        stream.write_all(&line).map_err(unreachable)?;
        let answer = read_line(&mut stream).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => {
                RuntimeError::Timeout { id: self.id.clone(), after: ANSWER_TIMEOUT }
            }
            _ => unreachable(error),
        })?;
        stream.set_read_timeout(None).map_err(unreachable)?;
        match serde_json::from_slice(&answer) {
            Ok(Response::Failed(failure)) => Err(RuntimeError::Failed(failure)),
            Ok(response) => Ok((response, stream)),
            Err(error) => Err(self.protocol(&error.to_string())),
        }
    }

    fn nonsense(&self, response: &Response) -> RuntimeError {
        self.protocol(&format!("{response:?}"))
    }

    fn protocol(&self, text: &str) -> RuntimeError {
        RuntimeError::Protocol { id: self.id.clone(), text: text.to_owned() }
    }
}

/// A container's events; ends after [`Event::Exited`], or when the watcher is gone.
#[derive(Debug)]
pub struct Events {
    id: String,
    lines: BufReader<UnixStream>,
}

impl Events {
    /// A second handle to the connection: shutting it down ends the iteration.
    pub fn connection(&self) -> io::Result<UnixStream> {
        self.lines.get_ref().try_clone()
    }

    /// Waits at most this long for each event; `None` for ever.
    pub fn set_timeout(&self, timeout: Option<Duration>) -> io::Result<()> {
        self.lines.get_ref().set_read_timeout(timeout)
    }
}

impl Iterator for Events {
    type Item = Result<Event, RuntimeError>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut line = String::new();
        match self.lines.read_line(&mut line) {
            Ok(0) => None,
            Ok(_) => Some(serde_json::from_str(&line).map_err(|error| RuntimeError::Protocol {
                id: self.id.clone(),
                text: error.to_string(),
            })),
            Err(source) => Some(Err(RuntimeError::Unreachable { id: self.id.clone(), source })),
        }
    }
}

/// Connects to `shim.sock` in `dir`. The address goes through the directory's descriptor, for a
/// socket's path has at most 107 bytes.
fn connect(dir: &Path) -> io::Result<UnixStream> {
    let dir = File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd()))
}

/// One line without its end. Byte by byte, for what follows it belongs to somebody else.
fn read_line(stream: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut line = Vec::new();
    let mut byte = [0];
    loop {
        match stream.read(&mut byte) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(_) if byte[0] == b'\n' => return Ok(line),
            Ok(_) if line.len() >= MAX_LINE => return Err(io::ErrorKind::InvalidData.into()),
            Ok(_) => line.push(byte[0]),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

const SOCKET: &str = "shim.sock";

/// Starts the watcher of a written bundle, waits until the container is created, and says how to
/// speak with it.
pub fn create(
    shim: &Program,
    bundle: &Bundle,
    timeout: Duration,
) -> Result<(ShimHandle, Pids), RuntimeError> {
    match spawn::run(shim, bundle, timeout)? {
        Ready::Created { shim_pid, pid } => {
            Ok((ShimHandle::new(bundle.id(), bundle.dir()), Pids { shim: shim_pid, init: pid }))
        }
        Ready::Failed(failure) => Err(RuntimeError::Failed(failure)),
    }
}

/// The containers that have a bundle, from this or an earlier life of the daemon.
pub fn bundles(exec_root: &Path) -> Result<Vec<Bundle>, RuntimeError> {
    let dir = exec_root.join(bundle::CONTAINERS);
    let read = |source| RuntimeError::Read { path: dir.clone(), source };
    let entries = match fs::read_dir(&dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(read(error)),
    };
    let mut bundles = Vec::new();
    for entry in entries {
        let entry = entry.map_err(read)?;
        if let Some(id) = entry.file_name().to_str() {
            bundles.push(Bundle::new(exec_root, id));
        }
    }
    bundles.sort_by(|a, b| a.id().cmp(b.id()));
    Ok(bundles)
}
