//! Connections that became raw bytes: attach and exec.

use std::io;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, ReadHalf, WriteHalf};

use crate::ClientError;

/// Raw bytes both ways.
#[derive(Debug)]
pub struct Hijacked {
    /// What the process writes.
    pub output: Output,
    /// What it reads.
    pub input: Input,
    /// Whether the engine says that the output is framed.
    pub multiplexed: bool,
}

/// What the process writes.
#[derive(Debug)]
pub struct Output(ReadHalf<TokioIo<Upgraded>>);

/// What the process reads.
#[derive(Debug)]
pub struct Input(WriteHalf<TokioIo<Upgraded>>);

impl Hijacked {
    pub(crate) fn new(upgraded: Upgraded, multiplexed: bool) -> Self {
        let (read, write) = tokio::io::split(TokioIo::new(upgraded));
        Self { output: Output(read), input: Input(write), multiplexed }
    }
}

impl Output {
    /// Some of the bytes; none at the end.
    pub async fn read(&mut self, buffer: &mut [u8]) -> Result<usize, ClientError> {
        match self.0.read(buffer).await {
            Ok(count) => Ok(count),
            // The engine went away; what it sent is read.
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => Ok(0),
            Err(error) => Err(ClientError::Stream(error)),
        }
    }
}

impl Input {
    /// Sends all of `bytes`.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), ClientError> {
        self.0.write_all(bytes).await.map_err(ClientError::Stream)?;
        self.0.flush().await.map_err(ClientError::Stream)
    }

    /// Says that no more will come; the output goes on.
    pub async fn close(&mut self) -> Result<(), ClientError> {
        match self.0.shutdown().await {
            Err(error) if error.kind() != io::ErrorKind::NotConnected => {
                Err(ClientError::Stream(error))
            }
            _ => Ok(()),
        }
    }
}
