//! What a stage says while others before it are still speaking.
//!
//! Nobody waits for room here: a stage that could not go on because of what it says might hold what
//! an earlier one waits for. What is too much for memory goes to a file without a name.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_api::image::ProgressMessage;
use berth_types::HexId;
use tokio::sync::Notify;

/// So many bytes stay in memory.
const IN_MEMORY: usize = 1 << 20;

/// Messages on their way.
#[derive(Debug)]
pub(super) struct Spool {
    tmp: PathBuf,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// As JSON.
    ahead: VecDeque<Vec<u8>>,
    bytes: usize,
    spilled: Option<Spilled>,
    /// Nothing follows.
    ended: bool,
}

/// Messages behind those in memory, each with its length before it.
#[derive(Debug)]
struct Spilled {
    file: File,
    read: u64,
    written: u64,
}

impl Spool {
    /// An empty one, whose file would be in `tmp`.
    pub(super) fn new(tmp: &Path) -> Arc<Self> {
        Arc::new(Self { tmp: tmp.to_owned(), state: Mutex::default(), changed: Notify::new() })
    }

    /// Adds a message.
    pub(super) fn push(&self, message: &ProgressMessage) -> io::Result<()> {
        let line = serde_json::to_vec(message).map_err(io::Error::other)?;
        let mut state = self.state();
        if state.spilled.is_none() && state.bytes + line.len() > IN_MEMORY {
            state.spilled = Some(Spilled::new(&self.tmp)?);
        }
        if let Some(spilled) = &mut state.spilled {
            spilled.push(&line)?;
        } else {
            state.bytes += line.len();
            state.ahead.push_back(line);
        }
        drop(state);
        self.changed.notify_one();
        Ok(())
    }

    /// Says that nothing follows.
    pub(super) fn end(&self) {
        self.state().ended = true;
        self.changed.notify_one();
    }

    /// The next message, once there is one; `None` at the end. For one reader.
    pub(super) async fn next(&self) -> io::Result<Option<ProgressMessage>> {
        loop {
            let (line, ended) = {
                let mut state = self.state();
                (state.pop()?, state.ended)
            };
            match line {
                Some(line) => return serde_json::from_slice(&line).map_err(io::Error::other),
                None if ended => return Ok(None),
                None => self.changed.notified().await,
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn pop(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(line) = self.ahead.pop_front() {
            self.bytes -= line.len();
            return Ok(Some(line));
        }
        let Some(spilled) = &mut self.spilled else { return Ok(None) };
        if spilled.read == spilled.written {
            self.spilled = None;
            return Ok(None);
        }
        spilled.pop().map(Some)
    }
}

/// A file below `tmp` that is gone when nobody has it open.
pub(super) fn unnamed_file(tmp: &Path) -> io::Result<File> {
    let path = tmp.join(format!("build-{}", HexId::random()));
    let file = File::options().read(true).write(true).create_new(true).open(&path)?;
    std::fs::remove_file(&path)?;
    Ok(file)
}

impl Spilled {
    fn new(tmp: &Path) -> io::Result<Self> {
        Ok(Self { file: unnamed_file(tmp)?, read: 0, written: 0 })
    }

    fn push(&mut self, line: &[u8]) -> io::Result<()> {
        let length = line.len() as u64;
        self.file.write_all_at(&length.to_le_bytes(), self.written)?;
        self.file.write_all_at(line, self.written + 8)?;
        self.written += 8 + length;
        Ok(())
    }

    fn pop(&mut self) -> io::Result<Vec<u8>> {
        let mut length = [0; 8];
        self.file.read_exact_at(&mut length, self.read)?;
        let length = u64::from_le_bytes(length);
        let mut line = vec![0; usize::try_from(length).map_err(io::Error::other)?];
        self.file.read_exact_at(&mut line, self.read + 8)?;
        self.read += 8 + length;
        Ok(line)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn everything_comes_out_in_order_whatever_its_size() {
        let tmp = tempfile::tempdir().unwrap();
        let spool = Spool::new(tmp.path());
        let message =
            |n: usize| ProgressMessage::stream(format!("{n}{}", "x".repeat(n % 7 * 10_000)));
        let mut read = 0;
        for n in 0..300 {
            spool.push(&message(n)).unwrap();
            if n % 3 == 0 {
                assert_eq!(spool.next().await.unwrap(), Some(message(read)));
                read += 1;
            }
        }
        assert!(spool.state().spilled.is_some());
        spool.end();
        while let Some(got) = spool.next().await.unwrap() {
            assert_eq!(got, message(read));
            read += 1;
        }
        assert_eq!(read, 300);
        assert_eq!(std::fs::read_dir(tmp.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_reader_waits_for_what_is_said_later() {
        let tmp = tempfile::tempdir().unwrap();
        let spool = Spool::new(tmp.path());
        let reader = tokio::spawn({
            let spool = Arc::clone(&spool);
            async move { (spool.next().await.unwrap(), spool.next().await.unwrap()) }
        });
        tokio::task::yield_now().await;
        spool.push(&ProgressMessage::stream("a")).unwrap();
        spool.end();
        assert_eq!(reader.await.unwrap(), (Some(ProgressMessage::stream("a")), None));
    }
}
