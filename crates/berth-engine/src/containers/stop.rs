//! Stopping: a signal, some patience, then SIGKILL.

use std::sync::Arc;
use std::time::Duration;

use berth_api::options::Changed;
use berth_shim_proto::Request;
use tokio::sync::watch;

use super::registry::{Container, Ends};
use super::signal;
use super::state::{Change, Status};
use super::watcher::Watcher;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// Docker's patience where nobody says otherwise.
const PATIENCE: i64 = 10;
/// How long a container may take to end after SIGKILL before the stop is given up.
const AFTER_KILL: Duration = Duration::from_secs(10);
const SIGKILL: i32 = 9;

impl Engine {
    /// Stops a container: its stop signal (or `signal`), then SIGKILL after `timeout` seconds
    /// (negative: never).
    pub async fn stop_container(
        &self,
        name: &str,
        timeout: Option<i64>,
        signal: Option<String>,
    ) -> Result<Changed, EngineError> {
        let container = self.registry().find(name)?;
        self.stop(&container, timeout, signal.as_deref()).await
    }

    pub(crate) async fn stop(
        &self,
        container: &Arc<Container>,
        timeout: Option<i64>,
        signal: Option<&str>,
    ) -> Result<Changed, EngineError> {
        let record = container.record();
        let number = signal::parse(signal.unwrap_or_else(|| record.stop_signal()))?;
        let mut ends = container.watch_ends();
        match container.state().status {
            Status::Restarting => {
                self.call_restart_off(container).await;
                self.publish_container(container, "stop", []);
                return Ok(Changed::Yes);
            }
            Status::Running => {}
            Status::Paused => {
                let thaw = Request::Pause { freeze: false };
                Watcher::of(self, container.id()).command(&thaw).await?;
                container.change(Change::Unpaused);
            }
            _ => return Ok(Changed::NotModified),
        }
        let count = ends.borrow_and_update().count;
        container.change(Change::StopAsked);
        let patience = timeout.or(record.config.stop_timeout).unwrap_or(PATIENCE);
        self.send(container, number).await?;
        if !wait_for_end(&mut ends, count, seconds(patience)).await {
            self.send(container, SIGKILL).await?;
            if !wait_for_end(&mut ends, count, Some(AFTER_KILL)).await {
                return Err(ContainerError::WillNotEnd { id: container.id().clone() }.into());
            }
        }
        self.publish_container(container, "stop", []);
        Ok(Changed::Yes)
    }

    /// Sends a signal to init and says so in an event. A container that has just ended is fine.
    pub(crate) async fn send(
        &self,
        container: &Arc<Container>,
        signal: i32,
    ) -> Result<(), EngineError> {
        let request = Request::Signal { signal, exec: None, all: false };
        let sent = Watcher::of(self, container.id()).command(&request).await;
        if let Err(error) = sent {
            if container.state().is_running() {
                // Its watcher may be on its way out: then the end is told within moments.
                let mut ends = container.watch_ends();
                let count = ends.borrow_and_update().count;
                if !wait_for_end(&mut ends, count, Some(Duration::from_secs(1))).await
                    && container.state().is_running()
                {
                    return Err(error.into());
                }
            }
            return Ok(());
        }
        let number = signal.to_string();
        self.publish_container(container, "kill", [("signal", number.as_str())]);
        Ok(())
    }

    /// Calls off the restart that a container waits for.
    pub(crate) async fn call_restart_off(&self, container: &Arc<Container>) {
        container.change(Change::StopAsked);
        let effect = container.change(Change::RestartCalledOff);
        self.save_state(container).await;
        container.announce(|ends| ends.count += 1);
        if effect.is_some() {
            super::remove::automatically(self, container).await;
        }
    }

    /// Stops every running container at once, each with its own patience; for a shutdown.
    pub(crate) async fn stop_all_for_shutdown(&self) {
        let mut stops = tokio::task::JoinSet::new();
        let mut longest = self.reloadable().shutdown_timeout;
        for container in self.registry().all() {
            if !container.state().is_running() && container.state().status != Status::Restarting {
                continue;
            }
            let own = container.record().config.stop_timeout.unwrap_or(PATIENCE);
            longest = match (longest, seconds(own)) {
                (Some(longest), Some(own)) => Some(longest.max(own + Duration::from_secs(5))),
                _ => None,
            };
            let engine = self.clone();
            stops.spawn(async move {
                let stopped = engine.stop(&container, None, None).await;
                // Stopped by the shutdown, not by hand: `unless-stopped` starts it again.
                container.live().state.stopped_by_hand = false;
                engine.save_state(&container).await;
                if let Err(error) = stopped {
                    tracing::warn!(
                        container = %container.id(),
                        error = %berth_types::kind::chain(&error), "not stopped"
                    );
                }
            });
        }
        let all = async { while stops.join_next().await.is_some() {} };
        match longest {
            None => all.await,
            Some(longest) => {
                if tokio::time::timeout(longest, all).await.is_err() {
                    tracing::error!("Force shutdown daemon");
                }
            }
        }
    }
}

fn seconds(timeout: i64) -> Option<Duration> {
    u64::try_from(timeout).ok().map(Duration::from_secs)
}

/// Whether the container ends within `patience` (`None`: however long).
pub(crate) async fn wait_for_end(
    ends: &mut watch::Receiver<Ends>,
    count: u64,
    patience: Option<Duration>,
) -> bool {
    let ended = ends.wait_for(|ends| ends.count > count || ends.removed);
    match patience {
        None => ended.await.is_ok(),
        Some(patience) => matches!(tokio::time::timeout(patience, ended).await, Ok(Ok(_))),
    }
}
