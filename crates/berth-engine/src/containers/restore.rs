//! The start of the engine: records, bytes and what runs are brought into agreement.
//!
//! Safe to run twice. A container whose watcher lives is taken over as it is; one that ended
//! meanwhile gets its exit code from its watcher's last file; of one whose watcher vanished nothing but
//! its record is left. Watchers of containers that no record knows never got the word to run (the record
//! comes first), and are ended.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;

use berth_runtime::Bundle;
use berth_runtime::shim::{Found, bundles};
use berth_shim_proto::{ExitRecord, Request};
use berth_types::{ContainerId, Timestamp, kind};

use super::registry::Container;
use super::remove::{self, TRASH};
use super::state::{Change, Status};
use super::watcher::Watcher;
use super::{leftovers, record, start, supervise};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// A container and what was found of it.
struct Survey {
    container: Arc<Container>,
    found: Option<Found>,
}

/// Brings everything into agreement and takes over what runs.
pub(crate) async fn run(engine: &Engine) -> Result<(), EngineError> {
    let surveys = blocking({
        let engine = engine.clone();
        move || survey(&engine)
    })
    .await?;
    let mut takeovers = tokio::task::JoinSet::new();
    for survey in surveys {
        let engine = engine.clone();
        takeovers.spawn(async move { take_over(&engine, survey).await });
    }
    while let Some(done) = takeovers.join_next().await {
        if let Err(error) = done {
            tracing::error!(%error, "a container was not taken over");
        }
    }
    // What earlier engines removed and did not get to delete.
    engine.reap_later();
    Ok(())
}

fn survey(engine: &Engine) -> Result<Vec<Survey>, EngineError> {
    let driver = engine.layers().driver().name();
    let (records, hidden) = engine.db().read(|conn| {
        Ok::<_, EngineError>((record::all(conn, driver)?, record::elsewhere(conn, driver)?))
    })?;
    let own = records.iter().map(|(record, _)| &record.id);
    let known: HashSet<ContainerId> = own.chain(&hidden).cloned().collect();
    settle_directories(&engine.config().data_root, &known)?;
    let exec_root = &engine.config().exec_root;
    for bundle in bundles(exec_root)? {
        let is_known = ContainerId::parse(bundle.id()).is_ok_and(|id| known.contains(&id));
        if !is_known {
            end_stray(&engine.config().shim, &bundle);
        }
    }
    // Containers of a self-test that the last engine did not live to finish.
    for bundle in bundles(&berth_runtime::selftest::scratch(exec_root))? {
        end_stray(&engine.config().shim, &bundle);
    }
    let mut surveys = Vec::with_capacity(records.len());
    for (mut record, state) in records {
        record.move_to(&engine.config().data_root);
        let bundle = Bundle::new(exec_root, record.id.as_str());
        let found =
            if bundle.dir().try_exists().unwrap_or(false) { Some(bundle.find()?) } else { None };
        if found == Some(Found::Lost) {
            // Before the stores unmount anything: a watcher that still creates its container must not do so
            // in a directory where nothing is mounted any more.
            leftovers::end(&engine.config().shim, bundle.dir());
        }
        engine.ensure_dir(&record.id)?;
        let container = engine.registry().insert(Container::new(record, state));
        surveys.push(Survey { container, found });
    }
    let alive: Vec<&Survey> =
        surveys.iter().filter(|survey| matches!(survey.found, Some(Found::Alive(_)))).collect();
    let mut running: Vec<ContainerId> =
        alive.iter().map(|survey| survey.container.id().clone()).collect();
    // Not seen while another storage driver is chosen; what runs of them goes on.
    for id in hidden {
        let bundle = Bundle::new(exec_root, id.as_str());
        if bundle.dir().try_exists().unwrap_or(false) && matches!(bundle.find()?, Found::Alive(_)) {
            running.push(id);
        }
    }
    recover_stores(engine, &running)?;
    Ok(surveys)
}

