//! Reaching into a container's file system, whether it runs or not.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use berth_fs::root::{Follow, Root};
use berth_layers::{LayerError, Reach};
use berth_storage::{Access, Mounted};
use berth_sys::mount::{MountRequest, mount};
use berth_types::Owner;
use rustix::fs::{Gid, Uid};

use super::record::Record;
use super::registry::Container;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// How long the end of a run may take to be noticed.
const END: Duration = Duration::from_secs(10);

/// What of a container's file system somebody wants to reach.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// With its volumes and bind mounts, as its processes see it.
    Whole,
    /// Its own layers alone.
    Layers,
}

impl Engine {
    /// Runs `work` on the container's root, and its path as this very thread sees it.
    ///
    /// A running container's root is what its init sees. One that does not run is mounted for this
    /// alone, in a mount namespace that nobody else sees, so that nothing stays behind even after a
    /// crash; until it is done the container can be neither started nor removed.
    pub(crate) async fn with_root<T, E>(
        &self,
        container: &Arc<Container>,
        view: View,
        access: Access,
        work: impl FnOnce(&Root, &Path) -> Result<T, E> + Send + 'static,
    ) -> Result<T, EngineError>
    where
        T: Send + 'static,
        E: Into<EngineError> + Send + 'static,
    {
        let held = container.operation.clone().lock_owned().await;
        let engine = self.clone();
        let (pid, root, record) = {
            let live = container.live();
            (live.state.pid, live.root.clone(), live.record.clone())
        };
        if pid != 0 {
            // It runs: nothing needs to be excluded.
            drop(held);
            return blocking(move || {
                let path = match (view, root) {
                    (View::Layers, Some(root)) => root,
                    _ => PathBuf::from(format!("/proc/{pid}/root")),
                };
                let owner = engine.ids_of(&record).root();
                let enter = || {
                    let root = Root::open(&path).map_err(EngineError::io("open", &path))?;
                    work(&root, &path).map_err(Into::into)
                };
                if owner == Owner::ROOT {
                    return enter();
                }
                // What the container mounted has no room for files of the host's root, not even for
                // the moment before they get their owner.
                berth_sys::userns::as_owner(owner.uid, owner.gid, enter)
                    .map_err(EngineError::io("enter", &path))?
            })
            .await;
        }
        let result = blocking(move || engine.with_mounted(&record, view, access, work)).await;
        if access == Access::Write {
            self.forget_size(container);
        }
        drop(held);
        result
    }

    /// Runs `work` on the container's own layer and says how that can be reached.
    ///
    /// Where layers are read by mounting them, one that does not run stays so until `work` is done:
    /// a device that somebody reads cannot be mounted to be written, nor deactivated under him.
    pub(crate) async fn with_layer<T: Send + 'static>(
        &self,
        container: &Arc<Container>,
        work: impl Fn(Reach<'_>) -> Result<T, EngineError> + Send + Sync + 'static,
    ) -> Result<T, EngineError> {
        let work = Arc::new(work);
        let mut ends = container.watch_ends();
        loop {
            let excludes = self.layers().reads_by_mounting();
            let held =
                if excludes { Some(container.operation.clone().lock_owned().await) } else { None };
            ends.mark_unchanged();
            let running = run_root(container);
            let held = held.filter(|_| running.is_none());
            let work = Arc::clone(&work);
            let result = blocking(move || work(reach(running.as_deref()))).await;
            drop(held);
            if !matches!(result, Err(EngineError::Layer(LayerError::RunEnded { .. }))) {
                return result;
            }
            // Its layer is given back before it counts as ended.
            if !matches!(tokio::time::timeout(END, ends.changed()).await, Ok(Ok(()))) {
                return result;
            }
        }
    }

