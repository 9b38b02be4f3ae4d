//! Why the driver failed, in Docker's words where Docker has them.

use std::path::PathBuf;

use berth_types::{Classify, ErrorKind, size};

/// Why the driver failed.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum DevicemapperError {
    #[error("devmapper: Non existing device {name}")]
    NonExisting { name: String },
    #[error(
        "devmapper: Non existing device {name} (a volume that is not active: lvchange -ay {volume})"
    )]
    NotActive { name: String, volume: String },
    #[error("devmapper: Device {name} is not a thin pool")]
    NotAPool { name: String },
    #[error("devmapper: the status of thin pool {name} is not known: {status:?}")]
    PoolStatus { name: String, status: String },
    #[error(
        "devmapper: thin pool {name} can no longer be written to ({mode}): see \
         thin_check and lvconvert --repair"
    )]
    PoolMode { name: String, mode: &'static str },
    #[error(
        "devmapper: thin pool {name} has no free metadata blocks: remove containers or images, or \
         make its metadata larger (berth storage extend)"
    )]
    MetadataFull { name: String },
    #[error(
        "devmapper: thin pool {name} has failed: what it lies on cannot be read or written (see \
         the kernel's log); stop the daemon, bring that back, and start again"
    )]
    PoolFailed { name: String },
    #[error(
        "devmapper: thin pool {name} is nearly full: {percent}% of the room for its {what} is in use, \
         and from {stop}% on it takes no new images or containers (dm.berth_stop_level); remove \
         containers or images (berth container prune, berth rmi), or make the pool larger (berth \
         storage extend)"
    )]
    StopLevel { name: String, what: &'static str, percent: u64, stop: u64 },
    #[error("devmapper: thin pool {name} is on other devices than {}", .file.display())]
    PoolDevices { name: String, file: PathBuf },
    #[error(
        "devmapper: Thin Pool has {free} free {what} blocks which is less than minimum required \
         {least} free {what} blocks. Create more free {room} in thin pool or use \
         dm.min_free_space option to change behavior"
    )]
    NearlyFull { free: u64, least: u64, what: &'static str, room: &'static str },
    #[error(
        "devmapper: Unable to take ownership of thin-pool ({name}) that already has used data \
         blocks"
    )]
    UsedPool { name: String },
    #[error(
        "devmapper: Unable to take ownership of thin-pool ({name}) with non-zero transaction ID"
    )]
    OldPool { name: String },
    #[error(
        "devmapper: thin pool {name} is at transaction {found}, and the files in {} are at \
         {expected}: it is an older or another pool",
        .dir.display()
    )]
    OtherPool { name: String, found: u64, expected: u64, dir: PathBuf },
    #[error(
        "devmapper: Base Device UUID and Filesystem verification failed: devmapper: Current Base \
         Device UUID:{found} does not match with stored UUID:{stored}. Possibly using a different \
         thin pool than last invocation"
    )]
    BaseUuid { found: String, stored: String },
    #[error(
        "devmapper: thin pool {name} does not have the base device that is recorded in {}: it is \
         another pool",
        .dir.display()
    )]
    NoBase { name: String, dir: PathBuf },
    #[error("devmapper: Base device size cannot be smaller than {}", human(*.size))]
    BaseShrinks { size: u64 },
    #[error("devmapper: Container size cannot be smaller than {}", human(*.size))]
    ContainerShrinks { size: u64 },
    #[error("devmapper: Unknown filesystem type on {}", .device.display())]
    UnknownFs { device: PathBuf },
    #[error("{what} loopback file {} not found", .path.display())]
    LoopFile { what: &'static str, path: PathBuf },
    #[error(
        "{what} loopback file {} not found: {} still has its content, as long as the machine \
         runs; copy it back (cp --sparse=always {1} {0}), let go of the pool (dmsetup remove \
         {pool}), and start again",
        .path.display(),
        .held.display()
    )]
    LoopFileGone { what: &'static str, path: PathBuf, held: PathBuf, pool: String },
    #[error("{} is not empty: a thin pool is made on an empty device alone", .device.display())]
    NotEmpty { device: PathBuf },
    #[error("failed to remove device {name}: Device is Busy")]
    Busy { name: String },
    #[error("devmapper: no device id is free")]
    NoId,
    #[error("{} is damaged", .path.display())]
    Record { path: PathBuf, source: serde_json::Error },
    #[error("{program} failed: {said}")]
    Program { program: String, said: String },
    #[error("No such device: {id}")]
    NoDevice { id: String },
    #[error("multiple devices found with provided prefix: {id}")]
    SeveralDevices { id: String },
    #[error("device {id} is needed and cannot be removed: it is {whose}")]
    Needed { id: String, whose: &'static str },
    #[error("there is a snapshot {name} already")]
    SnapshotExists { name: String },
    #[error(
        "invalid name of a snapshot: {name:?} (letters, digits, and _ . - behind the first, 64 at \
         most)"
    )]
    SnapshotName { name: String },
    #[error("devmapper: Can't shrink file")]
    Shrinks,
    #[error("devmapper: Unable to find loopback mount for: {}", .path.display())]
    NoLoop { path: PathBuf },
    #[error(
        "devmapper: thin pool {name} does not lie on files: berth storage extend --device makes it \
         larger"
    )]
    NotOnFiles { name: String },
    #[error(
        "devmapper: thin pool {name} is in no volume group: berth storage extend --size makes it \
         larger, if it lies on a file"
    )]
    OnFiles { name: String },
    #[error("devmapper: thin pool {name} is no volume of LVM's")]
    NoVolume { name: String },
    #[error(
        "{device} is not empty: what is on it is wiped when that is asked for (berth storage extend \
         --force)"
    )]
    WouldWipe { device: String },
    #[error("devmapper: the volume group {group} has no room that the thin pool could have")]
    NoExtents { group: String },
    #[error("{0}")]
    Refused(&'static str),
    #[error(
        "error looking up command `{program}` while setting up direct lvm: exec: \"{program}\": \
         executable file not found in $PATH"
    )]
    NoProgram { program: String },
    #[error("{device} is not available for use with devicemapper")]
    NotAvailable { device: String },
    #[error(
        "{device} is already part of a volume group \"{group}\": must remove this device from any \
         volume group or provide a different device"
    )]
    InGroup { device: String, group: String },
    #[error(
        "{device} has a filesystem already, use dm.directlvm_device_force=true if you want to wipe \
         the device"
    )]
    HasFs { device: String },
    #[error(
        "{device} is not empty, use dm.directlvm_device_force=true if you want to wipe the device"
    )]
    HasData { device: String },
    #[error("{said}")]
    Lvm { said: String },
}

