//! Changing a container's restart policy and limits.

use std::sync::Arc;

use berth_api::container::{HostConfig, UpdateRequest};

use super::{defaults, record};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::{ContainerError, EngineError};

impl Engine {
    /// Changes what the request names. Limits of a container that runs are not changed yet, and
    /// refused by name.
    pub async fn update_container(
        &self,
        name: &str,
        request: UpdateRequest,
    ) -> Result<Vec<String>, EngineError> {
        let container = self.registry().find(name)?;
        let _held = container.operation.clone().lock_owned().await;
        let mut new = container.record();
        let limits = apply(&mut new.host, &request);
        if limits && container.state().is_running() {
            let what = "changing the limits of a running container";
            return Err(ContainerError::NotBuilt { what }.into());
        }
        defaults::check_restart(&mut new.host)?;
        let engine = self.clone();
        let (new, warnings) = blocking(move || {
            let warnings = berth_runtime::validate(&new.config, &mut new.host, engine.host())?;
            engine.db().write(|tx| record::set_record(tx, &new))?;
            Ok::<_, EngineError>((new, warnings))
        })
        .await?;
        container.live().record.host = new.host;
        self.publish_container(&Arc::clone(&container), "update", []);
        Ok(warnings)
    }
}

/// Takes over what is not zero; true when that is a limit.
fn apply(host: &mut HostConfig, request: &UpdateRequest) -> bool {
    let mut limits = false;
    let numbers = [
        (&mut host.cpu_shares, request.cpu_shares),
        (&mut host.memory, request.memory),
        (&mut host.nano_cpus, request.nano_cpus),
        (&mut host.cpu_period, request.cpu_period),
        (&mut host.cpu_quota, request.cpu_quota),
        (&mut host.cpu_realtime_period, request.cpu_realtime_period),
        (&mut host.cpu_realtime_runtime, request.cpu_realtime_runtime),
        (&mut host.kernel_memory, request.kernel_memory),
        (&mut host.memory_reservation, request.memory_reservation),
        (&mut host.memory_swap, request.memory_swap),
    ];
    for (own, asked) in numbers {
        if asked != 0 {
            *own = asked;
            limits = true;
        }
    }
    for (own, asked) in [
        (&mut host.cpuset_cpus, &request.cpuset_cpus),
        (&mut host.cpuset_mems, &request.cpuset_mems),
    ] {
        if !asked.is_empty() {
            own.clone_from(asked);
            limits = true;
        }
    }
    if request.blkio_weight != 0 {
        host.blkio_weight = request.blkio_weight;
        limits = true;
    }
    if request.pids_limit.is_some() {
        host.pids_limit = request.pids_limit;
        limits = true;
    }
    if !request.restart_policy.name.is_empty() {
        host.restart_policy = request.restart_policy.clone();
    }
    limits
}
