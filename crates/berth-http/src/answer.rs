//! Answers: JSON as Go writes it, and bodies that are made while they are sent.

use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use berth_types::Classify;
use berth_types::kind::chain;
use bytes::Bytes;
use hyper::StatusCode;
use hyper::body::{Frame, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderValue};
use serde::Serialize;
use tokio::sync::mpsc;

/// The media type of JSON; clients compare it as a whole, so it has no charset.
pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The media type of archives.
pub(crate) const TAR: HeaderValue = HeaderValue::from_static("application/x-tar");

/// A 200 with a message.
#[derive(Debug)]
pub(crate) struct Json<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Json<T> {
    fn into_response(self) -> Response {
        json_response(StatusCode::OK, &self.0)
    }
}

/// A 201 with a message.
#[derive(Debug)]
pub(crate) struct Created<T>(pub(crate) T);

impl<T: Serialize> IntoResponse for Created<T> {
    fn into_response(self) -> Response {
        json_response(StatusCode::CREATED, &self.0)
    }
}

/// A message with any status, and the newline that Go's encoder ends with.
pub(crate) fn json_response<T: Serialize>(status: StatusCode, message: &T) -> Response {
    let mut response = Response::new(Body::from(json_line(message)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, JSON);
    response
}

/// One line of JSON.
pub(crate) fn json_line<T: Serialize>(message: &T) -> Bytes {
    let mut line = serde_json::to_vec(message).expect("messages have string keys only");
    line.push(b'\n');
    line.into()
}

/// A 200 whose body goes out piece by piece as it is made; its headers go at once.
pub(crate) fn stream_response<E>(
    media_type: Option<HeaderValue>,
    pieces: mpsc::Receiver<Result<Bytes, E>>,
) -> Response
where
    E: Classify + Send + Sync + 'static,
{
    let mut response = Response::new(Body::new(Pieces { pieces }));
    if let Some(media_type) = media_type {
        response.headers_mut().insert(CONTENT_TYPE, media_type);
    }
    response
}

/// A body fed by a channel. An error ends the connection, so that the client does not take what it
/// got for the whole. Dropping the body tells the maker that nobody reads.
struct Pieces<E> {
    pieces: mpsc::Receiver<Result<Bytes, E>>,
}

impl<E: Classify + Send + Sync + 'static> hyper::body::Body for Pieces<E> {
    type Data = Bytes;
    type Error = E;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, E>>> {
        self.pieces.poll_recv(cx).map(|piece| {
            piece.map(|piece| {
                if let Err(error) = &piece {
                    tracing::error!(error = %chain(error), "answer cut short");
                }
                piece.map(Frame::data)
            })
        })
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::default()
    }
}