/// Lets each store mend itself; what runs is left alone.
fn recover_stores(engine: &Engine, ids: &[ContainerId]) -> Result<(), EngineError> {
    let keep: HashSet<ContainerId> = ids.iter().cloned().collect();
    let report = engine.layers().recover(&|container| keep.contains(container))?;
    for path in &report.set_aside {
        tracing::warn!(path = %path.display(), "a layer that no record knows was moved here");
    }
    for chain in &report.missing {
        tracing::error!(%chain, "layer does not exist, not restoring images that need it");
    }
    for container in &report.lost {
        tracing::error!(%container, "the container's layer is missing");
    }
    tracing::debug!(?report, "layers checked");
    engine.images().recover()?;
    engine.reap_later();
    let names: Vec<String> = ids.iter().map(ToString::to_string).collect();
    let volumes = engine.volumes().recover(&names)?;
    tracing::debug!(?volumes, "volumes checked");
    let networks = engine.networks().recover(ids)?;
    tracing::debug!(?networks, "networks checked");
    match engine.networks().start() {
        Ok(warnings) => {
            for warning in warnings {
                tracing::warn!("{warning}");
            }
        }
        // The first container on the bridge tries again, and says what is wrong.
        Err(error) => tracing::warn!(error = %kind::chain(&error), "no bridge yet"),
    }
    Ok(())
}

/// Directories of containers: finishes or undoes removals that were interrupted, and sets aside those
/// that no record knows.
fn settle_directories(root: &Path, known: &HashSet<ContainerId>) -> Result<(), EngineError> {
    let dir = &root.join("containers");
    let entries = std::fs::read_dir(dir).map_err(EngineError::io("read", dir))?;
    for entry in entries {
        let entry = entry.map_err(EngineError::io("read", dir))?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let path = entry.path();
        let Some(id) = name.strip_prefix(TRASH) else {
            if ContainerId::parse(name).is_ok_and(|id| !known.contains(&id)) {
                set_aside(&path, &root.join("lost+found"), name)?;
            }
            continue;
        };
        let Ok(id) = ContainerId::parse(id) else { continue };
        if known.contains(&id) {
            std::fs::rename(&path, dir.join(id.as_str()))
                .map_err(EngineError::io("rename", &path))?;
        } else {
            std::fs::remove_dir_all(&path).map_err(EngineError::io("remove", &path))?;
        }
    }
    Ok(())
}

/// Moves a container's directory to `lost+found/`: a record is made before its directory, so this one is
/// of another database.
fn set_aside(path: &Path, lost_and_found: &Path, id: &str) -> Result<(), EngineError> {
    let now = Timestamp::now().unix_nanos();
    let to = lost_and_found.join(format!("containers-{id}-{now}"));
    std::fs::rename(path, &to).map_err(EngineError::io("rename", path))?;
    tracing::warn!(path = %to.display(), "the directory of an unknown container was moved here");
    Ok(())
}

/// Ends a watcher whose container no record knows, and removes its bundle.
fn end_stray(shim: &Path, bundle: &Bundle) {
    tracing::warn!(container = bundle.id(), "ending a container that no record knows");
    leftovers::end_with_watcher(shim, bundle);
    if let Err(error) = std::fs::remove_dir_all(bundle.dir()) {
        tracing::warn!(bundle = %bundle.dir().display(), %error, "bundle not removed");
    }
}

