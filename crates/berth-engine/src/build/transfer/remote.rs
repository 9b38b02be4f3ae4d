//! Sources of `ADD` that are elsewhere.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use berth_api::image::ProgressMessage;
use berth_registry::fetch::{Remote, fetch};
use berth_types::IdMaps;
use rustix::fs::{AtFlags, Timespec, Timestamps};
use tokio::sync::watch;

use super::hash::{self, Origin};
use super::source::Found;
use crate::blocking::blocking;
use crate::build::context::Context;
use crate::build::error::SourceError;
use crate::build::stages::Builder;
use crate::error::EngineError;
use crate::registry::far;

/// What a file is called while it is on its way, and for good when nobody says a name.
const UNNAMED: &str = "__unnamed__";

impl Builder {
    /// Fetches a file into a directory of its own, which goes with it.
    pub(super) async fn fetch(
        &self,
        url: &str,
        destination: &str,
    ) -> Result<Result<Found, SourceError>, EngineError> {
        let (tmp, owned) = (self.engine.tmp(), url.to_owned());
        let (dir, file) = blocking(move || {
            let dir = Context::new(&tmp)?;
            let file = dir.root().create_file(Path::new(UNNAMED), 0o600);
            Ok::<_, EngineError>((Arc::new(dir), file))
        })
        .await?;
        let file = match file {
            Ok(file) => file,
            Err(source) => return Ok(Err(SourceError::Keep { url: owned, source })),
        };
        let remote = match self.receive(url, file).await? {
            Ok(remote) => remote,
            Err(problem) => return Ok(Err(problem)),
        };
        self.output.stdout("\n").await?;
        if remote.name.is_none() && destination.ends_with('/') {
            return Ok(Err(SourceError::NoName { url: owned }));
        }
        let kept = blocking(move || keep(dir, remote));
        Ok(kept.await.map_err(|source| SourceError::Keep { url: owned, source }))
    }

    /// Tells how far it is, as often as somebody reads it.
    async fn receive(
        &self,
        url: &str,
        file: std::fs::File,
    ) -> Result<Result<Remote, SourceError>, EngineError> {
        let (progress, mut news) = watch::channel((0, 0));
        let limits = self.engine.reloadable().registry.limits;
        let report = move |got, total| {
            progress.send_replace((got, total));
        };
        let fetching = async move {
            let report = report;
            fetch(url, file, &limits, &report).await
        };
        tokio::pin!(fetching);
        loop {
            tokio::select! {
                fetched = &mut fetching => return Ok(fetched.map_err(SourceError::from)),
                Ok(()) = news.changed() => {
                    let (got, total) = *news.borrow_and_update();
                    let message = far("", "Downloading", got, total);
                    self.output.say(ProgressMessage { id: None, ..message }).await?;
                }
                () = self.output.cancelled() => {
                    return Err(crate::build::BuildError::Cancelled.into());
                }
            }
        }
    }
}

/// Gives the file its name and its time, and sums it.
fn keep(dir: Arc<Context>, remote: Remote) -> std::io::Result<Found> {
    let name = remote.name.unwrap_or_default();
    let root = dir.root().fd();
    let path = if name.is_empty() { UNNAMED } else { &*name };
    rustix::fs::renameat(root, UNNAMED, root, path)?;
    let modified = remote.modified.unwrap_or(UNIX_EPOCH);
    let time = timespec(modified);
    let times = Timestamps { last_access: time, last_modification: time };
    rustix::fs::utimensat(root, path, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    let path = PathBuf::from(path);
    // Docker does not say that it is a file.
    let sum = hash::of_path(dir.root(), &path, Origin::Image(&IdMaps::default()))?;
    let sum = sum.trim_start_matches("file:").to_owned();
    Ok(Found { path, name, sum, may_unpack: false, remote: Some(dir) })
}

fn timespec(time: SystemTime) -> Timespec {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    Timespec { tv_sec: i64::try_from(since.as_secs()).unwrap_or(i64::MAX), tv_nsec: 0 }
}
