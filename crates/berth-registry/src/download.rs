//! One blob into a file: resumed where it was cut, verified, tried again.
//!
//! The file grows as bytes arrive and holds nothing but the blob's beginning, so another attempt,
//! or another process, goes on where it ends. What is in it is believed only once the whole has
//! the blob's digest; until then a file may hold anything, also after a power cut. A file that
//! turns out wrong is emptied.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_types::Digest;
use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::error::RegistryError;
use crate::manifest::Descriptor;
use crate::session::{Access, Session};
use crate::transport;

/// How much of a file is read at a time.
const PIECE: usize = 256 << 10;
/// How many pieces may wait to be written.
const AHEAD: usize = 8;

/// How far a download is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// So many bytes are in the file.
    Got(u64),
    /// All are, and are looked at.
    Verifying,
    /// Nothing for so many seconds.
    Waiting(u64),
}

/// Who has a blob.
#[derive(Debug, Clone)]
pub struct Source {
    /// The registry.
    pub session: Arc<Session>,
    /// The repository there.
    pub repository: String,
}

/// The file of a blob. Who has it open may go on writing after it was removed, to no harm.
#[derive(Debug)]
pub struct Part {
    file: File,
    path: PathBuf,
}

impl Part {
    /// Opens the file at `path`, or makes it.
    pub fn open(path: &Path) -> Result<Self, RegistryError> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let opened = options.open(path);
        let file = opened.map_err(|error| RegistryError::file("open", path, &error))?;
        Ok(Self { file, path: path.to_owned() })
    }

    /// How much of the blob it has, as far as one can tell.
    pub fn len(&self) -> u64 {
        self.file.metadata().map_or(0, |meta| meta.len())
    }

    /// Whether it has nothing.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    fn failed(&self, action: &'static str) -> impl FnOnce(std::io::Error) -> RegistryError {
        let path = self.path.clone();
        move |error| RegistryError::file(action, &path, &error)
    }

    fn again(&self) -> Result<Self, RegistryError> {
        let file = self.file.try_clone().map_err(self.failed("open"))?;
        Ok(Self { file, path: self.path.clone() })
    }
}

/// Downloads `blob` into a file.
pub async fn download(
    source: &Source,
    blob: &Descriptor,
    part: &Part,
    report: &(dyn Fn(Step) + Send + Sync),
) -> Result<(), RegistryError> {
    let limits = source.session.limits();
    let mut attempt = 1;
    loop {
        let before = part.len();
        let error = match once(source, blob, part, report).await {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        let pause = match (&error, error.first().and_then(|first| first.retry_after)) {
            // A beginning that an earlier time left, and that was wrong: the file is empty now.
            (RegistryError::BlobDigest { .. }, _) if before > 0 => Duration::ZERO,
            (_, Some(seconds)) if Duration::from_secs(seconds) > limits.longest_wait => {
                return Err(error);
            }
            (_, Some(seconds)) => Duration::from_secs(seconds).max(limits.pause),
            (error, None) if error.is_passing() => limits.pause * attempt,
            _ => return Err(error),
        };
        if attempt >= limits.attempts {
            return Err(error);
        }
        // What has moved on since is not a try in vain.
        attempt = if part.len() > before && before > 0 { attempt } else { attempt + 1 };
        tracing::debug!(digest = %blob.digest, %error, ?pause, "download tried again");
        wait(pause, report).await;
    }
}

/// Counts down as Docker does.
async fn wait(pause: Duration, report: &(dyn Fn(Step) + Send + Sync)) {
    let until = Instant::now() + pause;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return;
        }
        report(Step::Waiting(left.as_secs() + u64::from(left.subsec_nanos() > 0)));
        tokio::time::sleep(left.min(Duration::from_secs(1))).await;
    }
}

/// One attempt, from where the file ends.
async fn once(
    source: &Source,
    blob: &Descriptor,
    part: &Part,
    report: &(dyn Fn(Step) + Send + Sync),
) -> Result<(), RegistryError> {
    let have = part.len();
    let have = if have > blob.size { 0 } else { have };
    let (start, response) = if have == blob.size {
        (have, None)
    } else {
        let (start, response) = open(source, blob, have).await?;
        (start, Some(response))
    };
    let (pieces, inbox) = mpsc::channel(AHEAD);
    let own = part.again()?;
    let writing = tokio::task::spawn_blocking(move || write(&own, start, inbox));
    let received = match response {
        Some(response) => receive(source, blob, start, response, &pieces, report).await,
        None => Ok(()),
    };
    if received.is_ok() {
        report(Step::Verifying);
    }
    drop(pieces);
    let written = match writing.await {
        Ok(written) => written,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_cancelled) => return std::future::pending().await,
        },
    };
    let hash = written?;
    received?;
    if hash != blob.digest {
        part.file.set_len(0).map_err(part.failed("empty"))?;
        return Err(RegistryError::BlobDigest { digest: blob.digest.clone() });
    }
    Ok(())
}

