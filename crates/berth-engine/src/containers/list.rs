//! Listing containers, from memory alone.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use berth_api::container::{
    ContainerSummary, EndpointSettings, NetworkSettingsSummary, Port, SummaryHostConfig,
};
use berth_api::filters::Filters;
use berth_api::options::ListOptions;
use berth_types::duration::human;
use berth_types::{ContainerId, ImageId, Timestamp};

use super::record::Record;
use super::registry::{Container, Live};
use super::scan;
use super::state::{State, Status};
use crate::blocking::blocking;
use crate::engine::Engine;
use crate::error::EngineError;

/// The filters that this list knows.
pub(crate) const FILTERS: &[&str] = &[
    "ancestor",
    "before",
    "exited",
    "expose",
    "health",
    "id",
    "is-task",
    "isolation",
    "label",
    "name",
    "network",
    "publish",
    "since",
    "status",
    "volume",
];

const HEALTH: &[&str] = &["none", "starting", "healthy", "unhealthy"];
const STATUSES: &[&str] =
    &["created", "running", "paused", "restarting", "removing", "exited", "dead"];

impl Engine {
    /// The containers that the options choose, newest first.
    pub async fn list_containers(
        &self,
        options: ListOptions,
    ) -> Result<Vec<ContainerSummary>, EngineError> {
        let engine = self.clone();
        blocking(move || engine.list_now(&options)).await
    }

    fn list_now(&self, options: &ListOptions) -> Result<Vec<ContainerSummary>, EngineError> {
        let filters = options.filters.clone().accept(FILTERS)?;
        let chosen = self.choose(options, &filters)?;
        let names = ImageNames::of(self, &chosen)?;
        let sizes = if options.size { Some(Sizes::read(self)?) } else { None };
        let mut list = Vec::with_capacity(chosen.len());
        for container in &chosen {
            let mut summary = {
                let live = container.live();
                summarize(self, &live, &names)
            };
            if let Some(sizes) = &sizes {
                let (rw, root) = sizes.of(self, container);
                summary.size_rw = rw;
                summary.size_root_fs = root;
            }
            list.push(summary);
        }
        Ok(list)
    }

    fn choose(
        &self,
        options: &ListOptions,
        filters: &Filters,
    ) -> Result<Vec<Arc<Container>>, EngineError> {
        let mut all = self.registry().all();
        all.sort_by_key(|container| {
            let live = container.live();
            (Reverse(live.record.created), container.id().clone())
        });
        let test = Test::parse(self, filters)?;
        let any_state = options.all
            || options.limit.is_some()
            || ["status", "exited", "before", "since", "isolation"]
                .iter()
                .any(|key| filters.contains(key));
        all.retain(|container| {
            let live = container.live();
            (any_state || live.state.is_running() || live.state.status == Status::Restarting)
                && test.takes(&live, filters)
        });
        if let Some(limit) = options.limit {
            all.truncate(limit);
        }
        Ok(all)
    }

    /// What the container wrote, and that with its image: from records and memory, never measured
    /// here for a container that does not run.
    pub(crate) fn sizes(&self, container: &Arc<Container>) -> (i64, i64) {
        let image = container.live().record.image.clone();
        let rw = self.written(container, Instant::now() + scan::MOMENT);
        let image = image.map_or(0, |id| self.image_size(&id));
        (rw, if rw < 0 { image } else { image + rw })
    }

    /// What the container wrote: of one that runs what is known by `deadline`, of others what is
    /// remembered, else asked of the layer store.
    pub(crate) fn written(&self, container: &Arc<Container>, deadline: Instant) -> i64 {
        let (runs, remembered) = {
            let live = container.live();
            (live.state.is_running(), live.size)
        };
        if runs {
            return scan::written(self, container, deadline);
        }
        remembered.unwrap_or_else(|| self.measure_now(container))
    }

