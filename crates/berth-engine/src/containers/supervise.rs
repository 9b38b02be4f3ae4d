//! Following a running container until it has ended, and what its end brings about.

use std::sync::Arc;
use std::time::Duration;

use berth_shim_proto::{Event, ExitRecord};
use berth_types::{ContainerId, HexId, Timestamp, kind};
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::net::UnixStream;

use super::record::Record;
use super::registry::Container;
use super::state::{Change, Effect, State};
use super::watcher::Watcher;
use super::{record, remove, start};
use crate::blocking::blocking;
use crate::engine::Engine;

/// The exit code of a container whose watcher vanished without saying how it ended.
pub(crate) const UNKNOWN_EXIT: i32 = 255;

/// Follows the container's run on a task of its own. `events` is a subscription made before init
/// was let run, so that no event is missed.
pub(crate) fn follow(
    engine: Engine,
    container: Arc<Container>,
    watcher: Watcher,
    events: UnixStream,
) {
    tokio::spawn(async move {
        let exit = listen(&engine, &container, events).await;
        let exit = match exit {
            Some(exit) => exit,
            None => after_silence(&engine, &watcher).await,
        };
        ended(&engine, &container, &exit).await;
    });
}

/// Takes in events until the exit; `None` when the watcher falls silent before.
async fn listen(engine: &Engine, container: &Container, events: UnixStream) -> Option<ExitRecord> {
    let mut lines = BufReader::with_capacity(512, events).lines();
    loop {
        let line = match lines.next_line().await {
            Ok(Some(line)) => line,
            Ok(None) => return None,
            Err(error) => {
                tracing::warn!(container = %container.id(), %error, "watcher lost");
                return None;
            }
        };
        match serde_json::from_str(&line) {
            Ok(Event::Exited(exit)) => return Some(exit),
            Ok(Event::ExecExited { exec, exit }) => exec_ended(engine, container, &exec, &exit),
            Ok(Event::Oom) => {
                container.live().state.oom_killed = true;
                engine.publish_container(container, "oom", []);
            }
            Err(error) => {
                tracing::warn!(container = %container.id(), %error, "watcher says nonsense");
            }
        }
    }
}

fn exec_ended(engine: &Engine, container: &Container, id: &str, exit: &ExitRecord) {
    let Ok(id) = HexId::parse(id) else { return };
    let exec = container.live().execs.get(&id).cloned();
    let Some(exec) = exec else { return };
    exec.ended(exit.exit_code);
    let code = exit.exit_code.to_string();
    engine.publish_container(
        container,
        "exec_die",
        [("execID", id.as_str()), ("exitCode", code.as_str())],
    );
}

/// What is known when the watcher is gone: its last file, or nothing.
async fn after_silence(engine: &Engine, watcher: &Watcher) -> ExitRecord {
    let (shim, watcher) = (engine.config().shim.clone(), watcher.clone());
    blocking(move || {
        watcher.exit_record().unwrap_or_else(|| {
            super::leftovers::end(&shim, watcher.bundle());
            ExitRecord {
                exit_code: UNKNOWN_EXIT,
                oom_killed: false,
                at_unix_nanos: Timestamp::now().unix_nanos(),
            }
        })
    })
    .await
}

/// Takes in the end of a run: releases what it held, records it, tells everybody, and goes on as
/// the container's policy says.
pub(crate) async fn ended(engine: &Engine, container: &Arc<Container>, exit: &ExitRecord) {
    match take_in(engine, container, exit).await {
        Some(Effect::RestartAfter(wait)) => restart_later(engine, container, wait),
        Some(Effect::Remove) => remove::automatically(engine, container).await,
        None => {}
    }
}

/// As [`ended`], but leaves a restart to the caller; `--rm` is honoured.
pub(crate) async fn ended_without_policy(
    engine: &Engine,
    container: &Arc<Container>,
    exit: &ExitRecord,
) {
    if take_in(engine, container, exit).await == Some(Effect::Remove) {
        remove::automatically(engine, container).await;
    }
}

async fn take_in(engine: &Engine, container: &Arc<Container>, exit: &ExitRecord) -> Option<Effect> {
    // The network's lease and the mounts go first: who hears of the end may start it again. The end is
    // recorded while the bundle still holds it, so that a crash in between does not lose the exit code.
    let (record, mut ahead) = {
        let live = container.live();
        (live.record.clone(), live.state.clone())
    };
    ahead.apply(exited(exit, &ahead), record.policy());
    let recorded = ahead.clone();
    let closing = engine.clone();
    blocking(move || {
        give_back(&closing, &record);
        match closing.db().write(|tx| record::set_state(tx, &record.id, &recorded)) {
            Ok(()) => remove_bundle(&closing, &record.id),
            Err(error) => tracing::error!(
                container = %record.id, error = %kind::chain(&error), "state not recorded"
            ),
        }
    })
    .await;
    let (effect, ran, is_recorded) = {
        let mut live = container.live();
        let live = &mut *live;
        let effect = live.state.apply(exited(exit, &live.state), live.record.policy());
        live.waiting.clear();
        live.root = None;
        for exec in live.execs.values() {
            exec.ended(super::exec::KILLED);
        }
        let ran = live.state.finished_at.since(live.state.started_at);
        (effect, ran, live.state == ahead)
    };
    if !is_recorded {
        // Somebody asked for a stop meanwhile.
        engine.save_state(container).await;
    }
    let code = exit.exit_code.to_string();
    let seconds = ran.as_secs().to_string();
    engine.publish_container(
        container,
        "die",
        [("execDuration", seconds.as_str()), ("exitCode", code.as_str())],
    );
    container.announce(|ends| {
        ends.count += 1;
        ends.exit_code = exit.exit_code;
    });
    if effect != Some(Effect::Remove) {
        measure(engine, container);
    }
    effect
}

