//! Talking with a container's watcher.

use std::io;
use std::os::fd::AsRawFd as _;
use std::path::{Path, PathBuf};

use berth_shim_proto::{ExitRecord, Failure, Request, Response, State};
use berth_types::ContainerId;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::engine::Engine;
use crate::error::ContainerError;

/// The longest answer line that is believed.
const LONGEST_LINE: usize = 1 << 20;

/// A container's watcher, by the directory that its socket lives in.
#[derive(Debug, Clone)]
pub(crate) struct Watcher {
    id: ContainerId,
    bundle: PathBuf,
}

impl Watcher {
    /// The watcher of the container `id`, whether it lives or not.
    pub(crate) fn of(engine: &Engine, id: &ContainerId) -> Self {
        let bundle = engine.config().exec_root.join("containers").join(id.as_str());
        Self { id: id.clone(), bundle }
    }

    /// The directory of its socket and files.
    pub(crate) fn bundle(&self) -> &Path {
        &self.bundle
    }

    /// Asks for something that is answered and over.
    pub(crate) async fn ask(&self, request: &Request) -> Result<Response, ContainerError> {
        self.open(request).await.map(|(response, _)| response)
    }

    /// Asks for something that must succeed; a refusal is returned as `Err(Ok(failure))`.
    pub(crate) async fn command(&self, request: &Request) -> Result<(), ContainerError> {
        match self.ask(request).await? {
            Response::Ok | Response::ExecStarted { .. } | Response::State(_) => Ok(()),
            Response::Failed(failure) => Err(self.refused(failure)),
        }
    }

    /// Its state.
    pub(crate) async fn state(&self) -> Result<State, ContainerError> {
        match self.ask(&Request::State).await? {
            Response::State(state) => Ok(state),
            Response::Failed(failure) => Err(self.refused(failure)),
            Response::Ok | Response::ExecStarted { .. } => Err(self.strange()),
        }
    }

    /// Asks for something after whose answer the connection becomes a stream.
    pub(crate) async fn open(
        &self,
        request: &Request,
    ) -> Result<(Response, UnixStream), ContainerError> {
        self.converse(request).await.map_err(|source| self.silent(source))
    }

    /// Asks to be told everything from now on.
    pub(crate) async fn subscribe(&self) -> Result<UnixStream, ContainerError> {
        match self.open(&Request::Subscribe).await? {
            (Response::Ok, stream) => Ok(stream),
            (Response::Failed(failure), _) => Err(self.refused(failure)),
            (Response::ExecStarted { .. } | Response::State(_), _) => Err(self.strange()),
        }
    }

    /// How init ended, if the watcher wrote it down.
    pub(crate) fn exit_record(&self) -> Option<ExitRecord> {
        let text = std::fs::read(self.bundle.join("exit.json")).ok()?;
        serde_json::from_slice(&text).ok()
    }

    async fn converse(&self, request: &Request) -> io::Result<(Response, UnixStream)> {
        let mut stream = self.connect().await?;
        let mut line = serde_json::to_vec(request).map_err(io::Error::from)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        let answer = read_line(&mut stream).await?;
        let response = serde_json::from_slice(&answer).map_err(io::Error::from)?;
        Ok((response, stream))
    }

    /// Connects by way of the directory's descriptor: a socket's path may have 107 bytes only.
    async fn connect(&self) -> io::Result<UnixStream> {
        let dir = std::fs::File::open(&self.bundle)?;
        let path = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
        UnixStream::connect(path).await
    }

    pub(crate) fn refused(&self, failure: Failure) -> ContainerError {
        self.silent(io::Error::other(failure.message))
    }

    pub(crate) fn strange(&self) -> ContainerError {
        self.silent(io::Error::other("an answer to another question"))
    }

    fn silent(&self, source: io::Error) -> ContainerError {
        ContainerError::Watcher { id: self.id.clone(), source }
    }
}

/// Reads one line byte by byte, for the bytes after it belong to somebody else.
async fn read_line(stream: &mut UnixStream) -> io::Result<Vec<u8>> {
    let mut line = Vec::with_capacity(256);
    loop {
        let byte = stream.read_u8().await?;
        if byte == b'\n' {
            return Ok(line);
        }
        if line.len() == LONGEST_LINE {
            return Err(io::Error::other("an answer without end"));
        }
        line.push(byte);
    }
}
