//! `berth storage check`: records against bytes, told while it goes on.

use berth_api::image::{ProgressDetail, ProgressMessage};
use berth_layers::check::{Checked, Depth, Finding, Owner, Progress};
use serde_json::json;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::{Messages, messages};

pub(super) const CHECKING: &str = "Checking layers";

impl Engine {
    /// Checks every layer of the storage driver. Messages: how many layers are done
    /// (`progressDetail`), what was found (`aux` with a `Finding`), and at the end what was looked at
    /// (`aux` with `Checked`). Nothing is changed; a client that leaves ends it.
    pub fn check_storage(&self, depth: Depth) -> Messages {
        let (sender, receiver) = messages();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut report = |progress: Progress| match progress {
                Progress::Layers { done, total } => {
                    sender.try_send(counted(CHECKING, done, total));
                    !sender.is_closed()
                }
                Progress::Found(finding) => sender.send(found(&engine, &finding)),
            };
            match engine.layers().check(depth, &mut report) {
                Ok(checked) => {
                    if sender.send(summary(&engine, checked)) {
                        engine.upkeep().set_problems(checked.findings);
                    }
                }
                Err(error) => sender.fail(&EngineError::from(error)),
            }
        });
        receiver
    }

    /// Looks in the background at what is there and how it hangs together: the quick part of a check.
    /// What is found is said in the log and in `info`.
    pub(crate) fn start_storage_check(&self) {
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let mut found = 0;
            let checked = engine.layers().check(Depth::Links, &mut |progress| {
                if let Progress::Found(finding) = progress {
                    found += 1;
                    let (kind, of) = owner(&finding.of);
                    let (layer, trouble) = (finding.layer, finding.trouble);
                    tracing::error!(%layer, of, "{kind}: {trouble}");
                }
                true
            });
            match checked {
                Ok(checked) => tracing::debug!(?checked, "storage checked"),
                Err(error) => {
                    let error = berth_types::kind::chain(&error);
                    tracing::error!(error, "the storage could not be checked");
                }
            }
            engine.upkeep().set_problems(found);
        });
    }
}

pub(super) fn counted(status: &str, done: u64, total: u64) -> ProgressMessage {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let detail = ProgressDetail { current: Some(signed(done)), total: Some(signed(total)) };
    ProgressMessage {
        status: Some(status.to_owned()),
        progress_detail: Some(detail),
        ..ProgressMessage::default()
    }
}

fn found(engine: &Engine, finding: &Finding) -> ProgressMessage {
    let (kind, owner) = owner(&finding.of);
    let aux = json!({ "Finding": {
        "Driver": engine.layers().driver().name(),
        "Layer": finding.layer.as_str(),
        "Kind": kind,
        "Of": owner,
        "Problem": finding.trouble.to_string(),
    }});
    ProgressMessage { aux: Some(aux), ..ProgressMessage::default() }
}

/// What kind of layer it is, and of what.
pub(super) fn owner(of: &Owner) -> (&'static str, String) {
    match of {
        Owner::Image(chain) => ("image layer", chain.to_string()),
        Owner::Container(id) => ("container", id.to_string()),
        Owner::Nobody => ("unknown", String::new()),
    }
}

fn summary(engine: &Engine, checked: Checked) -> ProgressMessage {
    let Checked { layers, containers, bytes, findings } = checked;
    let aux = json!({ "Checked": {
        "Driver": engine.layers().driver().name(),
        "Layers": layers, "Containers": containers, "Bytes": bytes, "Findings": findings,
    }});
    ProgressMessage { aux: Some(aux), ..ProgressMessage::default() }
}
