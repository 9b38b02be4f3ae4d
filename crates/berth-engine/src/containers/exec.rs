//! One more process in a running container.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use berth_api::exec::{ExecConfig, ExecInspect, ExecProcess, ExecStart};
use berth_runtime::{Accounts, Bundle, ExecInput, process};
use berth_shim_proto::{ExecRequest, Request, Response};
use berth_types::{ContainerId, HexId};
use tokio::sync::Notify;

use super::attach::{self, AttachStream};
use super::detach::DetachKeys;
use super::registry::Container;
use super::state::Status;
use super::watcher::Watcher;
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

/// The exit code of an exec whose container ended under it.
pub(crate) const KILLED: i32 = 137;

/// One exec.
#[derive(Debug)]
pub struct Exec {
    id: HexId,
    container: ContainerId,
    config: ExecConfig,
    keys: DetachKeys,
    progress: Mutex<Progress>,
    /// Told when it has ended.
    end: Notify,
}

#[derive(Debug, Clone, Copy, Default)]
struct Progress {
    asked: bool,
    running: bool,
    pid: i32,
    exit_code: Option<i32>,
}

impl Exec {
    fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Its id.
    pub(crate) fn id(&self) -> &HexId {
        &self.id
    }

    /// Whether its process runs.
    pub(crate) fn is_running(&self) -> bool {
        self.progress().running
    }

    /// Takes in its end; only the first one counts.
    pub(crate) fn ended(&self, exit_code: i32) {
        let mut progress = self.progress();
        if progress.asked && progress.exit_code.is_none() {
            progress.exit_code = Some(exit_code);
        }
        progress.running = false;
        drop(progress);
        self.end.notify_waiters();
    }

    /// Waits until the end is known. Output and end come on two ways from the watcher, and a client
    /// asks for the exit code as soon as the output has ended.
    async fn known(&self) {
        let known = async {
            loop {
                let told = self.end.notified();
                if !self.is_running() {
                    return;
                }
                told.await;
            }
        };
        if tokio::time::timeout(PATIENCE, known).await.is_err() {
            tracing::warn!(exec = %self.id, "its output has ended, and it has not");
        }
    }
}

/// Every exec that somebody may still ask for.
#[derive(Debug, Default)]
pub(crate) struct Execs {
    by_id: Mutex<HashMap<String, Weak<Exec>>>,
}

impl Execs {
    fn find(&self, id: &str) -> Result<Arc<Exec>, ContainerError> {
        let by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        let unknown = || ContainerError::UnknownExec { id: id.to_owned() };
        if let Some(exec) = by_id.get(id).and_then(Weak::upgrade) {
            return Ok(exec);
        }
        let mut matches = by_id.iter().filter(|(known, _)| !id.is_empty() && known.starts_with(id));
        match (matches.next(), matches.next()) {
            (Some((_, only)), None) => only.upgrade().ok_or_else(unknown),
            _ => Err(unknown()),
        }
    }

    fn insert(&self, exec: &Arc<Exec>) {
        let mut by_id = self.by_id.lock().unwrap_or_else(PoisonError::into_inner);
        by_id.retain(|_, exec| exec.strong_count() > 0);
        by_id.insert(exec.id.to_string(), Arc::downgrade(exec));
    }
}

/// What starting an exec gives.
#[derive(Debug)]
pub enum ExecStream {
    /// It runs on its own.
    Detached,
    /// Its streams.
    Attached {
        /// Raw bytes, not frames, because it has a terminal.
        tty: bool,
        /// As with a container's attachment.
        stream: AttachStream,
    },
}

/// How long an exec's end may come after that of its output.
const PATIENCE: Duration = Duration::from_secs(5);
/// The execs of one container that are remembered after they ended.
const REMEMBERED: usize = 64;

impl Engine {
    /// Prepares an exec and gives its id.
    pub fn exec_create(&self, name: &str, config: ExecConfig) -> Result<String, EngineError> {
        let container = self.registry().find(name)?;
        runs(&container, name)?;
        if config.cmd.is_empty() {
            return Err(ContainerError::NoExecCommand.into());
        }
        let keys = DetachKeys::parse(&config.detach_keys)?;
        let exec = Arc::new(Exec {
            id: HexId::random(),
            container: container.id().clone(),
            config,
            keys,
            progress: Mutex::default(),
            end: Notify::new(),
        });
        {
            let mut live = container.live();
            if live.execs.len() >= REMEMBERED {
                live.execs.retain(|_, exec| exec.progress().exit_code.is_none());
            }
            live.execs.insert(exec.id.clone(), Arc::clone(&exec));
        }
        self.containers().execs.insert(&exec);
        let command = exec.config.cmd.join(" ");
        let action = format!("exec_create: {command}");
        self.publish_container(&container, &action, [("execID", exec.id.as_str())]);
        Ok(exec.id.to_string())
    }

    /// Starts a prepared exec.
    pub async fn exec_start(&self, id: &str, start: ExecStart) -> Result<ExecStream, EngineError> {
        let exec = self.containers().execs.find(id)?;
        let container = self
            .registry()
            .by_id(&exec.container)
            .ok_or_else(|| ContainerError::UnknownExec { id: id.to_owned() })?;
        {
            let mut progress = exec.progress();
            if progress.running {
                return Err(ContainerError::ExecRunning { id: exec.id.to_string() }.into());
            }
            if progress.asked {
                return Err(ContainerError::ExecHasRun { id: exec.id.to_string() }.into());
            }
            progress.asked = true;
            progress.running = true;
        }
        let action = format!("exec_start: {}", exec.config.cmd.join(" "));
        self.publish_container(&container, &action, [("execID", exec.id.as_str())]);
        let started = self.exec_run(&container, &exec, &start).await;
        if started.is_err() {
            let code = started.as_ref().err().map_or(126, exit_code);
            exec.ended(code);
        }
        let stream = started?;
        if start.detach {
            return Ok(ExecStream::Detached);
        }
        let (client, ours) = AttachStream::pair();
        let tty = exec.config.tty;
        let keys = tty.then(|| exec.keys.clone());
        let engine = self.clone();
        tokio::spawn(async move {
            if attach::carry(ours, stream, keys, exec.known()).await {
                let id = [("execID", exec.id.as_str())];
                engine.publish_container(&container, "exec_detach", id);
            }
        });
        Ok(ExecStream::Attached { tty, stream: client })
    }

