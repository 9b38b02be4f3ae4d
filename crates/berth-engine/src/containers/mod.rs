//! Containers: one module for each thing that can be asked of them.

mod accounts;
mod archive;
mod attach;
mod builds;
mod changes;
mod commit;
mod create;
mod defaults;
mod detach;
mod exec;
mod export;
mod inspect;
mod kill;
mod leftovers;
mod list;
mod logs;
mod merge;
mod names;
mod plug;
mod prune;
pub(crate) mod record;
mod registry;
mod remove;
mod rename;
mod resize;
mod restart;
pub(crate) mod restore;
mod rootfs;
mod scan;
mod signal;
mod start;
mod state;
mod stats;
mod stop;
mod supervise;
mod top;
mod update;
mod users;
mod wait;
mod watcher;

use std::collections::BTreeMap;
use std::sync::atomic::AtomicBool;

pub use attach::{AttachStream, Attachment};
pub(crate) use builds::Extra;
pub(crate) use create::Purpose;
pub use exec::ExecStream;
pub use record::{Record, SCHEMA};
pub use registry::{Container, Ends, Live, Registry};
pub(crate) use rootfs::View;
pub use state::{Change, Effect, Policy, State, Status};

use crate::engine::Engine;

/// Everything the engine knows about containers, in memory.
#[derive(Debug, Default)]
pub(crate) struct Containers {
    /// Containers by id and name.
    pub(crate) registry: Registry,
    /// Whether removed layers' files will be deleted soon.
    pub(crate) reap_is_due: AtomicBool,
    /// Account files by image.
    pub(crate) accounts: accounts::AccountCache,
    /// Execs by id.
    pub(crate) execs: exec::Execs,
    /// How many measure what they wrote.
    pub(crate) scans: scan::Scans,
}

impl Engine {
    pub(crate) fn registry(&self) -> &Registry {
        &self.containers().registry
    }

    /// Publishes an event of a container with the attributes that all of them carry: its image,
    /// name and labels.
    pub(crate) fn publish_container<const N: usize>(
        &self,
        container: &Container,
        action: &str,
        more: [(&str, &str); N],
    ) {
        let mut attributes = BTreeMap::new();
        {
            let live = container.live();
            for (key, value) in &*live.record.config.labels {
                attributes.insert(key.clone(), value.clone());
            }
            attributes.insert("image".to_owned(), live.record.config.image.clone());
            attributes.insert("name".to_owned(), live.record.name.clone());
        }
        for (key, value) in more {
            attributes.insert(key.to_owned(), value.to_owned());
        }
        self.events().publish_map("container", action, container.id().as_str(), attributes);
    }
}