    /// As [`with_layer`](Self::with_layer) for those who do not wait; `None` when somebody else
    /// has the layer.
    pub(crate) fn try_with_layer<T>(
        &self,
        container: &Container,
        work: impl FnOnce(Reach<'_>) -> T,
    ) -> Option<T> {
        if let Some(running) = run_root(container) {
            return Some(work(Reach::Running(&running)));
        }
        let _held = if self.layers().reads_by_mounting() {
            Some(container.operation.try_lock().ok()?)
        } else {
            None
        };
        // It may have been started in between.
        Some(work(reach(run_root(container).as_deref())))
    }

    pub(crate) fn with_mounted<T, E>(
        &self,
        record: &Record,
        view: View,
        access: Access,
        work: impl FnOnce(&Root, &Path) -> Result<T, E> + Send,
    ) -> Result<T, EngineError>
    where
        T: Send,
        E: Into<EngineError> + Send,
    {
        if record.driver != self.layers().driver().name() {
            return Err(ContainerError::OtherDriver { driver: record.driver.clone() }.into());
        }
        // Where volumes are mounted, missing mount points are made, as at a start.
        let access = if view == View::Whole { Access::Write } else { access };
        let binds = match view {
            View::Whole => self.bind_plan(record)?,
            View::Layers => Vec::new(),
        };
        let prepared = self.layers().prepare_rw(&record.id, access)?;
        let path = prepared.root.clone();
        let owner = self.ids().root();
        let done = berth_sys::mountns::within_private(|| {
            // Undone by hand too: a mount that a helper program serves holds its namespace.
            let mounted = Mounted::new(prepared).map_err(berth_layers::LayerError::from)?;
            let root = Root::open(mounted.root()).map_err(EngineError::io("open", &path))?;
            for bind in &binds {
                bind_below(&root, mounted.root(), bind, owner)?;
            }
            let result = work(&root, mounted.root()).map_err(Into::into);
            drop(root);
            result
        });
        self.layers().release_rw(&record.id)?;
        done.map_err(EngineError::io("mount", &path))?
    }

    /// What is bound where below the root, volumes' own mounts included.
    fn bind_plan(&self, record: &Record) -> Result<Vec<Bind>, EngineError> {
        let mut binds = Vec::new();
        for mount in &record.mounts {
            let source = match mount.kind {
                berth_volumes::mounts::MountKind::Bind => mount.source.clone(),
                berth_volumes::mounts::MountKind::Volume => {
                    self.volumes().get(&mount.volume)?.mountpoint
                }
                berth_volumes::mounts::MountKind::Tmpfs => continue,
            };
            binds.push(Bind { source, destination: mount.destination.clone(), rw: mount.rw });
        }
        // Parents before what is mounted below them.
        binds.sort_by(|a, b| a.destination.cmp(&b.destination));
        Ok(binds)
    }
}

/// Where the root of a container is while it runs.
fn run_root(container: &Container) -> Option<PathBuf> {
    let live = container.live();
    // Unknown counts as not there: nothing that runs may be taken for something at rest.
    live.state.is_running().then(|| live.root.clone().unwrap_or_default())
}

fn reach(running: Option<&Path>) -> Reach<'_> {
    running.map_or(Reach::AtRest, Reach::Running)
}

struct Bind {
    source: PathBuf,
    destination: String,
    rw: bool,
}

/// Gives the directories to the container's root that were just made on the way to `path`. In a
/// container whose ids are remapped the host's root owns no others.
fn give_new(root: &Root, path: &Path, owner: Owner) -> std::io::Result<()> {
    if owner == Owner::ROOT {
        return Ok(());
    }
    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
    for dir in path.ancestors() {
        let dir = root.open_dir(dir)?;
        let stat = rustix::fs::fstat(dir.fd())?;
        if (stat.st_uid, stat.st_gid) == (0, 0) {
            rustix::fs::fchown(dir.fd(), Some(uid), Some(gid))?;
        }
    }
    Ok(())
}

/// Binds a volume where it belongs. What was never started may lack the mount point: it is made, if
/// the source is a directory; a source that is gone is left out.
fn bind_below(root: &Root, path: &Path, bind: &Bind, owner: Owner) -> Result<(), EngineError> {
    let inside = Path::new(&bind.destination);
    let Ok(source) = bind.source.metadata() else { return Ok(()) };
    if source.is_dir() && root.stat(inside, Follow::Yes).is_err() {
        root.mkdir_all(inside, 0o755).map_err(EngineError::io("create", inside))?;
        give_new(root, inside, owner).map_err(EngineError::io("set the owner of", inside))?;
    }
    let Ok(place) = root.resolve(inside, Follow::Yes) else { return Ok(()) };
    let target = path.join(place.strip_prefix("/").unwrap_or(&place));
    if target.metadata().is_err() {
        return Ok(());
    }
    let mut options = vec!["rbind".to_owned()];
    if !bind.rw {
        options.push("ro".to_owned());
    }
    mount(&MountRequest {
        fs_type: "bind",
        source: &bind.source,
        target: &target,
        work_dir: None,
        options: &options,
    })
    .map_err(EngineError::io("bind", &target))
}
