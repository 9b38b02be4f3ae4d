//! Requests and their answers.

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt, Empty, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::client::conn::http1;
use hyper::header::{CONNECTION, CONTENT_TYPE, HOST, UPGRADE};
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::TokioIo;
use serde::Serialize;
use serde::de::DeserializeOwned;
use std::io;
use std::pin::Pin;
use tokio::io::AsyncRead;

use crate::connect::Connection;
use crate::query::escape_path;
use crate::{ClientError, Endpoint, Hijacked, Query};

/// What this client speaks, and the oldest it still understands.
const NEWEST: (u32, u32) = (1, 51);
/// What a daemon speaks that does not say.
const UNSAID: (u32, u32) = (1, 24);

/// What a request carries.
pub enum Body {
    /// Nothing.
    Empty,
    /// JSON text.
    Json(Vec<u8>),
    /// Bytes of this media type as they come, for example a tar archive.
    Stream(&'static str, Pin<Box<dyn AsyncRead + Send + Sync>>),
}

impl std::fmt::Debug for Body {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Json(_) => "Json",
            Self::Stream(..) => "Stream",
        })
    }
}

impl Body {
    /// `value` as JSON.
    pub fn json<T: Serialize>(value: &T) -> Result<Self, ClientError> {
        Ok(Self::Json(serde_json::to_vec(value)?))
    }
}

/// A client of one engine.
#[derive(Debug, Clone)]
pub struct Client {
    endpoint: Endpoint,
    version: (u32, u32),
}

impl Client {
    /// Asks the engine which version it speaks and takes the newest that both know.
    pub async fn connect(endpoint: Endpoint) -> Result<Self, ClientError> {
        let mut client = Self { endpoint, version: NEWEST };
        let request = client.request(Method::HEAD, "/_ping".to_owned(), Body::Empty)?;
        let (response, _) = client.send(request).await?;
        let said = response.headers().get("Api-Version").and_then(|value| value.to_str().ok());
        let said = said.and_then(|text| {
            let (major, minor) = text.split_once('.')?;
            Some((major.parse().ok()?, minor.parse().ok()?))
        });
        client.version = NEWEST.min(said.unwrap_or(UNSAID));
        Ok(client)
    }

    /// The engine's place.
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// The version that requests carry.
    pub fn api_version(&self) -> String {
        format!("{}.{}", self.version.0, self.version.1)
    }

    /// The path of a request: its parts are escaped, the version goes in front.
    pub fn path(&self, parts: &[&str], query: &Query) -> String {
        let mut path = format!("/v{}.{}", self.version.0, self.version.1);
        for part in parts {
            path.push('/');
            path.push_str(&escape_path(part));
        }
        path.push_str(query.as_str());
        path
    }

    /// `GET`, with a JSON answer.
    pub async fn get<T: DeserializeOwned>(
        &self,
        parts: &[&str],
        query: &Query,
    ) -> Result<T, ClientError> {
        let (response, _) = self.call(Method::GET, parts, query, Body::Empty).await?;
        Ok(serde_json::from_slice(&collect(response).await?)?)
    }

    /// `POST`, with a JSON answer.
    pub async fn post<T: DeserializeOwned>(
        &self,
        parts: &[&str],
        query: &Query,
        body: Body,
    ) -> Result<T, ClientError> {
        let (response, _) = self.call(Method::POST, parts, query, body).await?;
        Ok(serde_json::from_slice(&collect(response).await?)?)
    }

    /// `POST` whose answer carries nothing; the status.
    pub async fn post_empty(
        &self,
        parts: &[&str],
        query: &Query,
        body: Body,
    ) -> Result<u16, ClientError> {
        let (response, _) = self.call(Method::POST, parts, query, body).await?;
        let status = response.status().as_u16();
        collect(response).await?;
        Ok(status)
    }

    /// `DELETE`; the answer's body as it is.
    pub async fn delete(&self, parts: &[&str], query: &Query) -> Result<Vec<u8>, ClientError> {
        let (response, _) = self.call(Method::DELETE, parts, query, Body::Empty).await?;
        collect(response).await
    }

    /// `HEAD`; the value of one header.
    pub async fn head(
        &self,
        parts: &[&str],
        query: &Query,
        header: &str,
    ) -> Result<Option<String>, ClientError> {
        let (response, _) = self.call(Method::HEAD, parts, query, Body::Empty).await?;
        let value = response.headers().get(header).and_then(|value| value.to_str().ok());
        Ok(value.map(str::to_owned))
    }

    /// A request whose answer comes bit by bit.
    pub async fn stream(
        &self,
        method: Method,
        parts: &[&str],
        query: &Query,
        body: Body,
    ) -> Result<Stream, ClientError> {
        let (response, sender) = self.call(method, parts, query, body).await?;
        Ok(Stream { body: response.into_body(), _sender: sender })
    }

