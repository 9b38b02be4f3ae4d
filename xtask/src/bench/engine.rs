//! One engine under measurement.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::work::{BUSYBOX, LAYERED};
use crate::http::Client;
use crate::lab::Lab;
use crate::ui;

/// The label of every container made here.
const LABEL: &str = "berth-bench";

/// One engine under measurement.
#[derive(Debug)]
pub(super) struct Engine {
    pub(super) name: String,
    pub(super) api: Client,
    /// The engine's process, where it was started here; others are found by their socket.
    lab: Option<Lab>,
}

impl Engine {
    /// One that was started here.
    pub(super) fn own(name: &str, lab: Lab) -> Result<Self> {
        Ok(Self { name: name.to_owned(), api: Client::connect(&lab.socket())?, lab: Some(lab) })
    }

    /// One that runs already. Only what is made here is touched in it.
    pub(super) fn foreign(name: &str, socket: &Path) -> Result<Self> {
        let api = Client::connect(socket).with_context(|| format!("--socket {name}"))?;
        Ok(Self { name: name.to_owned(), api, lab: None })
    }

    pub(super) fn is_own(&self) -> bool {
        self.lab.is_some()
    }

    /// Whether containers can be put on the default bridge.
    pub(super) fn has_bridge(&self) -> bool {
        let is_bridge = |network: &Value| network["Name"] == "bridge";
        let made = self.lab.as_ref().is_none_or(Lab::has_bridge);
        let networks = self.api.get("/networks").unwrap_or_default();
        made && networks.as_array().into_iter().flatten().any(is_bridge)
    }

    /// The engine's process.
    pub(super) fn pid(&self) -> Result<u32> {
        let stream = std::os::unix::net::UnixStream::connect(self.api.socket())?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        u32::try_from(peer.pid.as_raw_nonzero().get()).context("the engine's process")
    }

    /// Starts it again, and says how long it took until it listed its containers.
    pub(super) fn restart(&mut self) -> Result<Option<Duration>> {
        self.lab.as_mut().map(Lab::restart).transpose()
    }

    /// Version, storage driver and file system.
    pub(super) fn describe(&self) -> Result<String> {
        let info = self.api.get("/info")?;
        let text = |key: &str| info[key].as_str().unwrap_or("?").to_owned();
        let backing = info["DriverStatus"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|pair| pair[0] == "Backing Filesystem")
            .and_then(|pair| pair[1].as_str())
            .unwrap_or("?");
        Ok(format!("version {}, {} on {backing}", text("ServerVersion"), text("Driver")))
    }

    /// Creates a container of the busybox image and gives its id.
    pub(super) fn create(&self, command: &[&str], network: &str) -> Result<String> {
        let body = json!({
            "Image": BUSYBOX, "Cmd": command, "Labels": { LABEL: "" },
            "HostConfig": { "NetworkMode": network },
        });
        let made = self.api.post("/containers/create", &body)?;
        Ok(made["Id"].as_str().context("create gives an id")?.to_owned())
    }

    pub(super) fn start(&self, id: &str) -> Result<()> {
        self.api.post(&format!("/containers/{id}/start"), &Value::Null).map(drop)
    }

    pub(super) fn remove(&self, id: &str) -> Result<()> {
        self.api.delete(&format!("/containers/{id}?force=1")).map(drop)
    }

    /// The containers that were made here, running or not.
    pub(super) fn containers(&self) -> Result<Vec<String>> {
        let list = self.api.get(&format!("/containers/json?all=1&filters={}", filter()))?;
        let ids = list.as_array().into_iter().flatten();
        Ok(ids.filter_map(|container| Some(container["Id"].as_str()?.to_owned())).collect())
    }

    /// Removes all containers made here that do not run.
    pub(super) fn prune(&self) -> Result<()> {
        self.api.post(&format!("/containers/prune?filters={}", filter()), &Value::Null).map(drop)
    }

    /// Removes what was made here from an engine that goes on.
    pub(super) fn clean(&self) {
        if self.is_own() {
            return;
        }
        let removed = self.containers().and_then(|ids| {
            ids.iter().try_for_each(|id| self.remove(id))?;
            for image in [BUSYBOX, LAYERED] {
                if self.api.get(&format!("/images/{image}/json")).is_ok() {
                    self.api.delete(&format!("/images/{image}?force=1"))?;
                }
            }
            Ok(())
        });
        if let Err(error) = removed {
            ui::line(&format!("{}: not cleaned up: {error:#}", self.name));
        }
    }
}

/// `{"label":["berth-bench"]}`, encoded for a query.
fn filter() -> String {
    format!("%7B%22label%22%3A%5B%22{LABEL}%22%5D%7D")
}
