//! Joining a container's streams.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use berth_api::options::AttachOptions;
use berth_shim_proto::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, DuplexStream, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;

use super::detach::{self, DetachKeys};
use super::registry::Container;
use super::state::Status;
use super::watcher::Watcher;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// How much output waits in memory for a client that does not read.
const WINDOW: usize = 64 << 10;

/// A client's joined streams.
#[derive(Debug)]
pub struct Attachment {
    /// Raw bytes, not frames, because the container has a terminal.
    pub tty: bool,
    /// Reads output (framed by Docker's rule without a terminal), takes stdin; shutting the
    /// writing side down is the end of stdin. It ends when the output does.
    pub stream: AttachStream,
}

/// The byte stream of an attachment.
#[derive(Debug)]
pub struct AttachStream(DuplexStream);

impl AttachStream {
    pub(crate) fn pair() -> (Self, DuplexStream) {
        let (client, engine) = tokio::io::duplex(WINDOW);
        (Self(client), engine)
    }
}

impl AsyncRead for AttachStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for AttachStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A client that attached before the container runs. The start connects it, so that it misses
/// nothing.
#[derive(Debug)]
pub struct Waiting {
    /// Which streams: stdin, stdout, stderr.
    pub streams: [bool; 3],
    /// Takes the connection to the watcher.
    pub sender: oneshot::Sender<UnixStream>,
}

impl Engine {
    /// Joins a container's streams, now or when it starts.
    pub async fn attach(
        &self,
        name: &str,
        options: AttachOptions,
    ) -> Result<Attachment, EngineError> {
        let keys = DetachKeys::parse(&options.detach_keys)?;
        let container = self.registry().find(name)?;
        let (status, tty, open_stdin) = {
            let live = container.live();
            (live.state.status, live.record.config.tty, live.record.config.open_stdin)
        };
        match status {
            Status::Paused => {
                return Err(ContainerError::AttachPaused { id: container.id().clone() }.into());
            }
            Status::Restarting => {
                return Err(ContainerError::Restarting { id: container.id().to_string() }.into());
            }
            _ => {}
        }
        let (stream, ours) = AttachStream::pair();
        self.publish_container(&container, "attach", []);
        let mut source = None;
        if options.stream {
            let streams = [options.stdin && open_stdin, options.stdout, options.stderr];
            source = Some(self.join(&container, streams).await?);
        }
        let past = if options.logs { Some(Self::past_output(&container, &options)?) } else { None };
        let keys = tty.then_some(keys);
        let pump = Pump { engine: self.clone(), container, ours, keys };
        tokio::spawn(pump.run(past, source));
        Ok(Attachment { tty, stream })
    }

    /// Connects to the watcher of a running container, or waits for the next start.
    async fn join(
        &self,
        container: &Arc<Container>,
        streams: [bool; 3],
    ) -> Result<Source, EngineError> {
        {
            let mut live = container.live();
            if !live.state.is_running() {
                let (sender, receiver) = oneshot::channel();
                live.waiting.retain(|waiting| !waiting.sender.is_closed());
                live.waiting.push(Waiting { streams, sender });
                return Ok(Source::Later(receiver));
            }
        }
        connect(&Watcher::of(self, container.id()), streams).await.map(Source::Now)
    }
}

/// Opens a connection to the watcher that carries these streams.
pub(crate) async fn connect(
    watcher: &Watcher,
    [stdin, stdout, stderr]: [bool; 3],
) -> Result<UnixStream, EngineError> {
    match watcher.open(&Request::Attach { stdin, stdout, stderr }).await? {
        (Response::Failed(failure), _) => Err(watcher.refused(failure).into()),
        (Response::Ok | Response::ExecStarted { .. } | Response::State(_), stream) => Ok(stream),
    }
}

/// Where an attachment's bytes come from.
enum Source {
    Now(UnixStream),
    Later(oneshot::Receiver<UnixStream>),
}

/// Carries bytes between one client and the watcher.
struct Pump {
    engine: Engine,
    container: Arc<Container>,
    ours: DuplexStream,
    /// The keys that end the attachment; only looked for with a terminal.
    keys: Option<DetachKeys>,
}

impl Pump {
    async fn run(mut self, past: Option<crate::pieces::ByteStream>, source: Option<Source>) {
        if let Some(mut past) = past {
            while let Some(Ok(bytes)) = past.recv().await {
                if self.ours.write_all(&bytes).await.is_err() {
                    return;
                }
            }
        }
        let stream = match source {
            None => return,
            Some(Source::Now(stream)) => stream,
            // The start failed, or the container was removed: the client hears of it elsewhere.
            Some(Source::Later(later)) => match later.await {
                Ok(stream) => stream,
                Err(_) => return,
            },
        };
        let detached = carry(self.ours, stream, self.keys, std::future::ready(())).await;
        if detached {
            self.engine.publish_container(&self.container, "detach", []);
        }
    }
}

/// Carries bytes both ways until the output ends or the client goes; true when the client typed
/// the detach keys. The client hears of the output's end when `ended` is done.
pub(crate) async fn carry(
    ours: DuplexStream,
    stream: UnixStream,
    keys: Option<DetachKeys>,
    ended: impl Future<Output = ()>,
) -> bool {
    let (mut from_client, mut to_client) = tokio::io::split(ours);
    let (mut output, mut stdin) = stream.into_split();
    let out = async {
        let copied = tokio::io::copy(&mut output, &mut to_client).await;
        ended.await;
        if let Err(error) = copied.and(to_client.shutdown().await) {
            tracing::debug!(%error, "attached client left");
        }
    };
    let input = async {
        let detached = detach::copy(&mut from_client, &mut stdin, keys).await;
        if !detached {
            if let Err(error) = stdin.shutdown().await {
                tracing::debug!(%error, "stdin was closed already");
            }
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        () = out => false,
        () = input => true,
    }
}
