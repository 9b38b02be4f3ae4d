//! Everything about one container, from memory and records.

use berth_api::container::{ContainerInspect, ContainerState, DriverData};
use berth_api::json::{Dict, List};
use berth_volumes::mounts::ContainerMount;

use super::record::Record;
use super::state::{State, Status};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

impl Engine {
    /// Everything about a container; with sizes when `size`.
    pub async fn inspect_container(
        &self,
        name: &str,
        size: bool,
    ) -> Result<ContainerInspect, EngineError> {
        let container = self.registry().find(name)?;
        let (record, state, execs) = {
            let live = container.live();
            let execs: Vec<String> = live
                .execs
                .values()
                .filter(|exec| exec.is_running())
                .map(|exec| exec.id().to_string())
                .collect();
            (live.record.clone(), live.state.clone(), execs)
        };
        let engine = self.clone();
        blocking(move || {
            let mut inspect = engine.inspect_record(record, &state)?;
            if !execs.is_empty() {
                inspect.exec_ids = List::from(execs);
            }
            if size {
                let (rw, root) = engine.sizes(&container);
                inspect.size_rw = Some(rw);
                inspect.size_root_fs = Some(root);
            }
            Ok(inspect)
        })
        .await
    }

    fn inspect_record(
        &self,
        record: Record,
        state: &State,
    ) -> Result<ContainerInspect, EngineError> {
        let dir = self.container_dir(&record.id);
        let file = |name: &str| dir.join(name).to_string_lossy().into_owned();
        // The files of a container are made when it is first started.
        let was_started = state.run > 0 || state.is_running();
        let made = |name: &str| if was_started { file(name) } else { String::new() };
        let data = if record.driver == self.layers().driver().name() {
            self.layers().rw_metadata(&record.id)?
        } else {
            None
        };
        let settings = self.network_settings(&record);
        Ok(ContainerInspect {
            id: record.id.to_string(),
            created: record.created,
            path: record.path.clone(),
            args: record.args.clone(),
            state: state_message(state),
            image: record.image.as_ref().map(ToString::to_string).unwrap_or_default(),
            resolv_conf_path: made("resolv.conf"),
            hostname_path: made("hostname"),
            hosts_path: made("hosts"),
            log_path: if was_started {
                record.log_path.to_string_lossy().into_owned()
            } else {
                String::new()
            },
            name: format!("/{}", record.name),
            restart_count: i64::from(state.restart_count),
            driver: record.driver.clone(),
            platform: record.platform.clone(),
            mount_label: String::new(),
            process_label: String::new(),
            app_armor_profile: String::new(),
            exec_ids: List::null(),
            graph_driver: DriverData {
                data: data.map_or_else(Dict::null, Dict::from),
                name: record.driver.clone(),
            },
            size_rw: None,
            size_root_fs: None,
            mounts: record.mounts.iter().map(ContainerMount::point).collect(),
            network_settings: settings,
            config: record.config,
            host_config: record.host,
        })
    }
}

fn state_message(state: &State) -> ContainerState {
    ContainerState {
        status: state.status.as_str().to_owned(),
        running: state.is_running() || state.status == Status::Restarting,
        paused: state.status == Status::Paused,
        restarting: state.status == Status::Restarting,
        oom_killed: state.oom_killed,
        dead: state.status == Status::Dead,
        pid: i64::from(state.pid),
        exit_code: i64::from(state.exit_code),
        error: state.error.clone(),
        started_at: state.started_at,
        finished_at: state.finished_at,
        health: None,
    }
}
