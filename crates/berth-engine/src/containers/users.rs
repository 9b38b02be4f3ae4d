//! The user namespace of a container whose ids are remapped.

use std::path::{Path, PathBuf};

use berth_runtime::Users;
use berth_sys::userns::{Holder, Maps, UserNs};
use berth_types::IdMaps;

use super::record::Record;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// The namespaces that a container is created in; they exist while this value lives, and then as
/// long as the container.
#[derive(Debug)]
pub(crate) struct Namespaces {
    holder: Holder,
    ids: IdMaps,
}

impl Namespaces {
    /// The network namespace that belongs to the user namespace.
    pub(crate) fn network(&self) -> PathBuf {
        self.holder.namespace("net")
    }

    /// For the specification.
    pub(crate) fn users(&self) -> Users<'_> {
        Users { namespace: self.holder.namespace("user"), ids: &self.ids }
    }

    /// The maps.
    pub(crate) fn ids(&self) -> &IdMaps {
        &self.ids
    }
}

impl Engine {
    /// Whether a container has a user namespace.
    pub(crate) fn is_remapped(&self, record: &Record) -> bool {
        !self.ids().is_identity() && record.host.userns_mode != "host"
    }

    /// What ids of a container are on the host.
    pub(crate) fn ids_of(&self, record: &Record) -> IdMaps {
        if self.is_remapped(record) { self.ids().clone() } else { IdMaps::default() }
    }

    /// The user namespace of a container that starts: its own, or that of the container whose
    /// processes or IPC it shares, for those belong to it.
    pub(crate) fn namespaces(&self, record: &Record) -> Result<Option<Namespaces>, EngineError> {
        if !self.is_remapped(record) {
            return Ok(None);
        }
        let mut joined = None;
        for mode in [&record.host.pid_mode, &record.host.ipc_mode] {
            let Some(path) = self.joined(mode, "user")? else { continue };
            self.check_joined(mode)?;
            joined = Some(path);
        }
        let ids = self.ids();
        let (uids, gids) = (ids.uids.ranges(), ids.gids.ranges());
        let user = match &joined {
            Some(path) => UserNs::Join(path),
            None => UserNs::New(Maps { uids: &uids, gids: &gids }),
        };
        let holder = Holder::new(user)
            .map_err(EngineError::io("make the namespaces of", Path::new(record.id.as_str())))?;
        Ok(Some(Namespaces { holder, ids: ids.clone() }))
    }

    /// Nobody can leave the host's users and share its namespaces.
    fn check_joined(&self, mode: &str) -> Result<(), EngineError> {
        let Some(name) = mode.strip_prefix("container:") else { return Ok(()) };
        let other = self.registry().find(name)?.record();
        if self.is_remapped(&other) {
            return Ok(());
        }
        Err(ContainerError::JoinsHostUsers { name: name.to_owned() }.into())
    }
}
