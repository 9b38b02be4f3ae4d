//! `berth storage repair`: mends what a check finds, told while it goes on.

use berth_api::image::ProgressMessage;
use berth_layers::LayerStore;
use berth_layers::check::{Depth, Owner, Progress};
use berth_layers::repair::{Outcome, Plan, Remedy, Repair, Repaired, Step};
use berth_storage::{Selection, select};
use berth_types::{ChainId, ContainerId, Reference};
use serde_json::{Value, json};

use super::check::{CHECKING, counted, owner};
use crate::engine::Engine;
use crate::error::EngineError;
use crate::images::{Messages, messages};

/// The drivers that can be opened beside the one in use, to take from them what is damaged here.
const DIRECTORIES: &[&str] = &["overlay2", "fuse-overlayfs", "aufs", "btrfs", "overlay", "vfs"];

/// Whether a repair changes anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Changes {
    /// Yes.
    Made,
    /// It only says what it would do.
    OnlySaid,
}

impl Engine {
    /// Checks every layer of the storage driver and mends what is found. Messages: how many layers are
    /// looked at (`progressDetail`), what was done about each finding (`aux` with a `Repair`), and
    /// at the end what it came to (`aux` with `Repaired`). A client that leaves ends it before the
    /// next layer.
    pub fn repair_storage(&self, depth: Depth, changes: Changes) -> Result<Messages, EngineError> {
        let running = self.upkeep().begin()?;
        let (sender, receiver) = messages();
        let engine = self.clone();
        tokio::task::spawn_blocking(move || {
            let _running = running;
            let others = engine.other_stores();
            let plan = Plan {
                depth,
                dry_run: changes == Changes::OnlySaid,
                others: &others,
                alone: &|id, work| engine.alone_with(id, work),
            };
            let mut report = |step: Step| match step {
                Step::Check(Progress::Layers { done, total }) => {
                    sender.try_send(counted(CHECKING, done, total));
                    !sender.is_closed()
                }
                Step::Check(Progress::Found(_)) => !sender.is_closed(),
                Step::Repair(repair) => sender.send(engine.told(&repair)),
            };
            match engine.layers().repair(&plan, &mut report) {
                Ok(repaired) => {
                    if changes == Changes::Made {
                        engine.upkeep().set_problems(repaired.left);
                    }
                    sender.send(summary(&engine, repaired, changes));
                }
                Err(error) => sender.fail(&EngineError::from(error)),
            }
        });
        Ok(receiver)
    }

    /// The layers of the other drivers that left some in this data root.
    fn other_stores(&self) -> Vec<LayerStore> {
        let drivers = self.layers().other_drivers().unwrap_or_else(|error| {
            tracing::warn!(error = berth_types::kind::chain(&error), "other drivers not looked at");
            Vec::new()
        });
        let root = &self.config().data_root;
        let open = |name: &str| {
            let selection = Selection {
                root,
                name: Some(name),
                environment: None,
                options: &[],
                owner: self.ids().root(),
                mapping: Some(self.config().mapping()),
            };
            let driver = select::open(&selection).map_err(|error| berth_types::kind::chain(&error));
            driver.and_then(|driver| {
                let db = std::sync::Arc::clone(self.db());
                LayerStore::open_with(root, driver, db, self.config().layers())
                    .map_err(|error| berth_types::kind::chain(&error))
            })
        };
        let known = drivers.iter().filter(|name| DIRECTORIES.contains(&name.as_str()));
        known
            .filter_map(|name| match open(name) {
                Ok(store) => Some(store),
                Err(error) => {
                    tracing::info!(driver = name, error, "nothing can be taken from this driver");
                    None
                }
            })
            .collect()
    }

    /// Runs `work` while nothing else happens to the container, if it is there.
    fn alone_with(&self, id: &ContainerId, work: &mut dyn FnMut()) {
        if let Some(container) = self.registry().by_id(id) {
            let _alone = container.operation.blocking_lock();
            work();
        }
    }

    fn told(&self, repair: &Repair) -> ProgressMessage {
        let Repair { finding, remedy, outcome, moved } = repair;
        let (kind, of) = owner(&finding.of);
        let (outcome, error) = match outcome {
            Outcome::Done => ("done", None),
            Outcome::Planned => ("planned", None),
            Outcome::Needed => ("needed", None),
            Outcome::Failed(why) => ("failed", Some(why)),
        };
        let mut told = json!({
            "Driver": self.layers().driver().name(),
            "Layer": finding.layer.as_str(),
            "Kind": kind,
            "Of": of,
            "Problem": finding.trouble.to_string(),
            "Remedy": remedy.to_string(),
            "Outcome": outcome,
        });
        if let Some(error) = error {
            told["Error"] = json!(error);
        }
        if let Some(moved) = moved {
            told["Moved"] = json!(moved);
        }
        if let (Owner::Image(chain), Remedy::Load) = (&finding.of, remedy) {
            let (images, containers) = self.who_needs(chain);
            told["Images"] = images;
            told["Containers"] = containers;
        }
        ProgressMessage { aux: Some(json!({ "Repair": told })), ..ProgressMessage::default() }
    }

    /// The images that stand on a layer, with their names, and the containers of those.
    fn who_needs(&self, chain: &ChainId) -> (Value, Value) {
        let all = self.images().all().unwrap_or_else(|error| {
            tracing::warn!(error = berth_types::kind::chain(&error), "images not listed");
            Vec::new()
        });
        let needing: Vec<_> =
            all.into_iter().filter(|image| image.config.chains().contains(chain)).collect();
        let images = needing.iter().map(|image| {
            let names = self.images().references(&image.id).unwrap_or_default();
            let names: Vec<String> = names.iter().map(Reference::familiar).collect();
            json!({ "Id": image.id.as_str(), "Names": names })
        });
        let images: Vec<Value> = images.collect();
        let containers = self.registry().all();
        let using = containers.iter().filter(|container| {
            let used = container.live().record.image.clone();
            used.is_some_and(|used| needing.iter().any(|image| image.id == used))
        });
        let using: Vec<String> = using.map(|container| container.name()).collect();
        (json!(images), json!(using))
    }
}

fn summary(engine: &Engine, repaired: Repaired, changes: Changes) -> ProgressMessage {
    let Repaired { checked, mended, left } = repaired;
    let aux = json!({ "Repaired": {
        "Driver": engine.layers().driver().name(),
        "Layers": checked.layers,
        "Containers": checked.containers,
        "Bytes": checked.bytes,
        "Findings": checked.findings,
        "Mended": mended,
        "Left": left,
        "DryRun": changes == Changes::OnlySaid,
    }});
    ProgressMessage { aux: Some(aux), ..ProgressMessage::default() }
}