    fn measure_now(&self, container: &Arc<Container>) -> i64 {
        let measured =
            self.try_with_layer(container, |_at_rest| self.layers().rw_size(container.id()));
        match measured {
            // Somebody starts it or writes into it.
            None => container.scan.last().unwrap_or(0),
            Some(Ok(size)) => {
                let size = i64::try_from(size).unwrap_or(i64::MAX);
                let mut live = container.live();
                if !live.state.is_running() {
                    live.size = Some(size);
                }
                size
            }
            Some(Err(error)) => {
                tracing::debug!(
                    container = %container.id(), error = %berth_types::kind::chain(&error),
                    "size unknown"
                );
                -1
            }
        }
    }

    /// The bytes of an image's layers, from records.
    pub(crate) fn image_size(&self, id: &ImageId) -> i64 {
        let chain = match self.images().get(id) {
            Ok(Some(image)) => image.config.top_chain(),
            Ok(None) | Err(_) => None,
        };
        let layer = chain.and_then(|chain| self.layers().get(&chain).ok().flatten());
        layer.map_or(0, |layer| i64::try_from(layer.chain_size).unwrap_or(i64::MAX))
    }

    /// A size that was on record no longer holds.
    pub(crate) fn forget_size(&self, container: &Container) {
        {
            let mut live = container.live();
            live.size = None;
            live.touched = true;
            container.scan.outdate();
        }
        let forgotten = self.db().write(|tx| self.layers().set_rw_size(tx, container.id(), None));
        if let Err(error) = forgotten {
            tracing::warn!(
                container = %container.id(), error = %berth_types::kind::chain(&error),
                "size still on record"
            );
        }
    }
}

/// Every size on record, read at once: a list must not ask the database for each container.
pub(crate) struct Sizes {
    written: BTreeMap<ContainerId, i64>,
    images: BTreeMap<ImageId, i64>,
    /// When waiting for those that run ends.
    deadline: Instant,
}

impl Sizes {
    pub(crate) fn read(engine: &Engine) -> Result<Self, EngineError> {
        for container in engine.registry().all() {
            if container.live().state.is_running() {
                // All at once, so that the list waits for the longest and not for all in turn.
                scan::kick(engine, &container);
            }
        }
        let deadline = Instant::now() + scan::MOMENT;
        let number = |size: u64| i64::try_from(size).unwrap_or(i64::MAX);
        let recorded = engine.layers().list_rw()?.into_iter();
        let written =
            recorded.filter_map(|layer| Some((layer.container, number(layer.size?)))).collect();
        let chains: BTreeMap<_, _> = engine
            .layers()
            .list()?
            .into_iter()
            .map(|layer| (layer.chain, number(layer.chain_size)))
            .collect();
        let size = |image: &berth_images::Image| {
            image.config.top_chain().and_then(|top| chains.get(&top).copied()).unwrap_or(0)
        };
        let images = engine.images().all()?.iter().map(|i| (i.id.clone(), size(i))).collect();
        Ok(Self { written, images, deadline })
    }

    /// As [`Engine::sizes`]; only what runs is measured, in the background.
    pub(crate) fn of(&self, engine: &Engine, container: &Arc<Container>) -> (i64, i64) {
        let (runs, image) = {
            let live = container.live();
            (live.state.is_running(), live.record.image.clone())
        };
        let recorded = self.written.get(container.id()).copied().filter(|_| !runs);
        let rw = recorded.unwrap_or_else(|| engine.written(container, self.deadline));
        let image = image.and_then(|id| self.images.get(&id).copied()).unwrap_or(0);
        (rw, if rw < 0 { image } else { image + rw })
    }
}

/// Filters that need more than the container itself.
struct Test {
    exited: Vec<i32>,
    before: Option<Timestamp>,
    since: Option<Timestamp>,
    ancestors: Option<Vec<ImageId>>,
    never: bool,
}

