//! Starting a container.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use berth_api::container::HostConfig;
use berth_logs::{Described, LogDriver};
use berth_networks::Sandbox;
use berth_runtime::spec::Built;
use berth_runtime::{Accounts, Bundle, Network, RuntimeError, SpecInput, shim};
use berth_shim_proto::{LogTarget, Mount, Request, ShimConfig, Teardown};
use berth_storage::{Access, Prepared};
use berth_types::{IdMaps, Timestamp, kind};

use super::record::Record;
use super::registry::Container;
use super::rootfs::View;
use super::state::{Change, Effect, Status};
use super::users::Namespaces;
use super::watcher::Watcher;
use super::{attach, remove, supervise};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError, TaskError};
use crate::metrics::Action;

/// How long a watcher may take to create a container.
const PATIENCE: Duration = Duration::from_mins(1);
/// Docker's exit code of a container that could not be started for any other reason than its program.
const NOT_STARTED: i32 = 128;

/// Who starts a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum By {
    /// A client.
    Hand,
    /// Its restart policy.
    Policy,
}

impl Engine {
    /// Starts a container.
    pub async fn start_container(
        &self,
        name: &str,
        detach_keys: Option<String>,
    ) -> Result<berth_api::options::Changed, EngineError> {
        super::detach::DetachKeys::parse(detach_keys.as_deref().unwrap_or_default())?;
        let container = self.registry().find(name)?;
        if container.state().status == Status::Restarting {
            // A start by hand does not wait for the policy's turn.
            container.change(Change::StopAsked);
            container.change(Change::RestartCalledOff);
        }
        self.start(&container, By::Hand).await
    }

    pub(crate) async fn start(
        &self,
        container: &Arc<Container>,
        by: By,
    ) -> Result<berth_api::options::Changed, EngineError> {
        use berth_api::options::Changed;
        let _held = container.operation.clone().lock_owned().await;
        match (container.state().status, by) {
            (Status::Running, _) => return Ok(Changed::NotModified),
            (Status::Paused, _) => return Err(ContainerError::StartPaused.into()),
            (Status::Removing | Status::Dead, _) => {
                return Err(ContainerError::StartRemoving.into());
            }
            (Status::Restarting, By::Policy) | (Status::Created | Status::Exited, By::Hand) => {}
            // Somebody was quicker.
            (Status::Restarting, By::Hand) | (Status::Created | Status::Exited, By::Policy) => {
                return Ok(Changed::NotModified);
            }
        }
        let timer = self.counted().begin(Action::Start);
        match self.run(container, by).await {
            Ok(()) => {
                timer.done();
                Ok(Changed::Yes)
            }
            Err(error) => {
                self.start_failed(container, &error).await;
                Err(error)
            }
        }
    }

    async fn run(&self, container: &Arc<Container>, by: By) -> Result<(), EngineError> {
        let engine = self.clone();
        let prepared = {
            let container = Arc::clone(container);
            blocking(move || engine.create_task(&container)).await?
        };
        let watcher = Watcher::of(self, container.id());
        let events = watcher.subscribe().await?;
        // Clients that attached beforehand must not miss the first output.
        let waiting = std::mem::take(&mut container.live().waiting);
        for client in waiting {
            let stream = attach::connect(&watcher, client.streams).await?;
            if client.sender.send(stream).is_err() {
                tracing::debug!(container = %container.id(), "an attached client left");
            }
        }
        watcher.command(&Request::Start).await?;
        {
            let mut live = container.live();
            let live = &mut *live;
            let change = Change::Started {
                pid: prepared.pid,
                at: Timestamp::now(),
                by_policy: by == By::Policy,
            };
            live.state.apply(change, live.record.policy());
            live.root = Some(prepared.root);
            live.execs.clear();
            container.scan.reset(live.size.take());
        }
        berth_fs::steps::reached("start.before-record");
        self.save_started(container).await?;
        berth_fs::steps::reached("start.after-record");
        self.publish_container(container, "start", []);
        supervise::follow(self.clone(), Arc::clone(container), watcher, events);
        Ok(())
    }

    /// Records that the container runs, and forgets its writable layer's size.
    pub(super) async fn save_started(&self, container: &Arc<Container>) -> Result<(), EngineError> {
        let engine = self.clone();
        let container = Arc::clone(container);
        blocking(move || {
            engine.db().write(|tx| {
                super::record::set_state(tx, container.id(), &container.state())?;
                engine.layers().set_rw_size(tx, container.id(), None)?;
                Ok(())
            })
        })
        .await
    }

