//! One layer sent: again when that failed for reasons that pass, from where it was cut if the registry
//! knows.

use std::sync::Arc;

use berth_registry::manifest::DOCKER_LAYER;
use berth_registry::upload::{Begun, Upload};
use berth_registry::{Outgoing, RegistryError};
use berth_types::{ChainId, Digest};
use tokio::sync::{mpsc, oneshot};

use super::error::RegistryUseError;
use super::pack::{Packing, Unpacked};
use super::progress::layer;
use super::send::{Layer, registry};
use crate::error::EngineError;

/// How many pieces of a body may wait.
const AHEAD: usize = 8;

/// A layer that is sent.
#[derive(Clone, Copy)]
pub(super) struct Sending<'a> {
    pub(super) layer: &'a Layer<'a>,
    pub(super) chain: &'a ChainId,
}

/// An upload, and how many bytes the registry has of it.
#[derive(Debug, Clone)]
struct At {
    upload: Upload,
    kept: u64,
}

/// What is left of an attempt that failed.
struct Failed {
    error: EngineError,
    /// The upload, if it may go on.
    cut: Option<Upload>,
    /// What the blob is, if it was sent to its end.
    sent: Option<(Digest, u64)>,
}

impl Failed {
    fn before(error: RegistryError) -> Self {
        Self { error: registry(error), cut: None, sent: None }
    }
}

impl Sending<'_> {
    /// Sends it; what it is called.
    pub(super) async fn run(self, begun: Option<Upload>) -> Result<(Digest, u64), EngineError> {
        let limits = self.layer.target.session.limits();
        let mut at = begun.map(|upload| At { upload, kept: 0 });
        let mut attempt = 1;
        loop {
            let was_cut = at.as_ref().is_some_and(|at| at.kept > 0);
            let Failed { error, cut, sent } = match self.once(at).await {
                Ok(done) => return Ok(done),
                Err(failed) => failed,
            };
            // What was put together of two parts may be refused where the whole would not be.
            if !is_passing(&error, was_cut) || attempt >= limits.attempts {
                return Err(error);
            }
            tracing::info!(diff = %self.layer.diff, %error, "upload tried again");
            self.pause(attempt).await;
            if let Some(done) = self.is_there(sent.as_ref()).await {
                return Ok(done);
            }
            at = self.resume(cut.filter(|_| !was_cut || may_go_on(&error))).await;
            attempt += 1;
        }
    }

    async fn pause(self, attempt: u32) {
        let pause = self.layer.target.session.limits().pause * attempt;
        let seconds = pause.as_secs() + u64::from(pause.subsec_nanos() > 0);
        let plural = if seconds == 1 { "" } else { "s" };
        let status = format!("Retrying in {seconds} second{plural}");
        self.layer.tell.tell(layer(self.layer.id(), status)).await;
        tokio::time::sleep(pause).await;
    }

    /// Whether a blob whose end was sent is there: the answer alone may have been lost.
    async fn is_there(self, sent: Option<&(Digest, u64)>) -> Option<(Digest, u64)> {
        let (digest, size) = sent?;
        let there = self.layer.target.has(digest).await;
        (there.ok().flatten() == Some(*size)).then(|| (digest.clone(), *size))
    }

    /// Where an upload that was cut goes on. A registry that cannot say gets it anew.
    async fn resume(self, cut: Option<Upload>) -> Option<At> {
        let resumed = self.layer.target.resume(cut?).await;
        let (upload, kept) = match resumed {
            Ok(resumed) => resumed?,
            Err(error) => {
                tracing::debug!(%error, "an upload is begun anew");
                return None;
            }
        };
        tracing::debug!(diff = %self.layer.diff, kept, "an upload goes on");
        Some(At { upload, kept })
    }

    async fn once(self, at: Option<At>) -> Result<(Digest, u64), Failed> {
        let target = self.layer.target;
        let At { upload, kept } = match at {
            Some(at) => at,
            None => match target.begin(None).await.map_err(Failed::before)? {
                Begun::Upload(upload) => At { upload, kept: 0 },
                Begun::Mounted => return Err(Failed::before(RegistryError::NoLocation)),
            },
        };
        let cut = Some(upload.clone());
        let (sender, pieces) = mpsc::channel(AHEAD);
        let (told, packed) = oneshot::channel();
        let packing = Packing {
            images: Arc::clone(self.layer.engine.images()),
            chain: self.chain.clone(),
            skip: kept,
            pieces: sender,
            tell: self.layer.tell.clone(),
            id: self.layer.id().to_owned(),
        };
        tokio::task::spawn_blocking(move || {
            let result = packing.run();
            if told.send(result).is_err() {
                tracing::debug!("an upload was given up");
            }
        });
        let sent = target.send(upload, Outgoing::new(pieces)).await;
        // Why the layer could not be read is more than that the body was cut.
        let packed = match (packed.await, &sent) {
            (Ok(Ok(packed)), _) => packed,
            (Ok(Err(Unpacked::Failed(error))), _) => {
                return Err(Failed { error, cut: None, sent: None });
            }
            (Ok(Err(Unpacked::Unwanted)) | Err(_), sent) => {
                let error = sent.as_ref().err().cloned().unwrap_or(RegistryError::Cut);
                return Err(Failed { error: registry(error), cut, sent: None });
            }
        };
        let upload = sent.map_err(|error| Failed { error: registry(error), cut, sent: None })?;
        self.layer.before(&packed.0, packed.1, DOCKER_LAYER).await;
        let ended = target.finish(upload.clone(), &packed.0).await;
        ended.map_err(|error| Failed {
            error: registry(error),
            cut: Some(upload),
            sent: Some(packed.clone()),
        })?;
        Ok(packed)
    }
}

/// Whether another attempt may do better.
fn is_passing(error: &EngineError, was_cut: bool) -> bool {
    let EngineError::Registry(error) = error else { return false };
    match &**error {
        RegistryUseError::Registry(RegistryError::Said(_)) if was_cut => true,
        RegistryUseError::Registry(error) => error.is_passing(),
        _ => false,
    }
}

/// Whether an upload that went on once may go on again: the registry did not refuse it.
fn may_go_on(error: &EngineError) -> bool {
    is_passing(error, false)
}