impl Test {
    fn parse(engine: &Engine, filters: &Filters) -> Result<Self, EngineError> {
        let mut exited = Vec::new();
        for code in filters.get("exited") {
            exited.push(code.parse().map_err(|_not_a_number| filters.bad_value("exited"))?);
        }
        if filters.get("status").any(|status| !STATUSES.contains(&status)) {
            return Err(filters.bad_value("status").into());
        }
        if filters.get("health").any(|health| !HEALTH.contains(&health)) {
            return Err(filters.bad_value("health").into());
        }
        let created = |key: &str| -> Result<Option<Timestamp>, EngineError> {
            let mut last = None;
            for name in filters.get(key) {
                last = Some(engine.registry().find(name)?.record().created);
            }
            Ok(last)
        };
        let ancestors =
            if filters.contains("ancestor") { Some(ancestors(engine, filters)?) } else { None };
        // Containers of a swarm; there are none.
        let never = filters.contains("is-task") && filters.boolean("is-task", false)?;
        Ok(Self { exited, before: created("before")?, since: created("since")?, ancestors, never })
    }

    fn takes(&self, live: &Live, filters: &Filters) -> bool {
        let (record, state) = (&live.record, &live.state);
        let slashed = format!("/{}", record.name);
        let names = !filters.contains("name")
            || filters.regex("name", &slashed)
            || filters.regex("name", &record.name);
        let volume = !filters.contains("volume")
            || record.mounts.iter().any(|mount| {
                filters.get("volume").any(|wanted| {
                    wanted == mount.volume
                        || wanted.trim_end_matches('/') == mount.destination
                        || Some(wanted) == mount.source.to_str()
                })
            });
        let network = !filters.contains("network")
            || filters.get("network").any(|wanted| wanted == record.host.network_mode);
        let health = !filters.contains("health") || filters.get("health").any(|h| h == "none");
        let expose =
            !filters.contains("expose") || filters.get("expose").any(|port| exposes(record, port));
        !self.never
            && names
            && volume
            && network
            && health
            && expose
            && !filters.contains("publish")
            && filters.prefix("id", record.id.as_str())
            && filters.exact("status", state.status.as_str())
            && filters.labels("label", &record.config.labels)
            && (self.exited.is_empty()
                || (self.exited.contains(&state.exit_code) && ended_once(state)))
            && self.before.is_none_or(|before| record.created < before)
            && self.since.is_none_or(|since| record.created > since)
            && self.ancestors.as_ref().is_none_or(|images| {
                record.image.as_ref().is_some_and(|image| images.contains(image))
            })
    }
}

fn ended_once(state: &State) -> bool {
    !state.is_running() && !state.finished_at.is_zero()
}

fn exposes(record: &Record, wanted: &str) -> bool {
    let (ports, protocol) = wanted.split_once('/').unwrap_or((wanted, "tcp"));
    let (first, last) = ports.split_once('-').unwrap_or((ports, ports));
    let (Ok(first), Ok(last)) = (first.parse::<u16>(), last.parse::<u16>()) else { return false };
    record.config.exposed_ports.keys().any(|port| {
        let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
        kind == protocol && number.parse().is_ok_and(|number: u16| (first..=last).contains(&number))
    })
}

/// The images that `ancestor` means: those named and their descendants. Unknown names mean none.
fn ancestors(engine: &Engine, filters: &Filters) -> Result<Vec<ImageId>, EngineError> {
    let mut wanted = Vec::new();
    for name in filters.get("ancestor") {
        if let Ok(image) = engine.images().resolve(name) {
            wanted.push(image.id.clone());
        }
    }
    let tops: Vec<_> = {
        let mut chains = Vec::new();
        for id in &wanted {
            if let Some(image) = engine.images().get(id)? {
                chains.extend(image.config.top_chain());
            }
        }
        chains
    };
    for image in engine.images().all()? {
        if image.config.chains().iter().any(|chain| tops.contains(chain)) {
            wanted.push(image.id.clone());
        }
    }
    Ok(wanted)
}

