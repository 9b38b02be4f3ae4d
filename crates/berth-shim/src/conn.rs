//! A connection to the watcher's socket.

use std::os::unix::net::UnixStream;

use rustix::event::PollFlags;

use crate::queue::{Queue, Sink};

/// While a client has more than this waiting, its stream is not read: the container waits for the
/// slowest attached client, as with Docker, and no output is lost. A client that goes away stops
/// holding it up.
pub(crate) const CLIENT_LIMIT: usize = 256 * 1024;
/// The same for input that the process does not read.
pub(crate) const INPUT_LIMIT: usize = 64 * 1024;

/// What a connection is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Its request has not come yet.
    Request,
    /// An exec that it asked for is being set up.
    Waiting,
    /// Streams of a process: its key, whether input is taken, which outputs are sent.
    Stream { process: u32, input: bool, output: [bool; 2] },
    /// Events.
    Subscriber,
    /// What is queued is still sent, then it closes.
    Closing,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) stream: UnixStream,
    pub(crate) mode: Mode,
    /// The beginning of the request, or input that came right behind it.
    pub(crate) early: Vec<u8>,
    pub(crate) out: Queue,
    /// The client will send no more.
    pub(crate) ended: bool,
}

impl Conn {
    pub(crate) fn new(stream: UnixStream) -> Self {
        Self { stream, mode: Mode::Request, early: Vec::new(), out: Queue::default(), ended: false }
    }

    /// What to poll for. `room` says whether the process takes input.
    pub(crate) fn interest(&self, room: bool) -> PollFlags {
        let mut flags = PollFlags::empty();
        let reads = match self.mode {
            Mode::Request | Mode::Subscriber => true,
            Mode::Stream { input, .. } => !input || room,
            Mode::Waiting | Mode::Closing => false,
        };
        if reads && !self.ended {
            flags |= PollFlags::IN;
        }
        if !self.out.is_empty() {
            flags |= PollFlags::OUT;
        }
        flags
    }

    /// Queues a chunk of output, framed unless it comes from a terminal.
    pub(crate) fn output(&mut self, stream: usize, framed: bool, bytes: &[u8]) {
        if framed {
            let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes();
            let kind = if stream == 0 { 1 } else { 2 };
            let [a, b, c, d] = length;
            self.out.push(&[kind, 0, 0, 0, a, b, c, d]);
        }
        self.out.push(bytes);
    }

    /// Queues a JSON line.
    pub(crate) fn line(&mut self, value: &impl serde::Serialize) {
        let mut line = serde_json::to_vec(value).unwrap_or_default();
        line.push(b'\n');
        self.out.push(&line);
    }

    pub(crate) fn flush(&mut self) -> Sink {
        self.out.flush(&self.stream)
    }
}
