//! Bodies that nobody read to the end.
//!
//! A client that is still sending when its connection is closed gets an error of its own instead of the
//! answer. So what is left of a request's body is read and thrown away, as far as Go's server does it.

use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::body::{Body, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{EXPECT, HeaderMap};
use tokio::runtime::Handle;

/// How much of a body is thrown away; more closes the connection.
const MOST: usize = 256 << 10;
/// How long a client may take to send it.
const PATIENCE: Duration = Duration::from_secs(5);

/// A request's body. When it is dropped before its end, the rest is read in the background.
pub(crate) struct Lingering {
    body: Option<Incoming>,
}

impl Lingering {
    /// Takes a request's body. One that the client holds back until it is asked for is not read
    /// for nothing.
    pub(crate) fn new(body: Incoming) -> Self {
        Self { body: Some(body) }
    }

    /// Whether a body that comes with these headers may be read by anybody.
    pub(crate) fn may_read(headers: &HeaderMap) -> bool {
        !headers.contains_key(EXPECT)
    }
}

impl Body for Lingering {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let polled = Pin::new(body).poll_frame(context);
        if let Poll::Ready(None | Some(Err(_))) = &polled {
            self.body = None;
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}

impl Drop for Lingering {
    fn drop(&mut self) {
        let Some(body) = self.body.take().filter(|body| !body.is_end_stream()) else { return };
        if let Ok(runtime) = Handle::try_current() {
            runtime.spawn(tokio::time::timeout(PATIENCE, throw_away(body)));
        }
    }
}

async fn throw_away(mut body: Incoming) {
    let mut left = MOST;
    while let Some(Ok(frame)) =
        std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
    {
        let length = frame.data_ref().map_or(0, Bytes::len);
        match left.checked_sub(length) {
            Some(rest) => left = rest,
            None => return,
        }
    }
}
