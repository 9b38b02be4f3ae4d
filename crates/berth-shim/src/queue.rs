//! Bytes that wait for a descriptor to take them.

use std::collections::VecDeque;
use std::os::fd::AsFd;

use rustix::io::Errno;

/// A first-in-first-out of bytes.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    bytes: VecDeque<u8>,
}

/// What became of a descriptor that bytes were written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Sink {
    /// It takes more, now or later.
    Open,
    /// Nobody will read what is written.
    Gone,
}

impl Queue {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(crate) fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    /// Writes as much as the (non-blocking) descriptor takes.
    pub(crate) fn flush(&mut self, to: impl AsFd) -> Sink {
        while !self.bytes.is_empty() {
            match rustix::io::write(&to, self.bytes.as_slices().0) {
                Ok(count) => {
                    self.bytes.drain(..count);
                }
                Err(Errno::AGAIN) => return Sink::Open,
                Err(Errno::INTR) => {}
                Err(_) => {
                    self.bytes = VecDeque::new();
                    return Sink::Gone;
                }
            }
        }
        // An idle watcher keeps no buffer.
        self.bytes = VecDeque::new();
        Sink::Open
    }
}
