//! Removing containers.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use berth_api::options::RemoveOptions;
use berth_fs::atomic;
use berth_fs::reserve::Reserve;
use berth_types::{ContainerId, kind};
use tokio::sync::OwnedMutexGuard;

use super::registry::Container;
use super::state::{Change, Status};
use super::{record, signal};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};
use crate::metrics::Action;

/// What the directory of a container is renamed to before its record goes. The next start gives
/// it back when the record is still there, and deletes it when not.
pub(crate) const TRASH: &str = ".berth-removing-";

/// How long the files of removed layers stay at least.
const REAP_AFTER: Duration = Duration::from_millis(200);

/// A container that is being removed, and that nothing else can happen to meanwhile.
#[derive(Debug)]
pub(crate) struct Claimed {
    container: Arc<Container>,
    _held: OwnedMutexGuard<()>,
}

/// Claims a container that does not run for its removal.
pub(crate) async fn claim(container: &Arc<Container>) -> Result<Claimed, EngineError> {
    let held = container.operation.clone().lock_owned().await;
    let mut live = container.live();
    let live = &mut *live;
    let name = || live.record.name.clone();
    if live.state.status == Status::Removing {
        return Err(ContainerError::RemovalRunning { name: name() }.into());
    }
    if live.state.is_running() {
        return Err(ContainerError::RemoveRunning { name: name() }.into());
    }
    live.state.apply(Change::RemovalBegun, live.record.policy());
    Ok(Claimed { container: Arc::clone(container), _held: held })
}

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
        let timer = self.counted().begin(Action::Delete);
        let claimed = claim(container).await?;
        self.remove_claimed(vec![claimed], volumes).await?;
        timer.done();
        Ok(())
    }

    /// Removes claimed containers, all of them in one transaction, and with `volumes` the volumes
    /// that nobody named. They are gone before anybody hears that the container is.
    pub(crate) async fn remove_claimed(
        &self,
        claimed: Vec<Claimed>,
        volumes: bool,
    ) -> Result<(), EngineError> {
        let engine = self.clone();
        let (claimed, removed) = blocking(move || {
            let removed = engine.remove_records(&claimed);
            (claimed, removed)
        })
        .await;
        if let Err(error) = removed {
            let text = kind::chain(&error);
            for Claimed { container, .. } in &claimed {
                container.change(Change::RemovalFailed { error: text.clone() });
                self.save_state(container).await;
            }
            let Some(Claimed { container, .. }) = claimed.first() else { return Err(error) };
            return Err(ContainerError::RemoveRoot {
                id: container.id().clone(),
                driver: container.record().driver,
                source: Box::new(error),
            }
            .into());
        }
        self.reap_later();
        for Claimed { container, .. } in &claimed {
            if volumes {
                self.remove_anonymous_volumes(container).await;
            }
            self.registry().remove(container);
            container.live().waiting.clear();
            self.publish_container(container, "destroy", []);
            container.announce(|ends| ends.removed = true);
        }
        Ok(())
    }

    /// Finishes a removal that an earlier engine began.
    pub(crate) async fn remove_dead(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        self.remove(container, container.record().host.auto_remove).await
    }

    /// Forgets containers in one transaction; their bytes go afterwards, for what a crash leaves of
    /// them no record knows, and the next start removes them.
    fn remove_records(&self, claimed: &[Claimed]) -> Result<(), EngineError> {
        let ids: Vec<&ContainerId> = claimed.iter().map(|claimed| claimed.container.id()).collect();
        berth_fs::steps::reached("rm.staged");
        let mut moved = Vec::with_capacity(ids.len());
        let recorded = self.move_away(&ids, &mut moved).and_then(|()| {
            berth_fs::steps::reached("rm.renamed");
            berth_fs::steps::reached("rm.before-record");
            self.db().write(|tx| {
                let mut layers = Vec::with_capacity(ids.len());
                for id in &ids {
                    record::delete(tx, id)?;
                    self.volumes().remove_refs(tx, id.as_str())?;
                    layers.extend(self.layers().remove_rw(tx, id)?);
                }
                Ok::<_, EngineError>(layers)
            })
        });
        let layers = match recorded {
            Ok(layers) => layers,
            Err(error) => {
                for (dir, trash) in &moved {
                    std::fs::rename(trash, dir).map_err(EngineError::io("rename", trash))?;
                }
                return Err(error);
            }
        };
        berth_fs::steps::reached("rm.after-record");
        // Acknowledged from here on: what fails below is only debris.
        if let Err(error) = self.layers().purge(&layers) {
            tracing::warn!(error = %kind::chain(&error), "layers left behind");
        }
        for (_, trash) in &moved {
            if let Err(error) = std::fs::remove_dir_all(trash) {
                tracing::warn!(dir = %trash.display(), %error, "directory left behind");
            }
        }
        if let Some(dir) = moved.first().and_then(|(dir, _)| dir.parent()) {
            Reserve::at(dir).renew();
        }
        Ok(())
    }

    /// Gives the containers' directories their trash names; `moved` says which had one.
    fn move_away(
        &self,
        ids: &[&ContainerId],
        moved: &mut Vec<(PathBuf, PathBuf)>,
    ) -> Result<(), EngineError> {
        for id in ids {
            let dir = self.container_dir(id);
            let trash = dir.with_file_name(format!("{TRASH}{id}"));
            let reserve = Reserve::at(dir.parent().unwrap_or(&dir));
            match reserve.spend(|| std::fs::rename(&dir, &trash)) {
                Ok(()) => moved.push((dir, trash)),
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(EngineError::io("rename", &dir)(error)),
            }
        }
        // Before the record goes: a power cut must not leave a directory that no record knows.
        match moved.first().and_then(|(dir, _)| dir.parent()) {
            Some(dir) => atomic::sync_dir(dir).map_err(EngineError::io("sync", dir)),
            None => Ok(()),
        }
    }

    /// Deletes removed layers' files on a thread of its own, after a moment, so that many removals
    /// are one deletion.
    pub(crate) fn reap_later(&self) {
        if self.containers().reap_is_due.swap(true, Ordering::AcqRel) {
            return;
        }
        let engine = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep(REAP_AFTER).await;
            engine.containers().reap_is_due.store(false, Ordering::Release);
            let layers = Arc::clone(engine.layers());
            if let Err(error) = blocking(move || layers.reap()).await {
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

    pub(crate) fn container_dir(&self, id: &ContainerId) -> PathBuf {
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
