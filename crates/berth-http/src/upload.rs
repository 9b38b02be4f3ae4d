//! A request's body for code that blocks.
//!
//! Whoever reads may stop early, because the archive is broken. A server that then closes the
//! connection makes the client, which is still sending, report a broken pipe in the place of the
//! answer. So what is left is read and thrown away in the background, for a while.

use std::io::Read;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::Bytes;
use futures_util::{Stream, StreamExt as _};
use tokio::runtime::Handle;
use tokio_util::io::{StreamReader, SyncIoBridge};

/// How long a client may go on sending what nobody reads.
const GRACE: Duration = Duration::from_secs(30);

/// The body as a blocking reader, which must be used outside of the async threads.
pub(crate) fn reader(body: Body) -> Box<dyn Read + Send> {
    let body = Upload { body: Some(body.into_data_stream()), runtime: Handle::current() };
    Box::new(SyncIoBridge::new(StreamReader::new(body)))
}

/// A body that is read to its end, by somebody or by nobody.
struct Upload {
    /// `None` once it has ended.
    body: Option<BodyDataStream>,
    runtime: Handle,
}

impl Stream for Upload {
    type Item = std::io::Result<Bytes>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let piece = std::task::ready!(body.poll_next_unpin(cx));
        if !matches!(piece, Some(Ok(_))) {
            self.body = None;
        }
        Poll::Ready(piece.map(|piece| piece.map_err(std::io::Error::other)))
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        if let Some(mut body) = self.body.take() {
            self.runtime.spawn(tokio::time::timeout(GRACE, async move {
                while let Some(Ok(_)) = body.next().await {}
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_reads_is_taken_from_the_client() {
        let (sender, receiver) = tokio::sync::mpsc::channel::<std::io::Result<Bytes>>(1);
        let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        let mut reader = reader(Body::from_stream(pieces));
        sender.send(Ok(Bytes::from_static(b"ab"))).await.unwrap();
        let first = tokio::task::spawn_blocking(move || {
            let mut first = [0];
            reader.read_exact(&mut first).map(|()| first)
        });
        assert_eq!(first.await.unwrap().unwrap(), *b"a");
        for _ in 0..10 {
            sender.send(Ok(Bytes::from_static(b"more"))).await.unwrap();
        }
    }
}