    async fn start_failed(&self, container: &Arc<Container>, error: &EngineError) {
        supervise::abandon(self, container).await;
        let text = kind::chain(error);
        let exit_code = exit_code(error);
        let effect = container.change(Change::StartFailed { exit_code, error: text });
        container.live().waiting.clear();
        self.save_state(container).await;
        container.announce(|ends| {
            ends.count += 1;
            ends.exit_code = exit_code;
        });
        if effect == Some(Effect::Remove) {
            let (engine, container) = (self.clone(), Arc::clone(container));
            // The lock of this operation is still held; the removal takes it next.
            tokio::spawn(async move { remove::automatically(&engine, &container).await });
        }
    }

    /// Everything up to a created container that waits for the word to run.
    fn create_task(&self, container: &Container) -> Result<Task, EngineError> {
        let (record, run, extra) = {
            let live = container.live();
            (live.record.clone(), live.state.run, Arc::clone(&live.extra))
        };
        if record.driver != self.layers().driver().name() {
            return Err(ContainerError::OtherDriver { driver: record.driver }.into());
        }
        self.layers().ensure_rw(&record.id)?;
        self.ensure_dir(&record.id)?;
        let accounts = self.accounts(&record, run)?;
        let layer = self.layers().prepare_rw(&record.id, Access::Write)?;
        let namespaces = self.namespaces(&record)?;
        let sandbox = self.plug_in(&record, namespaces.as_ref())?;
        self.publish_connect(&record, &sandbox);
        let mut mounts = self.attach_volumes(&record)?;
        mounts.extend(extra.mounts.iter().cloned());
        let etc = self.write_name_files(&record, &sandbox)?;
        let network = match sandbox.namespace.clone() {
            None => Network::Host,
            Some(path) => Network::Own(path),
        };
        let init = match self.config().init_path.as_str() {
            "" => None,
            path => Some(Path::new(path)),
        };
        let init = berth_runtime::host::find_init(init);
        let built = berth_runtime::build(&SpecInput {
            id: record.id.as_str(),
            config: &record.config,
            host_config: &record.host,
            root: &layer.root,
            mounts: &mounts,
            hostname: &record.config.hostname,
            network,
            users: namespaces.as_ref().map(Namespaces::users),
            join_ipc: self.joined(&record.host.ipc_mode, "ipc")?,
            join_pid: self.joined(&record.host.pid_mode, "pid")?,
            shm: None,
            etc,
            accounts: &accounts,
            link_env: &[],
            cgroup_parent: &self.config().cgroup_parent,
            default_init: self.config().init,
            init_binary: init.as_deref(),
            default_seccomp: None,
            default_no_new_privileges: self.config().no_new_privileges,
            host: self.host(),
        })
        .map_err(task_error)?;
        for warning in &built.warnings {
            tracing::warn!(container = %record.id, "{warning}");
        }
        self.publish_mounts(&record);
        let ids = namespaces.as_ref().map(Namespaces::ids).cloned().unwrap_or_default();
        let config = shim_config(&record, &extra.trees, &layer, &built, ids)?;
        let bundle = Bundle::new(&self.config().exec_root, record.id.as_str());
        bundle.write(&built, &config, self.host())?;
        berth_fs::steps::reached("start.staged");
        let (_handle, pids) =
            shim::create(self.watcher(), &bundle, PATIENCE).map_err(task_error)?;
        berth_fs::steps::reached("start.renamed");
        Ok(Task { pid: pids.init, root: layer.root })
    }

    /// The account files of the container's root. Those of an image are read once: a container
    /// that has never run, and into which nothing was copied, has its image's.
    fn accounts(&self, record: &Record, run: u64) -> Result<Arc<Accounts>, EngineError> {
        let untouched = run == 0 && self.is_untouched(record);
        let image = record.image.clone().filter(|_| untouched);
        if let Some(image) = &image
            && let Some(known) = self.containers().accounts.get(image)
        {
            return Ok(known);
        }
        let accounts = self.with_mounted(record, View::Layers, Access::Read, |root, _path| {
            Accounts::read(root.fd()).map_err(RuntimeError::from)
        })?;
        let accounts = Arc::new(accounts);
        if let Some(image) = image {
            self.containers().accounts.insert(image, Arc::clone(&accounts));
        }
        Ok(accounts)
    }

    fn is_untouched(&self, record: &Record) -> bool {
        self.registry().by_id(&record.id).is_some_and(|container| !container.live().touched)
    }