/// How each listed container's image is called now: as the creator called it while that name still
/// means it, else by its id.
struct ImageNames(BTreeMap<(String, ImageId), String>);

impl ImageNames {
    fn of(engine: &Engine, containers: &[Arc<Container>]) -> Result<Self, EngineError> {
        let mut names = BTreeMap::new();
        for container in containers {
            let key = {
                let live = container.live();
                let Some(image) = live.record.image.clone() else { continue };
                (live.record.image_ref.clone(), image)
            };
            if let std::collections::btree_map::Entry::Vacant(vacant) = names.entry(key) {
                let (asked, id) = vacant.key();
                let name = engine.images().display_name(asked, id)?;
                vacant.insert(name);
            }
        }
        Ok(Self(names))
    }

    fn get(&self, record: &Record) -> String {
        let Some(image) = record.image.clone() else { return record.image_ref.clone() };
        let key = (record.image_ref.clone(), image);
        self.0.get(&key).cloned().unwrap_or_else(|| record.image_ref.clone())
    }
}

fn summarize(engine: &Engine, live: &Live, names: &ImageNames) -> ContainerSummary {
    let Live { record, state, .. } = live;
    let settings = engine.network_settings(record);
    let mut networks = settings.networks.into_map();
    if networks.is_empty() {
        networks.insert(record.host.network_mode.clone(), EndpointSettings::default());
    }
    ContainerSummary {
        id: record.id.to_string(),
        names: vec![format!("/{}", record.name)],
        image: names.get(record),
        image_id: record.image.as_ref().map(ToString::to_string).unwrap_or_default(),
        command: command_line(record),
        created: record.created.unix(),
        ports: if state.is_running() { ports(record) } else { Vec::new() },
        size_rw: 0,
        size_root_fs: 0,
        labels: record.config.labels.clone().into_map(),
        state: state.status.as_str().to_owned(),
        status: status_text(state, Timestamp::now()),
        host_config: SummaryHostConfig {
            network_mode: record.host.network_mode.clone(),
            annotations: record.host.annotations.clone().into_map(),
        },
        network_settings: NetworkSettingsSummary { networks },
        mounts: record.mounts.iter().map(berth_volumes::mounts::ContainerMount::point).collect(),
    }
}

/// Docker joins the words with spaces and quotes those that have one.
fn command_line(record: &Record) -> String {
    let mut line = record.path.clone();
    for word in &record.args {
        line.push(' ');
        if word.contains(' ') {
            line.push('\'');
            line.push_str(word);
            line.push('\'');
        } else {
            line.push_str(word);
        }
    }
    line
}

fn ports(record: &Record) -> Vec<Port> {
    let mut ports: Vec<Port> = record
        .config
        .exposed_ports
        .keys()
        .filter_map(|port| {
            let (number, kind) = port.split_once('/').unwrap_or((port, "tcp"));
            let private_port = number.parse().ok()?;
            Some(Port { ip: String::new(), private_port, public_port: 0, kind: kind.to_owned() })
        })
        .collect();
    ports.sort();
    ports
}

/// `Up 5 minutes (Paused)`, `Exited (0) 2 hours ago` and so on.
pub(crate) fn status_text(state: &State, now: Timestamp) -> String {
    let up = || human(now.since(state.started_at));
    let ago = || human(now.since(state.finished_at));
    match state.status {
        Status::Created => "Created".to_owned(),
        Status::Running => format!("Up {}", up()),
        Status::Paused => format!("Up {} (Paused)", up()),
        Status::Restarting => format!("Restarting ({}) {} ago", state.exit_code, ago()),
        Status::Exited => format!("Exited ({}) {} ago", state.exit_code, ago()),
        Status::Removing => "Removal In Progress".to_owned(),
        Status::Dead => "Dead".to_owned(),
    }
}