    async fn exec_run(
        &self,
        container: &Arc<Container>,
        exec: &Arc<Exec>,
        start: &ExecStart,
    ) -> Result<tokio::net::UnixStream, EngineError> {
        runs(container, container.id().as_str())?;
        let request = {
            let engine = self.clone();
            let (container, exec, start) = (Arc::clone(container), Arc::clone(exec), start.clone());
            blocking(move || engine.exec_request(&container, &exec, &start)).await?
        };
        let watcher = Watcher::of(self, container.id());
        match watcher.open(&Request::Exec(request)).await? {
            (Response::ExecStarted { pid }, stream) => {
                exec.progress().pid = pid;
                Ok(stream)
            }
            (Response::Failed(failure), _) => Err(ContainerError::Exec(crate::error::TaskError {
                exit_code: failure.exit_code,
                message: failure.message,
            })
            .into()),
            (Response::Ok | Response::State(_), _) => Err(watcher.strange().into()),
        }
    }

    fn exec_request(
        &self,
        container: &Container,
        exec: &Exec,
        start: &ExecStart,
    ) -> Result<ExecRequest, EngineError> {
        let (record, root) = {
            let live = container.live();
            (live.record.clone(), live.root.clone())
        };
        let config = &exec.config;
        let bundle = Bundle::new(&self.config().exec_root, container.id().as_str());
        // Only another user needs the files that say who is who.
        let accounts = match root.filter(|_| !config.user.is_empty()) {
            Some(root) => Accounts::read_at(&root).map_err(berth_runtime::RuntimeError::from)?,
            None => Accounts::new("", ""),
        };
        let size = start.console_size.or(config.console_size).unwrap_or_default();
        let console_size = (small(size[0]), small(size[1]));
        let process = process::build(&ExecInput {
            config: &record.config,
            host_config: &record.host,
            container_process: &bundle.process()?,
            args: &config.cmd,
            user: &config.user,
            privileged: config.privileged,
            env: &config.env,
            working_dir: &config.working_dir,
            tty: config.tty,
            console_size,
            accounts: &accounts,
            ids: &self.ids_of(&record),
            host: self.host(),
        })
        .map_err(failed)?;
        let attach = if start.detach {
            [false; 3]
        } else {
            [config.attach_stdin, config.attach_stdout, config.attach_stderr]
        };
        Ok(ExecRequest {
            id: exec.id.to_string(),
            process: process.spec,
            capabilities: process.caps.bits(),
            tty: config.tty,
            console_size,
            attach,
        })
    }

    /// Sets the size of an exec's terminal.
    pub async fn exec_resize(&self, id: &str, height: u16, width: u16) -> Result<(), EngineError> {
        let exec = self.containers().execs.find(id)?;
        if !exec.progress().running {
            return Err(ContainerError::NotRunning { id: exec.id.to_string() }.into());
        }
        let request = Request::Resize { exec: Some(exec.id.to_string()), height, width };
        Ok(Watcher::of(self, &exec.container).command(&request).await?)
    }

    /// What is known of an exec.
    pub fn exec_inspect(&self, id: &str) -> Result<ExecInspect, EngineError> {
        let exec = self.containers().execs.find(id)?;
        let progress = *exec.progress();
        let config = &exec.config;
        let mut words = config.cmd.iter().cloned();
        Ok(ExecInspect {
            id: exec.id.to_string(),
            running: progress.running,
            exit_code: progress.exit_code.map(i64::from),
            process_config: ExecProcess {
                tty: config.tty,
                entrypoint: words.next().unwrap_or_default(),
                arguments: words.collect(),
                privileged: Some(config.privileged),
                user: config.user.clone(),
            },
            open_stdin: config.attach_stdin,
            open_stderr: config.attach_stderr,
            open_stdout: config.attach_stdout,
            can_remove: progress.exit_code.is_some(),
            container_id: exec.container.to_string(),
            detach_keys: String::new(),
            pid: i64::from(progress.pid),
        })
    }
}

fn runs(container: &Container, name: &str) -> Result<(), ContainerError> {
    match container.state().status {
        Status::Running => Ok(()),
        Status::Paused => Err(ContainerError::ExecPaused { name: name.to_owned() }),
        Status::Restarting => Err(ContainerError::Restarting { id: container.id().to_string() }),
        Status::Created | Status::Exited | Status::Removing | Status::Dead => {
            Err(ContainerError::NotRunning { id: container.id().to_string() })
        }
    }
}

/// What a runtime would say of the exec.
fn failed(error: berth_runtime::RuntimeError) -> EngineError {
    match error {
        berth_runtime::RuntimeError::Failed(failure) => {
            let (exit_code, message) = (failure.exit_code, failure.message);
            ContainerError::Exec(crate::error::TaskError { exit_code, message }).into()
        }
        other => other.into(),
    }
}

fn exit_code(error: &EngineError) -> i32 {
    match error {
        EngineError::Container(ContainerError::Exec(task)) => task.exit_code,
        _ => 126,
    }
}

fn small(size: u32) -> u16 {
    u16::try_from(size).unwrap_or(u16::MAX)
}
