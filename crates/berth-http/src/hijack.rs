//! Turns a request into a stream of bytes in both directions.
//!
//! A client that asks for an upgrade gets 101 and then the raw connection. One that does not gets
//! the output as the body of a 200 that ends with the connection, and its request's body is the
//! input. Errors must be answered before.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use berth_api::ApiVersion;
use bytes::Bytes;
use futures_util::StreamExt as _;
use hyper::body::Frame;
use hyper::ext::ReasonPhrase;
use hyper::header::{CONNECTION, CONTENT_TYPE, HeaderValue, UPGRADE};
use hyper::upgrade::OnUpgrade;
use hyper::{StatusCode, Version};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadHalf};

/// Bytes of a terminal, or bytes whose nature the client knows.
const RAW: HeaderValue = HeaderValue::from_static("application/vnd.docker.raw-stream");
/// Frames: 8 bytes of header each.
const MULTIPLEXED: HeaderValue =
    HeaderValue::from_static("application/vnd.docker.multiplexed-stream");

/// How much is carried at a time.
const PIECE: usize = 32 << 10;

/// Marks an answer that takes the connection over.
#[derive(Debug, Clone, Copy)]
pub(crate) struct IsHijack {
    /// Whether it carries the headers of an ordinary answer as well.
    pub(crate) described: bool,
}

/// The media type of a container's streams.
pub(crate) fn media_type(tty: bool, version: ApiVersion) -> HeaderValue {
    if !tty && version.names_multiplexed_streams() { MULTIPLEXED } else { RAW }
}

/// The request's side of a hijack, taken before its body is read.
#[derive(Debug)]
pub(crate) struct Hijack {
    upgrade: Option<OnUpgrade>,
}

impl Hijack {
    /// Takes what the request offers.
    pub(crate) fn of(request: &mut Request) -> Self {
        let asked = request.headers().contains_key(UPGRADE);
        let upgrade = request.extensions_mut().remove::<OnUpgrade>();
        Self { upgrade: upgrade.filter(|_| asked) }
    }

    /// Answers, and carries bytes between the client and `stream` until the output ends.
    ///
    /// `input` is read only from clients that do not upgrade. A client that closes its writing
    /// side closes that of `stream`, and goes on receiving.
    pub(crate) fn answer<T>(self, media_type: HeaderValue, stream: T, input: Body) -> Response
    where
        T: AsyncRead + AsyncWrite + Send + 'static,
    {
        let mut response = match self.upgrade {
            Some(upgrade) => {
                tokio::spawn(carry(upgrade, stream));
                upgraded()
            }
            None => unframed(stream, input),
        };
        response.headers_mut().insert(CONTENT_TYPE, media_type);
        response.extensions_mut().insert(IsHijack { described: false });
        response
    }
}

/// Adds the headers of an ordinary answer to a hijack's.
pub(crate) fn described(mut response: Response) -> Response {
    response.extensions_mut().insert(IsHijack { described: true });
    response
}

fn upgraded() -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    response.extensions_mut().insert(ReasonPhrase::from_static(b"UPGRADED"));
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("Upgrade"));
    response.headers_mut().insert(UPGRADE, HeaderValue::from_static("tcp"));
    response
}

async fn carry<T>(upgrade: OnUpgrade, stream: T)
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let client = match upgrade.await {
        Ok(client) => TokioIo::new(client),
        Err(error) => return tracing::debug!(%error, "client left before the upgrade"),
    };
    let (mut from_client, mut to_client) = tokio::io::split(client);
    let (mut output, mut input) = tokio::io::split(stream);
    let out = async {
        let copied = copy(&mut output, &mut to_client).await;
        copied.and(to_client.shutdown().await)
    };
    let inward = async {
        let copied = copy(&mut from_client, &mut input).await;
        if let Err(error) = copied.and(input.shutdown().await) {
            tracing::debug!(%error, "input ended early");
        }
        // Only the end of the output ends the whole.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        result = out => if let Err(error) = result {
            tracing::debug!(%error, "client left a hijacked stream");
        },
        () = inward => {}
    }
}

/// Copies and flushes piece by piece, so that nothing waits for more.
async fn copy<R, W>(reader: &mut R, writer: &mut W) -> std::io::Result<()>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut piece = vec![0; PIECE];
    loop {
        let length = reader.read(&mut piece).await?;
        if length == 0 {
            return Ok(());
        }
        writer.write_all(&piece[..length]).await?;
        writer.flush().await?;
    }
}

/// The answer to a client that does not upgrade. HTTP/1.0 has no chunks: the body is the bytes as
/// they are, up to the connection's end.
fn unframed<T>(stream: T, input: Body) -> Response
where
    T: AsyncRead + AsyncWrite + Send + 'static,
{
    let (output, mut writer) = tokio::io::split(stream);
    let feeder = tokio::spawn(async move {
        let mut input = input.into_data_stream();
        while let Some(Ok(bytes)) = input.next().await {
            writer.write_all(&bytes).await?;
        }
        writer.shutdown().await
    });
    let mut response = Response::new(Body::new(Output { output, feeder }));
    *response.version_mut() = Version::HTTP_10;
    response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
    response
}

struct Output<T> {
    output: ReadHalf<T>,
    feeder: tokio::task::JoinHandle<std::io::Result<()>>,
}

impl<T> Drop for Output<T> {
    fn drop(&mut self) {
        self.feeder.abort();
    }
}

impl<T: AsyncRead + Send + 'static> hyper::body::Body for Output<T> {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<std::io::Result<Frame<Bytes>>>> {
        let mut piece = Vec::with_capacity(PIECE);
        let read = tokio_util::io::poll_read_buf(Pin::new(&mut self.output), cx, &mut piece);
        read.map(|result| match result {
            Ok(0) => None,
            Ok(_) => Some(Ok(Frame::data(piece.into()))),
            Err(error) => Some(Err(error)),
        })
    }
}
