//! A request's body for code that blocks.
//!
//! A task takes the body from the connection and collects what arrives while the reader is busy with
//! what it got before. Readers that keep up get each piece at once; those that do not are woken once
//! for many pieces, and the client is not held up by each of them.
//!
//! Whoever reads may stop early, because the archive is broken. A server that then closes the
//! connection makes the client, which is still sending, report a broken pipe in the place of the
//! answer. So what is left is read and thrown away in the background, for a while.

use std::collections::VecDeque;
use std::io::{self, Read};
use std::time::Duration;

use axum::body::{Body, BodyDataStream};
use bytes::{Buf as _, Bytes};
use futures_util::StreamExt as _;
use tokio::sync::mpsc;

/// How long a client may go on sending what nobody reads.
const GRACE: Duration = Duration::from_secs(30);
/// How many bytes are collected, at least, before the client has to wait for the reader.
const AHEAD: usize = 4 << 20;

/// Pieces as they came.
type Pieces = VecDeque<Bytes>;

/// The body as a blocking reader, which must be used outside of the async threads. To be called on
/// one of these.
pub(crate) fn reader(body: Body) -> Box<dyn Read + Send> {
    // One batch waits while the next is collected, so a free place says that the reader has nothing.
    let (sender, receiver) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut body = body.into_data_stream();
        if hand_over(&mut body, &sender).await.is_err() {
            let rest = async { while let Some(Ok(_)) = body.next().await {} };
            if tokio::time::timeout(GRACE, rest).await.is_err() {
                tracing::debug!("a client is cut off that sends what nobody reads");
            }
        }
    });
    Box::new(Upload { receiver, pieces: Pieces::new(), has_ended: false })
}

/// The reader has left.
struct Left;

/// Sends all of the body to the reader, and in the end why it breaks off, or no pieces at all: a task
/// that ends without a word, with its runtime, must not look like the body's end.
async fn hand_over(
    body: &mut BodyDataStream,
    sender: &mpsc::Sender<io::Result<Pieces>>,
) -> Result<(), Left> {
    let (mut pieces, mut length) = (Pieces::new(), 0);
    let failed = loop {
        tokio::select! {
            biased;
            free = sender.reserve(), if length > 0 => {
                free.map_err(|_closed| Left)?.send(Ok(std::mem::take(&mut pieces)));
                length = 0;
            }
            piece = body.next(), if length < AHEAD => match piece {
                Some(Ok(piece)) => {
                    length += piece.len();
                    pieces.push_back(piece);
                }
                Some(Err(error)) => break Some(error),
                None => break None,
            },
        }
    };
    if !pieces.is_empty() {
        sender.send(Ok(pieces)).await.map_err(|_closed| Left)?;
    }
    let end = failed.map_or(Ok(Pieces::new()), |error| Err(io::Error::other(error)));
    sender.send(end).await.map_err(|_closed| Left)
}

/// The blocking end.
struct Upload {
    receiver: mpsc::Receiver<io::Result<Pieces>>,
    pieces: Pieces,
    has_ended: bool,
}

impl Read for Upload {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        if buf.is_empty() {
            return Ok(0);
        }
        loop {
            if let Some(piece) = self.pieces.front_mut() {
                let count = piece.len().min(buf.len());
                piece.copy_to_slice(&mut buf[..count]);
                if piece.is_empty() {
                    self.pieces.pop_front();
                }
                if count > 0 {
                    return Ok(count);
                }
            } else if self.has_ended {
                return Ok(0);
            } else {
                let cut = || io::Error::from(io::ErrorKind::UnexpectedEof);
                self.pieces = self.receiver.blocking_recv().ok_or_else(cut)??;
                self.has_ended = self.pieces.is_empty();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_nobody_reads_is_taken_from_the_client() {
        let (sender, body) = fed();
        let mut reader = reader(body);
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

    /// A body that sends what it is given.
    fn fed() -> (mpsc::Sender<io::Result<Bytes>>, Body) {
        let (sender, receiver) = mpsc::channel::<io::Result<Bytes>>(1);
        let pieces = futures_util::stream::unfold(receiver, async |mut receiver| {
            receiver.recv().await.map(|piece| (piece, receiver))
        });
        (sender, Body::from_stream(pieces))
    }

    #[tokio::test]
    async fn a_reader_that_waits_gets_each_piece_at_once() {
        let (sender, body) = fed();
        let mut reader = reader(body);
        for piece in [b"a", b"b", b"c"] {
            sender.send(Ok(Bytes::from_static(piece))).await.unwrap();
            let read = tokio::task::spawn_blocking(move || {
                let mut got = [0; 9];
                let count = reader.read(&mut got).unwrap();
                (reader, got[..count].to_vec())
            });
            let got;
            (reader, got) = read.await.unwrap();
            assert_eq!(got, piece);
        }
    }

    #[tokio::test]
    async fn all_pieces_arrive_in_their_order_and_then_the_failure() {
        let (sender, body) = fed();
        let mut reader = reader(body);
        let feed = tokio::spawn(async move {
            // More than is collected, empty ones among them.
            for number in 0..100_u8 {
                sender.send(Ok(vec![number; usize::from(number) * 300].into())).await.unwrap();
            }
            sender.send(Err(io::Error::other("the client has left"))).await.unwrap();
        });
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            let error = reader.read_to_end(&mut all).unwrap_err().to_string();
            (all, error)
        });
        let (all, error) = read.await.unwrap();
        feed.await.unwrap();
        let expected = (0..100_u8).flat_map(|number| vec![number; usize::from(number) * 300]);
        assert!(all.into_iter().eq(expected));
        assert_eq!(error, "the client has left");
    }

    #[test]
    fn a_body_that_ends_with_its_server_is_cut() {
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(1).build().unwrap();
        let (sender, body) = fed();
        let mut reader = runtime.block_on(async {
            sender.send(Ok(Bytes::from_static(b"half"))).await.unwrap();
            reader(body)
        });
        let mut half = [0; 4];
        reader.read_exact(&mut half).unwrap();
        runtime.shutdown_background();
        let mut rest = Vec::new();
        let error = reader.read_to_end(&mut rest).unwrap_err();
        assert_eq!((error.kind(), rest), (io::ErrorKind::UnexpectedEof, vec![]));
    }

    #[tokio::test]
    async fn the_end_is_said_as_often_as_it_is_asked_for() {
        let mut reader = reader(Body::from("all"));
        let read = tokio::task::spawn_blocking(move || {
            let mut all = Vec::new();
            reader.read_to_end(&mut all).unwrap();
            (all, reader.read(&mut [0]).unwrap())
        });
        assert_eq!(read.await.unwrap(), (b"all".to_vec(), 0));
    }
}
