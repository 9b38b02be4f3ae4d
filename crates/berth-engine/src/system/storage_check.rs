//! `berth storage check`: records against bytes, told while it goes on.

use berth_api::image::{ProgressDetail, ProgressMessage};
use berth_layers::check::{Checked, Depth, Finding, Owner, Progress};
use serde_json::json;

use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::{Messages, messages};

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
                    sender.try_send(counted(done, total));
                    !sender.is_closed()
                }
                Progress::Found(finding) => sender.send(found(&engine, &finding)),
            };
            match engine.layers().check(depth, &mut report) {
                Ok(checked) => drop(sender.send(summary(&engine, checked))),
                Err(error) => sender.fail(&EngineError::from(error)),
            }
        });
        receiver
    }
}

fn counted(done: u64, total: u64) -> ProgressMessage {
    let signed = |number: u64| i64::try_from(number).unwrap_or(i64::MAX);
    let detail = ProgressDetail { current: Some(signed(done)), total: Some(signed(total)) };
    ProgressMessage {
        status: Some("Checking layers".to_owned()),
        progress_detail: Some(detail),
        ..ProgressMessage::default()
    }
}

fn found(engine: &Engine, finding: &Finding) -> ProgressMessage {
    let (kind, owner) = match &finding.of {
        Owner::Image(chain) => ("image layer", chain.to_string()),
        Owner::Container(id) => ("container", id.to_string()),
        Owner::Nobody => ("unknown", String::new()),
    };
    let aux = json!({ "Finding": {
        "Driver": engine.layers().driver().name(),
        "Layer": finding.layer.as_str(),
        "Kind": kind,
        "Of": owner,
        "Problem": finding.trouble.to_string(),
    }});
    ProgressMessage { aux: Some(aux), ..ProgressMessage::default() }
}

fn summary(engine: &Engine, checked: Checked) -> ProgressMessage {
    let Checked { layers, containers, bytes, findings } = checked;
    let aux = json!({ "Checked": {
        "Driver": engine.layers().driver().name(),
        "Layers": layers, "Containers": containers, "Bytes": bytes, "Findings": findings,
    }});
    ProgressMessage { aux: Some(aux), ..ProgressMessage::default() }
}
