//! Why a use case failed.

use std::io;
use std::path::{Path, PathBuf};

use berth_types::{Classify, ContainerId, ErrorKind, ImageId};

/// Why a use case failed: what a part below said, or what the engine itself found.
#[expect(missing_docs, reason = "each variant names the part")]
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    #[error(transparent)]
    Container(#[from] ContainerError),
    #[error(transparent)]
    Image(#[from] berth_images::ImageError),
    #[error(transparent)]
    Layer(#[from] berth_layers::LayerError),
    #[error(transparent)]
    Volume(#[from] berth_volumes::VolumeError),
    #[error(transparent)]
    Mount(#[from] berth_volumes::mounts::MountError),
    #[error(transparent)]
    Network(#[from] berth_networks::NetworkError),
    #[error(transparent)]
    Runtime(#[from] berth_runtime::RuntimeError),
    #[error(transparent)]
    Log(#[from] berth_logs::LogError),
    #[error(transparent)]
    Db(#[from] berth_db::DbError),
    #[error(transparent)]
    DataRoot(#[from] crate::data_root::DataRootError),
    #[error(transparent)]
    Driver(#[from] berth_storage::SelectError),
    #[error(transparent)]
    Build(#[from] crate::build::BuildError),
    #[error(transparent)]
    Filter(#[from] berth_api::filters::FilterError),
    #[error(transparent)]
    Registry(Box<crate::registry::RegistryUseError>),
    #[error("cannot {action} {}", .path.display())]
    Io { action: &'static str, path: PathBuf, source: io::Error },
    #[error(
        "selinux-enabled is not supported by this version of berth where the host's SELinux is on"
    )]
    Selinux,
    #[error("invalid CIDR address: {text}")]
    Bip { text: String },
    #[error("`since` time ({since}) cannot be after `until` time ({until})")]
    EventSpan { since: i64, until: i64 },
    #[error("a prune operation is already running")]
    PruneRunning,
    #[error("a repair or a backup of the storage is already running")]
    UpkeepRunning,
    #[error("the directory of a backup must be given with its full path, and {path} is none")]
    BackupRelative { path: String },
    #[error("{0} is not empty: a backup goes to a new or an empty directory", .path.display())]
    BackupNotEmpty { path: PathBuf },
    #[error("{0} is in the data root: a backup must be elsewhere", .path.display())]
    BackupInside { path: PathBuf },
    #[error("{0} is left of a backup that did not finish: delete it, and begin again", .path.display())]
    BackupLeft { path: PathBuf },
    #[error("{0} is not a complete backup of berth's: there is no backup.json in it", .path.display())]
    NotBackup { path: PathBuf },
    #[error("the backup in {0} has format {found}, which this version of berth does not know", .path.display())]
    BackupTooNew { path: PathBuf, found: u32 },
    #[error("backup.json of {0} cannot be understood", .path.display())]
    BackupNote { path: PathBuf, source: serde_json::Error },
    #[error("{0} is not empty: a backup is restored into a new or an empty directory", .path.display())]
    RestoreNotEmpty { path: PathBuf },
    #[error("the backup was ended by its client")]
    BackupEnded,
    #[error("cannot copy {}", .path.display())]
    Copy { path: PathBuf, source: berth_fs::copy::CopyError },
    #[error(transparent)]
    Storage(#[from] berth_storage::StorageError),
    #[error("layers of the storage driver {driver} are on no thin pool")]
    NoPool { driver: String },
    #[error("a thin pool is extended by a device, or by sizes of its files")]
    ExtendByWhat,
    #[error("a device is mounted on a directory that is there and given with its full path: {} is none", .path.display())]
    MountTarget { path: PathBuf },
    #[error("invalid size of a thin pool: {text}")]
    PoolSize { text: String },
    #[error("unknown object type: {kind}")]
    UnknownType { kind: String },
}

impl EngineError {
    /// Names what was being done to `path` when the system refused.
    pub(crate) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        let path = path.to_owned();
        move |source| Self::Io { action, path, source }
    }
}

impl From<crate::registry::RegistryUseError> for EngineError {
    fn from(error: crate::registry::RegistryUseError) -> Self {
        Self::Registry(Box::new(error))
    }
}

impl Classify for EngineError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Container(error) => error.kind(),
            Self::Image(error) => error.kind(),
            Self::Layer(error) => error.kind(),
            Self::Volume(error) => error.kind(),
            Self::Mount(error) => error.kind(),
            Self::Network(error) => error.kind(),
            Self::Runtime(error) => error.kind(),
            Self::Log(error) => error.kind(),
            Self::Db(error) => error.kind(),
            Self::Build(error) => error.kind(),
            Self::Filter(error) => error.kind(),
            Self::Driver(error) => error.kind(),
            Self::Registry(error) => error.kind(),
            Self::PruneRunning | Self::UpkeepRunning | Self::BackupLeft { .. } => {
                ErrorKind::Conflict
            }
            Self::Selinux => ErrorKind::NotImplemented,
            Self::Storage(error) => error.kind(),
            Self::BackupRelative { .. }
            | Self::BackupNotEmpty { .. }
            | Self::BackupInside { .. }
            | Self::NotBackup { .. }
            | Self::BackupTooNew { .. }
            | Self::NoPool { .. }
            | Self::ExtendByWhat
            | Self::PoolSize { .. }
            | Self::MountTarget { .. }
            | Self::RestoreNotEmpty { .. } => ErrorKind::InvalidParameter,
            Self::UnknownType { .. } | Self::Bip { .. } | Self::EventSpan { .. } => {
                ErrorKind::InvalidParameter
            }
            Self::DataRoot(_)
            | Self::Io { .. }
            | Self::BackupNote { .. }
            | Self::BackupEnded
            | Self::Copy { .. } => ErrorKind::Internal,
        }
    }
}

/// What is wrong with a container or an exec, in Docker's words where Docker has them.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ContainerError {
    #[error("No such container: {name}")]
    Unknown { name: String },
    #[error("multiple IDs found with provided prefix: {prefix}")]
    Ambiguous { prefix: String },
    #[error("Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed")]
    Name { name: String },
    #[error(
        "Conflict. The container name \"/{name}\" is already in use by container \"{holder}\". You \
         have to remove (or rename) that container to be able to reuse that name."
    )]
    NameInUse { name: String, holder: ContainerId },
    #[error("Error when allocating new name")]
    Rename(#[source] Box<Self>),
    #[error("Renaming a container with the same name as its current name")]
    RenameSame,
    #[error("config cannot be empty in order to create a container")]
    NoConfig,
    #[error(transparent)]
    BadRequest(Box<EngineError>),
    #[error("no command specified")]
    NoCommand,
    #[error(
        "cannot join the namespaces of container {name}, which has the host's users, when user \
         namespaces are enabled"
    )]
    JoinsHostUsers { name: String },
    #[error("container {id} is not running")]
    NotRunning { id: String },
    #[error("cannot kill container: {name}: container {id} is not running")]
    KillNotRunning { name: String, id: ContainerId },
    #[error("Container {id} is paused. Unpause the container before stopping or killing")]
    KillPaused { id: ContainerId },
    #[error("container {id} is paused, unpause the container before attach")]
    AttachPaused { id: ContainerId },
    #[error("container {id} is restarting, wait until the container is running")]
    Restarting { id: String },
    #[error("cannot start a paused container, try unpause instead")]
    StartPaused,
    #[error("container is marked for removal and cannot be started")]
    StartRemoving,
    #[error("Container {name} is already paused")]
    AlreadyPaused { name: String },
    #[error("Container {name} is not paused")]
    NotPaused { name: String },
    #[error("container {name} is paused, unpause the container before exec")]
    ExecPaused { name: String },
    #[error(
        "cannot remove container \"{name}\": container is running: stop the container before \
         removing or force remove"
    )]
    RemoveRunning { name: String },
    #[error("cannot remove container \"{name}\": container is paused and must be unpaused first")]
    RemovePaused { name: String },
    #[error(
        "cannot remove container \"{name}\": container is restarting: stop the container before \
         removing or force remove"
    )]
    RemoveRestarting { name: String },
    #[error("removal of container {name} is already in progress")]
    RemovalRunning { name: String },
    #[error("container {id}: driver \"{driver}\" failed to remove root filesystem")]
    RemoveRoot { id: ContainerId, driver: String, source: Box<EngineError> },
    #[error("{what} is not supported by this version of berth")]
    NotBuilt { what: &'static str },
    #[error("Invalid signal: {signal}")]
    Signal { signal: String },
    #[error("Invalid detach keys ({keys}) provided")]
    DetachKeys { keys: String },
    #[error("Bad parameters: you must choose at least one stream")]
    NoStream,
    #[error("configured logging driver does not support reading")]
    LogsUnreadable,
    #[error("No such exec instance: {id}")]
    UnknownExec { id: String },
    #[error("No exec command specified")]
    NoExecCommand,
    #[error("exec command {id} is already running")]
    ExecRunning { id: String },
    #[error("exec command {id} has already run")]
    ExecHasRun { id: String },
    #[error("Could not find the file {path} in container {name}")]
    NoFile { path: String, name: String },
    #[error("extraction point is not a directory")]
    NotADirectory,
    #[error("container rootfs is marked read-only")]
    ReadOnlyRoot,
    #[error("mounted volume is marked read-only")]
    ReadOnlyVolume,
    #[error("cannot overwrite {old} \"{path}\" with {new}")]
    Overwrite { path: String, old: &'static str, new: &'static str },
    #[error("You cannot commit container {id} which is {state}")]
    CommitDead { id: ContainerId, state: &'static str },
    #[error("container {id} did not end even after SIGKILL")]
    WillNotEnd { id: ContainerId },
    #[error("failed to create task for container")]
    Task(#[source] TaskError),
    #[error("OCI runtime exec failed: exec failed: unable to start container process: {}: unknown", .0.message)]
    Exec(TaskError),
    #[error("the watcher of container {id} does not answer")]
    Watcher { id: ContainerId, source: io::Error },
    #[error(
        "image with reference {image} was found but does not provide the specified platform \
         ({asked}): it is for {own}"
    )]
    Platform { asked: String, own: String, image: ImageId },
    #[error("the image {image} that the container was made from is gone")]
    ImageGone { image: ImageId },
    #[error("invalid restart policy: {text}")]
    RestartPolicy { text: String },
    #[error("can't create 'AutoRemove' container with restart policy")]
    AutoRemoveRestart,
    #[error("{reason}")]
    PsArgs { reason: &'static str },
    #[error("ps: {text}")]
    Ps { text: String },
    #[error("the container cannot be started because it was made with the storage driver {driver}")]
    OtherDriver { driver: String },
    #[error("cannot read the archive")]
    Archive(#[source] Box<dyn std::error::Error + Send + Sync>),
}

/// Why init could not be started. Reads like the chain that containerd and runc build, because
/// clients look for words in it.
#[derive(Debug, thiserror::Error)]
#[error(
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start \
     container process: {message}: unknown"
)]
pub struct TaskError {
    /// Docker's exit code for it: 126, 127 or 128.
    pub exit_code: i32,
    /// What runc would say.
    pub message: String,
}

impl Classify for ContainerError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unknown { .. }
            | Self::UnknownExec { .. }
            | Self::NoFile { .. }
            | Self::Platform { .. } => ErrorKind::NotFound,
            Self::Ambiguous { .. }
            | Self::Name { .. }
            | Self::RenameSame
            | Self::NoConfig
            | Self::NoCommand
            | Self::JoinsHostUsers { .. }
            | Self::BadRequest(_)
            | Self::Signal { .. }
            | Self::DetachKeys { .. }
            | Self::NoStream
            | Self::NoExecCommand
            | Self::NotADirectory
            | Self::ReadOnlyRoot
            | Self::ReadOnlyVolume
            | Self::Overwrite { .. }
            | Self::RestartPolicy { .. }
            | Self::AutoRemoveRestart
            | Self::PsArgs { .. }
            | Self::Ps { .. }
            | Self::NotBuilt { .. }
            | Self::Archive(_) => ErrorKind::InvalidParameter,
            Self::NameInUse { .. }
            | Self::NotRunning { .. }
            | Self::KillNotRunning { .. }
            | Self::KillPaused { .. }
            | Self::AttachPaused { .. }
            | Self::Restarting { .. }
            | Self::StartPaused
            | Self::StartRemoving
            | Self::AlreadyPaused { .. }
            | Self::ExecPaused { .. }
            | Self::RemoveRunning { .. }
            | Self::RemovePaused { .. }
            | Self::RemoveRestarting { .. }
            | Self::RemovalRunning { .. }
            | Self::ExecRunning { .. }
            | Self::ExecHasRun { .. }
            | Self::OtherDriver { .. }
            | Self::ImageGone { .. }
            | Self::CommitDead { .. } => ErrorKind::Conflict,
            Self::Rename(cause) => cause.kind(),
            Self::Task(task) | Self::Exec(task) if matches!(task.exit_code, 126 | 127) => {
                ErrorKind::InvalidParameter
            }
            Self::LogsUnreadable => ErrorKind::NotImplemented,
            Self::Task(_)
            | Self::Exec(_)
            | Self::NotPaused { .. }
            | Self::RemoveRoot { .. }
            | Self::WillNotEnd { .. }
            | Self::Watcher { .. } => ErrorKind::Internal,
        }
    }
}
