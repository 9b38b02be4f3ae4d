//! A body that is made while it is sent, and whether the registry goes on taking it.
//!
//! A large blob may take hours. What must not happen is that nothing moves though there is something to
//! be taken.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use reqwest::Body;
use tokio::sync::mpsc;

/// So many times as long a registry may think about what it was sent: it may hash or copy all of it.
pub(crate) const THINKING: u32 = 10;

/// A body that is made while it is sent.
#[derive(Debug)]
pub struct Outgoing {
    pub(crate) body: Body,
    pub(crate) progress: Progress,
}

/// How far a body is.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<Far>>);

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Far {
    pieces: u64,
    /// The registry waits for us.
    is_ours: bool,
    is_ended: bool,
}

impl Outgoing {
    /// Out of these pieces. An error in it cuts it, and the registry takes none of it for the whole.
    pub fn new(pieces: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        let progress = Progress::default();
        let noted = progress.clone();
        let body = Body::wrap_stream(stream::unfold(pieces, move |mut pieces| {
            let noted = noted.clone();
            async move {
                noted.set(|far| far.is_ours = true);
                let piece = pieces.recv().await;
                noted.set(|far| {
                    *far = Far { pieces: far.pieces + 1, is_ours: false, is_ended: piece.is_none() }
                });
                piece.map(|piece| (piece, pieces))
            }
        }));
        Self { body, progress }
    }

    /// Out of bytes that are there.
    pub(crate) fn whole(bytes: Vec<u8>) -> Self {
        let progress = Progress::default();
        progress.set(|far| far.is_ended = true);
        Self { body: Body::from(bytes), progress }
    }
}

impl Progress {
    fn set(&self, change: impl FnOnce(&mut Far)) {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner));
    }

    fn get(&self) -> Far {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns when the registry took nothing for so long, or has said nothing for
    /// [`THINKING`] times as long after the end.
    pub(crate) async fn stalled(&self, stall: Duration) {
        let (mut before, mut idle) = (self.get(), 0);
        loop {
            tokio::time::sleep(stall).await;
            let far = self.get();
            idle = if far == before && !far.is_ours { idle + 1 } else { 0 };
            before = far;
            if idle >= if far.is_ended { THINKING } else { 1 } {
                return;
            }
        }
    }
}
