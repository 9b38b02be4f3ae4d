//! Downloads that several pulls share, and the files that they leave.
//!
//! ```text
//! downloads/sha256-<hex>   the beginning of a blob; the whole, while it waits to be unpacked
//! ```
//!
//! A blob is downloaded once however many pulls want it, and for as long as one of them does. Its
//! file goes when all layers of the image are unpacked, or when it cannot be had; what was cut stays,
//! and the next pull, also of a later engine, goes on where it ends.

use std::collections::HashMap;
use std::fs;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use berth_registry::RegistryError;
use berth_registry::download::{Part, Source, Step, download};
use berth_registry::manifest::Descriptor;
use berth_types::Digest;
use tokio::sync::watch;
use tokio::task::AbortHandle;

use super::limiter::Limiter;

const PREFIX: &str = "sha256-";
/// How long a file that nobody goes on with is kept over a restart.
const KEPT: Duration = Duration::from_hours(72);

/// All downloads.
#[derive(Debug)]
pub(super) struct Transfers {
    dir: PathBuf,
    slots: Limiter,
    running: Mutex<HashMap<Digest, Running>>,
    next: AtomicU64,
}

#[derive(Debug)]
struct Running {
    number: u64,
    transfer: Weak<Transfer>,
}

/// How a download is.
#[derive(Debug, Clone)]
pub(super) enum State {
    /// Others are first.
    Queued,
    /// It is under way.
    At(Step),
    /// The file is whole and verified.
    Done,
    /// It will not be.
    Failed(RegistryError),
}

/// One download, for as long as somebody holds it.
#[derive(Debug)]
pub(super) struct Transfer {
    digest: Digest,
    number: u64,
    all: Arc<Transfers>,
    state: watch::Receiver<State>,
    task: AbortHandle,
    is_used: AtomicBool,
}

impl Transfers {
    /// Over this directory. Removes what is old, and the blobs of layers that are recorded.
    pub(super) fn open(
        dir: &Path,
        at_a_time: usize,
        is_recorded: impl Fn(&Digest) -> bool,
    ) -> io::Result<Arc<Self>> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let this = Self {
            dir: dir.to_owned(),
            slots: Limiter::new(at_a_time),
            running: Mutex::default(),
            next: AtomicU64::new(0),
        };
        this.clear(|digest, meta| is_older(meta, KEPT) || is_recorded(digest));
        Ok(Arc::new(this))
    }

    pub(super) fn slots(&self) -> &Limiter {
        &self.slots
    }

    /// The download of a blob: one that is under way, or a new one. Whether it is new.
    pub(super) fn get(
        self: &Arc<Self>,
        blob: &Descriptor,
        source: Source,
    ) -> (Arc<Transfer>, bool) {
        let mut running = self.running();
        let known = running.get(&blob.digest).and_then(|one| one.transfer.upgrade());
        let is_good = |one: &Arc<Transfer>| !matches!(*one.state.borrow(), State::Failed(_));
        let (known, failed) = match known {
            Some(known) if is_good(&known) => (Some(known), None),
            other => (None, other),
        };
        if let Some(known) = known {
            return (known, false);
        }
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let path = self.path(&blob.digest);
        let place = self.slots.try_enter();
        // Here, not in the task: what is removed when this ends must not be made again.
        let part = Part::open(&path);
        let got = || part.as_ref().map_or(0, Part::len);
        let begin = if place.is_some() { State::At(Step::Got(got())) } else { State::Queued };
        let (sender, state) = watch::channel(begin);
        let task = tokio::spawn({
            let (all, blob) = (Arc::clone(self), blob.clone());
            async move {
                let _place = match place {
                    Some(place) => place,
                    None => all.slots.enter().await,
                };
                sender.send_if_modified(|state| {
                    let is_news = matches!(state, State::Queued);
                    if is_news {
                        *state = State::At(Step::Got(0));
                    }
                    is_news
                });
                let report = |step| drop(sender.send_replace(State::At(step)));
                let downloaded = match &part {
                    Ok(part) => download(&source, &blob, part, &report).await,
                    Err(error) => Err(error.clone()),
                };
                let state = downloaded.map_or_else(State::Failed, |()| State::Done);
                sender.send_replace(state);
            }
        });
        let transfer = Arc::new(Transfer {
            digest: blob.digest.clone(),
            number,
            all: Arc::clone(self),
            state,
            task: task.abort_handle(),
            is_used: AtomicBool::new(false),
        });
        let new = Running { number, transfer: Arc::downgrade(&transfer) };
        running.insert(blob.digest.clone(), new);
        drop(running);
        // Not before: its end takes the same lock.
        drop(failed);
        (transfer, true)
    }

    /// Removes the files that nobody works on; how many bytes they had.
    pub(super) fn clear_idle(&self) -> u64 {
        self.clear(|_, _| true)
    }

    fn clear(&self, is_done: impl Fn(&Digest, &fs::Metadata) -> bool) -> u64 {
        let running = self.running();
        let mut bytes = 0;
        for (digest, path, meta) in self.files() {
            if running.contains_key(&digest) || !is_done(&digest, &meta) {
                continue;
            }
            match fs::remove_file(&path) {
                Ok(()) => bytes += meta.len(),
                Err(error) => tracing::warn!(%error, path = %path.display(), "not removed"),
            }
        }
        bytes
    }

    fn files(&self) -> Vec<(Digest, PathBuf, fs::Metadata)> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) => {
                tracing::warn!(%error, dir = %self.dir.display(), "cannot be listed");
                return Vec::new();
            }
        };
        let files = entries.filter_map(Result::ok).filter_map(|entry| {
            let name = entry.file_name();
            let digest = Digest::from_hex(name.to_str()?.strip_prefix(PREFIX)?).ok()?;
            Some((digest, entry.path(), entry.metadata().ok()?))
        });
        files.collect()
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        self.dir.join(format!("{PREFIX}{}", digest.hex()))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<Digest, Running>> {
        // Each change is one statement, so a panic elsewhere leaves it whole.
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn is_older(meta: &fs::Metadata, age: Duration) -> bool {
    let since = meta.modified().ok().and_then(|at| at.elapsed().ok());
    since.is_some_and(|since| since >= age)
}

impl Transfer {
    /// How it is, and from here on.
    pub(super) fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// Where the blob is once it is whole.
    pub(super) fn path(&self) -> PathBuf {
        self.all.path(&self.digest)
    }

    /// The image's layers are unpacked: nobody needs the file any more but who still holds this.
    pub(super) fn used(&self) {
        self.is_used.store(true, Ordering::Release);
    }

    /// Whether the next pull can do nothing with the file.
    fn is_useless(&self) -> bool {
        self.is_used.load(Ordering::Acquire)
            || matches!(&*self.state.borrow(), State::Failed(error) if !error.is_passing())
    }
}

impl Drop for Transfer {
    fn drop(&mut self) {
        self.task.abort();
        let mut running = self.all.running();
        if running.get(&self.digest).is_none_or(|one| one.number != self.number) {
            // Somebody has begun anew, in the same file.
            return;
        }
        let path = self.path();
        let is_empty = || fs::metadata(&path).is_ok_and(|meta| meta.len() == 0);
        if self.is_useless() || is_empty() {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    tracing::warn!(%error, path = %path.display(), "not removed");
                }
                _ => {}
            }
        }
        running.remove(&self.digest);
    }
}