    /// A `POST` that turns the connection into raw bytes both ways.
    pub async fn hijack(
        &self,
        parts: &[&str],
        query: &Query,
        body: Body,
    ) -> Result<Hijacked, ClientError> {
        let mut request = self.request(Method::POST, self.path(parts, query), body)?;
        let headers = request.headers_mut();
        headers.insert(CONNECTION, "Upgrade".parse().expect("a plain word"));
        headers.insert(UPGRADE, "tcp".parse().expect("a plain word"));
        let (response, _sender) = self.send(request).await?;
        if response.status() != StatusCode::SWITCHING_PROTOCOLS {
            let status = response.status().as_u16();
            let response = fail_on_error(response).await?;
            drop(response);
            return Err(ClientError::NotUpgraded { status });
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let multiplexed = media_type.is_some_and(|text| text.contains("multiplexed"));
        Ok(Hijacked::new(hyper::upgrade::on(response).await?, multiplexed))
    }

    async fn call(
        &self,
        method: Method,
        parts: &[&str],
        query: &Query,
        body: Body,
    ) -> Result<(Response<Incoming>, Sender), ClientError> {
        let request = self.request(method, self.path(parts, query), body)?;
        let (response, sender) = self.send(request).await?;
        Ok((fail_on_error(response).await?, sender))
    }

    fn request(
        &self,
        method: Method,
        path: String,
        body: Body,
    ) -> Result<Request<RequestBody>, ClientError> {
        let host = match &self.endpoint {
            Endpoint::Unix(_) => "api.moby.localhost".to_owned(),
            Endpoint::Tcp { host, port, .. } => format!("{host}:{port}"),
        };
        let builder = Request::builder().method(method).uri(path).header(HOST, host);
        let builder = builder.header("User-Agent", concat!("berth/", env!("CARGO_PKG_VERSION")));
        let request = match body {
            Body::Empty => builder.body(Empty::new().map_err(|never| match never {}).boxed()),
            Body::Json(text) => builder
                .header(CONTENT_TYPE, "application/json")
                .body(Full::from(text).map_err(|never| match never {}).boxed()),
            Body::Stream(media_type, reader) => {
                let frames = tokio_util::io::ReaderStream::with_capacity(reader, CHUNK);
                let body = StreamBody::new(frames.map_ok(Frame::data));
                builder.header(CONTENT_TYPE, media_type).body(BodyExt::boxed(body))
            }
        };
        Ok(request?)
    }

    async fn send(
        &self,
        request: Request<RequestBody>,
    ) -> Result<(Response<Incoming>, Sender), ClientError> {
        let connection = Connection::open(&self.endpoint).await?;
        let (mut sender, driver) = http1::handshake(TokioIo::new(connection)).await?;
        // Its errors reach the caller through the answer or its body.
        drop(tokio::spawn(driver.with_upgrades()));
        let response = sender.send_request(request).await?;
        Ok((response, sender))
    }
}

const CHUNK: usize = 64 << 10;
type RequestBody = BoxBody<Bytes, io::Error>;
/// Held while an answer is read: dropping it early would end the connection.
type Sender = http1::SendRequest<RequestBody>;

/// An answer that comes bit by bit.
#[derive(Debug)]
pub struct Stream {
    body: Incoming,
    _sender: Sender,
}

impl Stream {
    /// The next bytes; `None` at the end.
    pub async fn next(&mut self) -> Result<Option<Bytes>, ClientError> {
        while let Some(frame) = self.body.frame().await {
            if let Ok(data) = frame?.into_data() {
                return Ok(Some(data));
            }
        }
        Ok(None)
    }

    /// The bytes as a reader.
    pub fn into_reader(self) -> impl AsyncRead + Unpin + Send {
        let stream = futures_util::stream::unfold(self, |mut this| async move {
            match this.next().await {
                Ok(None) => None,
                Ok(Some(bytes)) => Some((Ok(bytes), this)),
                Err(error) => Some((Err(io::Error::other(error)), this)),
            }
        });
        tokio_util::io::StreamReader::new(Box::pin(stream.fuse()))
    }
}

async fn collect(response: Response<Incoming>) -> Result<Vec<u8>, ClientError> {
    Ok(response.into_body().collect().await?.to_bytes().to_vec())
}

/// The body of an error.
#[derive(serde::Deserialize)]
struct Message {
    message: String,
}

/// The answer itself, or the engine's message.
async fn fail_on_error(response: Response<Incoming>) -> Result<Response<Incoming>, ClientError> {
    let status = response.status();
    if status.is_success() || status.is_redirection() || status.is_informational() {
        return Ok(response);
    }
    let body = collect(response).await?;
    let message = match serde_json::from_slice::<Message>(&body) {
        Ok(Message { message }) => message,
        Err(_) => String::from_utf8_lossy(&body).trim().to_owned(),
    };
    let message = if message.is_empty() { status.to_string() } else { message };
    Err(ClientError::Daemon { status: status.as_u16(), message })
}
