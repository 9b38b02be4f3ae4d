//! Renaming.

use super::{names, record};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

impl Engine {
    /// Gives a container another name.
    pub async fn rename_container(&self, name: &str, new: &str) -> Result<(), EngineError> {
        let container = self.registry().find(name)?;
        // Docker's messages show it with the slash that the API puts before names.
        let slashed = format!("/{}", new.trim_start_matches('/'));
        let rename = |error| ContainerError::Rename(Box::new(error));
        let new = names::check(&slashed).map_err(rename)?.to_owned();
        let _held = container.operation.clone().lock_owned().await;
        let old = container.name();
        if old == new {
            return Err(ContainerError::RenameSame.into());
        }
        self.registry().reserve(&new, container.id()).map_err(rename)?;
        let mut record = container.record();
        record.name.clone_from(&new);
        let db = std::sync::Arc::clone(self.db());
        let saved = blocking({
            let record = record.clone();
            move || db.write(|tx| record::set_record(tx, &record))
        })
        .await;
        if let Err(error) = saved {
            self.registry().release(&new);
            return Err(error.into());
        }
        container.live().record.name = new;
        self.registry().release(&old);
        let attribute = format!("/{old}");
        self.publish_container(&container, "rename", [("oldName", attribute.as_str())]);
        Ok(())
    }
}
