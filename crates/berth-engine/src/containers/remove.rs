//! Removing containers.

use std::sync::Arc;

use berth_api::options::RemoveOptions;
use berth_types::kind;

use super::registry::Container;
use super::state::{Change, Status};
use super::{record, signal};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// What the directory of a container is renamed to before its record goes. The next start gives
/// it back when the record is still there, and deletes it when not.
pub(crate) const TRASH: &str = ".berth-removing-";

impl Engine {
    /// Removes a container; with `force` a running one is killed first.
    pub async fn remove_container(
        &self,
        name: &str,
        options: RemoveOptions,
    ) -> Result<(), EngineError> {
        let container = self.registry().find(name)?;
        if options.link {
            return Err(ContainerError::NotBuilt { what: "removing a link" }.into());
        }
        let status = container.state().status;
        let shown = || name.to_owned();
        match status {
            Status::Running if !options.force => {
                return Err(ContainerError::RemoveRunning { name: shown() }.into());
            }
            Status::Paused if !options.force => {
                return Err(ContainerError::RemovePaused { name: shown() }.into());
            }
            Status::Restarting if !options.force => {
                return Err(ContainerError::RemoveRestarting { name: shown() }.into());
            }
            Status::Removing => {
                return Err(ContainerError::RemovalRunning { name: shown() }.into());
            }
            Status::Running | Status::Paused | Status::Restarting => {
                let kill = signal::parse("KILL")?.to_string();
                // Its own --rm must not remove it under our hands.
                container.live().record.host.auto_remove = false;
                self.stop(&container, Some(0), Some(&kill)).await?;
            }
            Status::Created | Status::Exited | Status::Dead => {}
        }
        self.remove(&container, options.volumes).await
    }

    /// Removes a container that does not run.
    pub(crate) async fn remove(
        &self,
        container: &Arc<Container>,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let _held = container.operation.clone().lock_owned().await;
        {
            let mut live = container.live();
            let live = &mut *live;
            if live.state.status == Status::Removing {
                let name = live.record.name.clone();
                return Err(ContainerError::RemovalRunning { name }.into());
            }
            if live.state.is_running() {
                let name = live.record.name.clone();
                return Err(ContainerError::RemoveRunning { name }.into());
            }
            live.state.apply(Change::RemovalBegun, live.record.policy());
        }
        let removed = blocking({
            let engine = self.clone();
            let container = Arc::clone(container);
            move || engine.remove_records(&container)
        })
        .await;
        if let Err(error) = removed {
            let text = kind::chain(&error);
            container.change(Change::RemovalFailed { error: text });
            self.save_state(container).await;
            return Err(ContainerError::RemoveRoot {
                id: container.id().clone(),
                driver: container.record().driver,
                source: Box::new(error),
            }
            .into());
        }
        self.registry().remove(container);
        container.live().waiting.clear();
        if volumes {
            self.remove_anonymous_volumes(container).await;
        }
        self.publish_container(container, "destroy", []);
        container.announce(|ends| ends.removed = true);
        Ok(())
    }

    /// Finishes a removal that an earlier engine began.
    pub(crate) async fn remove_dead(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        self.remove(container, container.record().host.auto_remove).await
    }

    /// Forgets the container in one transaction; its bytes go afterwards, for what a crash leaves of
    /// them no record knows, and the next start removes them.
    fn remove_records(&self, container: &Container) -> Result<(), EngineError> {
        let id = container.id();
        let dir = self.container_dir(id);
        let trash = dir.with_file_name(format!("{TRASH}{id}"));
        berth_fs::steps::reached("rm.staged");
        let has_dir = match std::fs::rename(&dir, &trash) {
            Ok(()) => true,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
            Err(error) => return Err(EngineError::io("rename", &dir)(error)),
        };
        berth_fs::steps::reached("rm.renamed");
        berth_fs::steps::reached("rm.before-record");
        let recorded = self.db().write(|tx| {
            record::delete(tx, id)?;
            self.volumes().remove_refs(tx, id.as_str())?;
            Ok::<_, EngineError>(self.layers().remove_rw(tx, id)?)
        });
        let layers = match recorded {
            Ok(layers) => layers,
            Err(error) => {
                if has_dir {
                    std::fs::rename(&trash, &dir).map_err(EngineError::io("rename", &trash))?;
                }
                return Err(error);
            }
        };
        berth_fs::steps::reached("rm.after-record");
        // Acknowledged from here on: what fails below is only debris.
        if let Err(error) = self.layers().purge(&layers) {
            tracing::warn!(container = %id, error = %kind::chain(&error), "layer left behind");
        }
        if has_dir && let Err(error) = std::fs::remove_dir_all(&trash) {
            tracing::warn!(dir = %trash.display(), %error, "directory left behind");
        }
        self.reap_later();
        Ok(())
    }

    /// Deletes removed layers' files on a thread of its own.
    pub(crate) fn reap_later(&self) {
        let layers = Arc::clone(self.layers());
        tokio::task::spawn_blocking(move || {
            if let Err(error) = layers.reap() {
                tracing::warn!(error = %kind::chain(&error), "removed layers not deleted yet");
            }
        });
    }

    /// Removes the volumes that nobody named. In use elsewhere: kept without a word, as in Docker.
    async fn remove_anonymous_volumes(&self, container: &Arc<Container>) {
        let names: Vec<String> = container
            .live()
            .record
            .mounts
            .iter()
            .filter(|mount| mount.anonymous && !mount.volume.is_empty())
            .map(|mount| mount.volume.clone())
            .collect();
        for name in names {
            let volumes = Arc::clone(self.volumes());
            let removed = blocking({
                let name = name.clone();
                move || volumes.remove(&name)
            })
            .await;
            match removed {
                Ok(volume) => {
                    let driver = [("driver", volume.driver.as_str())];
                    self.events().publish("volume", "destroy", &name, driver);
                }
                Err(error) => {
                    tracing::debug!(volume = name, error = %kind::chain(&error), "volume kept");
                }
            }
        }
    }

    pub(crate) fn container_dir(&self, id: &berth_types::ContainerId) -> std::path::PathBuf {
        self.config().data_root.join("containers").join(id.as_str())
    }
}

/// Removes a container that was made with `--rm` and has ended, its anonymous volumes too.
pub(crate) async fn automatically(engine: &Engine, container: &Arc<Container>) {
    if let Err(error) = engine.remove(container, true).await {
        tracing::error!(
            container = %container.id(), error = %kind::chain(&error), "not removed after its end"
        );
    }
}