impl Classify for DevicemapperError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoDevice { .. } => ErrorKind::NotFound,
            Self::ContainerShrinks { .. }
            | Self::SeveralDevices { .. }
            | Self::SnapshotName { .. }
            | Self::Shrinks
            | Self::NoLoop { .. }
            | Self::NotOnFiles { .. }
            | Self::OnFiles { .. }
            | Self::NoVolume { .. }
            | Self::NotAvailable { .. }
            | Self::InGroup { .. }
            | Self::WouldWipe { .. } => ErrorKind::InvalidParameter,
            Self::Busy { .. }
            | Self::NoExtents { .. }
            | Self::Needed { .. }
            | Self::SnapshotExists { .. } => ErrorKind::Conflict,
            Self::NonExisting { .. }
            | Self::NotActive { .. }
            | Self::NotAPool { .. }
            | Self::PoolStatus { .. }
            | Self::PoolMode { .. }
            | Self::MetadataFull { .. }
            | Self::StopLevel { .. }
            | Self::PoolFailed { .. }
            | Self::PoolDevices { .. }
            | Self::NearlyFull { .. }
            | Self::UsedPool { .. }
            | Self::OldPool { .. }
            | Self::OtherPool { .. }
            | Self::BaseUuid { .. }
            | Self::NoBase { .. }
            | Self::BaseShrinks { .. }
            | Self::UnknownFs { .. }
            | Self::LoopFile { .. }
            | Self::LoopFileGone { .. }
            | Self::NotEmpty { .. }
            | Self::NoId
            | Self::Record { .. }
            | Self::Program { .. }
            | Self::NoProgram { .. }
            | Self::HasFs { .. }
            | Self::HasData { .. }
            | Self::Lvm { .. }
            | Self::Refused(_) => ErrorKind::Internal,
        }
    }
}

/// As `docker info` prints sizes.
pub(super) fn human(bytes: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "four digits are shown")]
    size::human(bytes as f64)
}