/// Asks for the blob from `have` on; where the answer begins.
async fn open(
    source: &Source,
    blob: &Descriptor,
    have: u64,
) -> Result<(u64, Response), RegistryError> {
    let Source { session, repository } = source;
    let url = session.endpoint().at(&format!("{repository}/blobs/{}", blob.digest));
    let scopes = vec![Access::Pull.of(repository)];
    let range = format!("bytes={have}-");
    let response = session
        .ask(Method::GET, url.clone(), &scopes, |request| {
            if have > 0 { request.header(RANGE, &range) } else { request }
        })
        .await?;
    if response.status() == StatusCode::RANGE_NOT_SATISFIABLE && have > 0 {
        let response = session.ask(Method::GET, url, &scopes, |request| request).await?;
        return Ok((0, session.expect(response, &[StatusCode::OK]).await?));
    }
    let good = [StatusCode::OK, StatusCode::PARTIAL_CONTENT];
    let response = session.expect(response, &good).await?;
    let start = if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = response.headers().get(CONTENT_RANGE).and_then(|text| text.to_str().ok());
        let begins = range.and_then(|text| text.trim().strip_prefix("bytes "));
        let begins = begins.and_then(|text| text.split('-').next()?.parse().ok());
        begins.filter(|start| *start == have).ok_or(RegistryError::Cut)?
    } else {
        0
    };
    if let Some(length) = response.content_length()
        && start.saturating_add(length) != blob.size
    {
        let (digest, expected) = (blob.digest.clone(), blob.size);
        return Err(RegistryError::BlobSize {
            digest,
            expected,
            got: start.saturating_add(length),
        });
    }
    Ok((start, response))
}

/// Takes the body, no longer than the blob and not too slowly.
async fn receive(
    source: &Source,
    blob: &Descriptor,
    start: u64,
    mut response: Response,
    pieces: &mpsc::Sender<Bytes>,
    report: &(dyn Fn(Step) + Send + Sync),
) -> Result<(), RegistryError> {
    let limits = source.session.limits();
    let url = response.url().clone();
    let stalled = || {
        let (bytes, seconds) = (limits.stall_bytes, limits.stall.as_secs());
        Err(RegistryError::Stalled { bytes, seconds })
    };
    let mut got = start;
    let mut window = (Instant::now() + limits.stall, got + limits.stall_bytes);
    loop {
        let piece = match tokio::time::timeout_at(window.0, response.chunk()).await {
            Ok(piece) => piece.map_err(|error| cut(&url, &error))?,
            Err(_late) => return stalled(),
        };
        let Some(piece) = piece else { break };
        got += piece.len() as u64;
        if got > blob.size {
            let (digest, expected) = (blob.digest.clone(), blob.size);
            return Err(RegistryError::BlobSize { digest, expected, got });
        }
        if pieces.send(piece).await.is_err() {
            // The writer has failed, and says why.
            return Err(RegistryError::Cut);
        }
        report(Step::Got(got));
        let now = Instant::now();
        if got >= window.1 {
            window = (now + limits.stall, got + limits.stall_bytes);
        } else if now >= window.0 {
            return stalled();
        }
    }
    if got < blob.size { Err(RegistryError::Cut) } else { Ok(()) }
}

/// A body that ends early is Go's `unexpected EOF`.
fn cut(url: &reqwest::Url, error: &reqwest::Error) -> RegistryError {
    if error.is_body() || error.is_decode() {
        return RegistryError::Cut;
    }
    transport::failed("Get", url, error)
}

/// Hashes what the file has up to `start`, and appends and hashes what arrives.
fn write(
    part: &Part,
    start: u64,
    mut inbox: mpsc::Receiver<Bytes>,
) -> Result<Digest, RegistryError> {
    let mut file = &part.file;
    // An attempt that was given up may still be writing its last piece.
    rustix::fs::flock(file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|error| part.failed("lock")(error.into()))?;
    // Only where it changes something: a file that was truncated to nothing, even from nothing, is written
    // to the disk by ext4 as soon as it is closed, and this one will have been removed before it need be.
    if part.len() != start {
        file.set_len(start).map_err(part.failed("cut"))?;
    }
    file.seek(std::io::SeekFrom::Start(0)).map_err(part.failed("read"))?;
    let mut hash = Sha256::new();
    let mut buffer = vec![0; PIECE];
    let mut left = start;
    while left > 0 {
        let most = usize::try_from(left).map_or(PIECE, |left| left.min(PIECE));
        let read = file.read(&mut buffer[..most]).map_err(part.failed("read"))?;
        if read == 0 {
            return Err(RegistryError::Cut);
        }
        hash.update(&buffer[..read]);
        left -= read as u64;
    }
    file.seek(std::io::SeekFrom::Start(start)).map_err(part.failed("read"))?;
    while let Some(piece) = inbox.blocking_recv() {
        file.write_all(&piece).map_err(part.failed("write"))?;
        hash.update(&piece);
    }
    Ok(Digest::from_hash(hash.finalize().as_slice()))
}