fn exited(exit: &ExitRecord, state: &State) -> Change {
    let oom_killed = exit.oom_killed || state.oom_killed;
    Change::Exited { exit_code: exit.exit_code, oom_killed, at: time_of(exit) }
}

/// When it ended, in the form of records.
pub(crate) fn time_of(exit: &ExitRecord) -> Timestamp {
    let seconds = exit.at_unix_nanos.div_euclid(1_000_000_000);
    let nanos = exit.at_unix_nanos.rem_euclid(1_000_000_000);
    Timestamp::from_unix(seconds, i32::try_from(nanos).unwrap_or(0)).unwrap_or_else(Timestamp::now)
}

/// Ends a container that was created and must not run, and gives back what it holds.
pub(crate) async fn abandon(engine: &Engine, container: &Arc<Container>) {
    let bundle = berth_runtime::Bundle::new(&engine.config().exec_root, container.id().as_str());
    let shim = engine.config().shim.clone();
    blocking(move || super::leftovers::end_with_watcher(&shim, &bundle)).await;
    release(engine, container).await;
}

/// Gives back what a run holds outside its watcher: volumes' mounts, the network, the bundle.
pub(crate) async fn release(engine: &Engine, container: &Arc<Container>) {
    let record = container.record();
    let engine = engine.clone();
    blocking(move || {
        give_back(&engine, &record);
        remove_bundle(&engine, &record.id);
    })
    .await;
}

fn give_back(engine: &Engine, record: &Record) {
    if let Err(error) = engine.layers().release_rw(&record.id) {
        tracing::warn!(container = %record.id, error = %kind::chain(&error), "layer not released");
    }
    engine.unplug(record);
    engine.detach_volumes(record);
}

fn remove_bundle(engine: &Engine, id: &ContainerId) {
    let bundle = Watcher::of(engine, id).bundle().to_owned();
    match std::fs::remove_dir_all(&bundle) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => tracing::warn!(bundle = %bundle.display(), %error, "bundle not removed"),
    }
}

/// Measures the writable layer, which cannot change until the next start, and records the size.
fn measure(engine: &Engine, container: &Arc<Container>) {
    let engine = engine.clone();
    let container = Arc::clone(container);
    tokio::spawn(blocking(move || {
        let id = container.id().clone();
        let layers = engine.layers();
        let measured = engine.try_with_layer(&container, |reach| layers.measure_rw(&id, reach));
        let size = match measured {
            Some(Ok(size)) => size,
            // Somebody starts or removes it; who asks for its size measures it.
            None => return,
            // Most likely removed meanwhile.
            Some(Err(error)) => {
                tracing::debug!(container = %id, error = %kind::chain(&error), "not measured");
                return;
            }
        };
        let saved = engine.db().write(|tx| {
            if container.live().state.is_running() {
                return Ok(());
            }
            engine.layers().set_rw_size(tx, &id, Some(size))
        });
        match saved {
            Ok(()) => {}
            Err(berth_layers::LayerError::UnknownContainer { .. }) => {
                tracing::trace!(container = %id, "removed while it was measured");
            }
            Err(error) => {
                tracing::warn!(container = %id, error = %kind::chain(&error), "size not recorded");
            }
        }
        container.live().size = i64::try_from(size).ok();
    }));
}

fn restart_later(engine: &Engine, container: &Arc<Container>, wait: Duration) {
    let engine = engine.clone();
    let container = Arc::clone(container);
    tokio::spawn(async move {
        tokio::time::sleep(wait).await;
        start::by_policy(&engine, &container).await;
    });
}

impl Engine {
    /// Records a container's present state; a failure is logged, for the state stands in memory
    /// and the next change records it again.
    pub(crate) async fn save_state(&self, container: &Arc<Container>) {
        let engine = self.clone();
        let container = Arc::clone(container);
        blocking(move || {
            let saved = engine.db().write(|tx| {
                let state = container.state();
                record::set_state(tx, container.id(), &state)
            });
            if let Err(error) = saved {
                tracing::error!(
                    container = %container.id(), error = %kind::chain(&error), "state not recorded"
                );
            }
        })
        .await;
    }
}