async fn take_over(engine: &Engine, survey: Survey) {
    let Survey { container, found } = survey;
    match found {
        Some(Found::Alive(_)) => {
            if let Err(error) = adopt(engine, &container).await {
                tracing::error!(
                    container = %container.id(), error = %kind::chain(&error), "not taken over"
                );
            }
        }
        Some(Found::Ended(exit)) if runs_on_record(&container) => {
            supervise::ended(engine, &container, &exit).await;
        }
        Some(Found::Ended(exit)) if supervise::time_of(&exit) == container.state().finished_at => {
            // Its end was recorded before its bundle was removed.
            supervise::release(engine, &container).await;
        }
        Some(Found::Ended(exit)) => {
            // It ran and ended between the word to run and the record of its start.
            record_start(engine, &container, 0).await;
            supervise::ended(engine, &container, &exit).await;
        }
        Some(Found::Lost) | None => lost(engine, &container).await,
    }
    if container.state().status == Status::Created
        && let Err(error) = engine.fill_volumes(&container).await
    {
        // Its creation may have been cut short before this.
        tracing::warn!(
            container = %container.id(), error = %kind::chain(&error), "volumes not filled"
        );
    }
    let is_left_over = {
        let live = container.live();
        live.state.status == Status::Exited && live.record.host.auto_remove
    };
    if is_left_over {
        remove::automatically(engine, &container).await;
    } else {
        after_boot(engine, &container);
    }
}

fn runs_on_record(container: &Container) -> bool {
    container.state().is_running()
}

/// Follows a container that went on without an engine.
async fn adopt(engine: &Engine, container: &Arc<Container>) -> Result<(), EngineError> {
    let watcher = Watcher::of(engine, container.id());
    let events = watcher.subscribe().await?;
    let state = watcher.state().await?;
    if !state.started {
        // The start was never acknowledged: as if it had not been asked for.
        supervise::abandon(engine, container).await;
        return Ok(());
    }
    let root = leftovers::root_path(watcher.bundle());
    if !runs_on_record(container) {
        record_start(engine, container, state.pid).await;
    }
    let mut is_paused = state.paused;
    if is_paused && container.state().status == Status::Running {
        // Frozen by an operation that nobody finishes, or by a pause that was not acknowledged.
        watcher.command(&Request::Pause { freeze: false }).await?;
        is_paused = false;
    }
    {
        let mut live = container.live();
        live.state.pid = state.pid;
        live.state.status = if is_paused { Status::Paused } else { Status::Running };
        live.root = root;
        live.touched = true;
    }
    supervise::follow(engine.clone(), Arc::clone(container), watcher, events);
    Ok(())
}

/// Records a start that was carried out and not recorded.
async fn record_start(engine: &Engine, container: &Arc<Container>, pid: i32) {
    container.change(Change::Started { pid, at: Timestamp::now(), by_policy: false });
    if let Err(error) = engine.save_started(container).await {
        tracing::error!(
            container = %container.id(), error = %kind::chain(&error), "state not recorded"
        );
    }
}

/// What the record says runs, does not: the machine was restarted, or the watcher was killed.
async fn lost(engine: &Engine, container: &Arc<Container>) {
    if runs_on_record(container) {
        let exit = ExitRecord {
            exit_code: supervise::UNKNOWN_EXIT,
            oom_killed: false,
            at_unix_nanos: Timestamp::now().unix_nanos(),
        };
        // The restart policy's own rules for a start of the engine follow.
        supervise::ended_without_policy(engine, container, &exit).await;
    } else {
        supervise::release(engine, container).await;
    }
    let status = container.state().status;
    if status == Status::Removing {
        container.change(Change::RemovalFailed { error: String::new() });
        if let Err(error) = engine.remove_dead(container).await {
            tracing::warn!(
                container = %container.id(), error = %kind::chain(&error), "removal not finished"
            );
        }
    }
}

/// Starts what its policy wants started with the engine.
fn after_boot(engine: &Engine, container: &Arc<Container>) {
    let wants = {
        let live = container.live();
        !live.state.is_running() && live.state.wants_start_at_boot(&live.record.host.restart_policy)
    };
    if !wants {
        let mut live = container.live();
        if live.state.status == Status::Restarting {
            live.state.status = Status::Exited;
        }
        return;
    }
    container.live().state.status = Status::Restarting;
    let (engine, container) = (engine.clone(), Arc::clone(container));
    tokio::spawn(async move { start::by_policy(&engine, &container).await });
}