    /// The namespace file of the container that a mode `container:NAME` names.
    pub(super) fn joined(
        &self,
        mode: &str,
        namespace: &str,
    ) -> Result<Option<std::path::PathBuf>, EngineError> {
        let Some(name) = mode.strip_prefix("container:") else { return Ok(None) };
        let other = self.registry().find(name)?;
        let state = other.state();
        if !state.is_running() {
            return Err(ContainerError::NotRunning { id: other.id().to_string() }.into());
        }
        Ok(Some(format!("/proc/{}/ns/{namespace}", state.pid).into()))
    }

    fn publish_connect(&self, record: &Record, sandbox: &Sandbox) {
        let endpoint = &sandbox.endpoint;
        let driver = self.networks().of_mode(record.network.mode).driver;
        let attributes = [
            ("container", record.id.as_str()),
            ("name", endpoint.network.as_str()),
            ("type", driver.as_str()),
        ];
        self.events().publish("network", "connect", endpoint.network_id.as_str(), attributes);
    }

    fn publish_mounts(&self, record: &Record) {
        for mount in &record.mounts {
            if mount.volume.is_empty() {
                continue;
            }
            let rw = mount.rw.to_string();
            let attributes = [
                ("container", record.id.as_str()),
                ("destination", mount.destination.as_str()),
                ("driver", mount.driver.as_str()),
                ("propagation", mount.propagation.as_str()),
                ("read/write", rw.as_str()),
            ];
            self.events().publish("volume", "mount", &mount.volume, attributes);
        }
    }
}

/// A created container.
struct Task {
    pid: i32,
    root: std::path::PathBuf,
}

/// Starts a container whose restart policy's wait is over.
pub(crate) async fn by_policy(engine: &Engine, container: &Arc<Container>) {
    if container.state().status != Status::Restarting {
        return;
    }
    if let Err(error) = engine.start(container, By::Policy).await {
        tracing::warn!(
            container = %container.id(), error = %kind::chain(&error), "restart failed"
        );
    }
}

fn shim_config(
    record: &Record,
    trees: &[Prepared],
    layer: &Prepared,
    built: &Built,
    ids: IdMaps,
) -> Result<ShimConfig, EngineError> {
    // The root is what is mounted last.
    let all = || trees.iter().chain([layer]);
    let mounts = all()
        .flat_map(|tree| &tree.mounts)
        .map(|plan| Mount {
            fs_type: plan.fs_type.clone(),
            source: plan.source.clone(),
            target: plan.target.clone(),
            work_dir: plan.work_dir.clone(),
            options: plan.options.clone(),
        })
        .collect();
    let step = |step: &berth_storage::Teardown| match step.clone() {
        berth_storage::Teardown::RemoveDir { path } => Teardown::RemoveDir { path },
        berth_storage::Teardown::RemoveFile { path } => Teardown::RemoveFile { path },
    };
    let teardown = all().flat_map(|tree| &tree.teardown).map(step).collect();
    let [height, width] = record.host.console_size;
    let small = |size: u32| u16::try_from(size).unwrap_or(0);
    Ok(ShimConfig {
        id: record.id.to_string(),
        mounts,
        teardown,
        tty: record.config.tty,
        console_size: (small(height), small(width)),
        open_stdin: record.config.open_stdin,
        stdin_once: record.config.stdin_once,
        log: log_target(record, &record.host)?,
        oom_score_adj: Some(built.oom_score_adj),
        capabilities: built.caps.bits(),
        seccomp: built.filter.as_ref().map(|filter| filter.flags),
        ids,
    })
}

fn log_target(record: &Record, host: &HostConfig) -> Result<LogTarget, EngineError> {
    let driver = LogDriver::parse(&host.log_config.driver, &host.log_config.config)?;
    let LogDriver::JsonFile(options) = driver else { return Ok(LogTarget::None) };
    let image_id = record.image.as_ref().map(ToString::to_string).unwrap_or_default();
    let attrs = options.attrs(&Described {
        id: record.id.as_str(),
        name: &record.name,
        image_name: &record.image_ref,
        image_id: &image_id,
        labels: &record.config.labels,
        env: &record.config.env,
    })?;
    Ok(LogTarget::JsonFile {
        path: record.log_path.clone(),
        max_size: options.max_size,
        max_file: options.max_file,
        compress: options.compress,
        attrs,
    })
}

/// A program that cannot be run is the container's fault, in the words that clients look for.
fn task_error(error: RuntimeError) -> EngineError {
    match error {
        RuntimeError::Failed(failure) => ContainerError::Task(TaskError {
            exit_code: failure.exit_code,
            message: failure.message,
        })
        .into(),
        other => other.into(),
    }
}

fn exit_code(error: &EngineError) -> i32 {
    match error {
        EngineError::Container(ContainerError::Task(task)) => task.exit_code,
        _ => NOT_STARTED,
    }
}
