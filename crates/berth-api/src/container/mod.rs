//! Messages about containers.

mod answers;
mod config;
mod create;
mod host;
mod inspect;
mod mount;
mod network;
mod summary;
mod wait;

pub use answers::{
    Change, ContainerPruneReport, CreateResponse, PathStat, TopResponse, UpdateResponse,
};
pub use config::{ContainerConfig, HealthConfig};
pub use create::{CreateRequest, CreateRequestError};
pub use host::{
    BlkioThrottle, BlkioWeightDevice, DeviceMapping, DeviceRequest, HostConfig, LogConfig,
    PortBinding, RestartPolicy, Ulimit, UpdateRequest,
};
pub use inspect::{ContainerInspect, ContainerState, DriverData, Health, HealthResult};
pub use mount::{
    BindOptions, ImageOptions, Mount, MountDriver, MountPoint, TmpfsOptions, VolumeOptions,
};
pub use network::{
    Address, EndpointIpamConfig, EndpointSettings, NetworkSettings, NetworkingConfig,
};
pub use summary::{ContainerSummary, NetworkSettingsSummary, Port, SummaryHostConfig};
pub use wait::{WaitError, WaitResponse};
