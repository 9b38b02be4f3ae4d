//! What the engine's directories, the kernel and the process table hold that the engine does not know.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;

use super::fixture;
use crate::client::Client;
use crate::daemon::{self, BerthDaemon};

/// Room for removals.
pub(crate) const RESERVE: &str = ".berth-reserve";

/// Everything that should not be there, and everything that should be and is not, each in words.
pub(crate) fn strangers(daemon: &BerthDaemon, api: &Client) -> Result<Vec<String>> {
    let known = Known::ask(api)?;
    let mut found = Found::default();
    let root = daemon.data_root();
    found.compare("layer", &root.join("overlay2"), &known.layers, &["l", RESERVE])?;
    found.links(&root.join("overlay2/l"), known.layers.len())?;
    found.thin_devices(&root.join("devicemapper/metadata"), &known.devices)?;
    found.datasets(&root.join("zfs/.berth-home"), &known)?;
    found.compare("layer's files", &root.join("layers"), &known.chains, &[RESERVE])?;
    found.compare(
        "container's directory",
        &root.join("containers"),
        &known.containers,
        &[RESERVE],
    )?;
    found.compare("volume", &root.join("volumes"), &known.volumes, &[])?;
    found.compare("cache", &root.join("build-cache"), &known.caches, &[])?;
    found.compare("file", &root.join("tmp"), &BTreeSet::new(), &[])?;
    found.compare("lost", &root.join("lost+found"), &BTreeSet::new(), &[])?;
    let run = daemon.exec_root();
    found.compare("bundle", &run.join("containers"), &known.running, &[])?;
    found.compare("endpoint", &run.join("endpoints"), &known.running, &[])?;
    found.mounts(root, run, &known)?;
    found.watchers(run, &known);
    found.interfaces(daemon, &known)?;
    found.groups(&known)?;
    Ok(found.0)
}

/// What the engine says it has.
#[derive(Debug, Default)]
struct Known {
    containers: BTreeSet<String>,
    running: BTreeSet<String>,
    /// The first processes of those that run.
    pids: Vec<u64>,
    /// How many of those that run have an address.
    addresses: usize,
    layers: BTreeSet<String>,
    /// Layers that are thin devices.
    devices: BTreeSet<String>,
    /// Layers that are datasets, by their whole names.
    datasets: BTreeSet<String>,
    chains: BTreeSet<String>,
    volumes: BTreeSet<String>,
    /// Of builds.
    caches: BTreeSet<String>,
}

impl Known {
    fn ask(api: &Client) -> Result<Self> {
        let mut known = Self::default();
        for container in list(&api.get("/containers/json?all=1")?) {
            let id = text(&container["Id"]);
            let Some(shown) = api.find(&format!("/containers/{id}/json"))? else { continue };
            known.add_layers(&shown["GraphDriver"]["Data"]);
            known.add_device(&shown["GraphDriver"]["Data"], true);
            known.add_dataset(&shown["GraphDriver"]["Data"], true);
            if shown["State"]["Running"] == true {
                known.pids.extend(shown["State"]["Pid"].as_u64());
                let address = shown["NetworkSettings"]["IPAddress"].as_str();
                known.addresses += usize::from(address.is_some_and(|address| !address.is_empty()));
                known.running.insert(id.clone());
            }
            remember(&id);
            known.containers.insert(id);
        }
        for image in list(&api.get("/images/json?all=1")?) {
            let id = text(&image["Id"]);
            let Some(shown) = api.find(&format!("/images/{id}/json"))? else { continue };
            known.add_layers(&shown["GraphDriver"]["Data"]);
            known.add_device(&shown["GraphDriver"]["Data"], false);
            known.add_dataset(&shown["GraphDriver"]["Data"], false);
            let diffs: Vec<String> = list(&shown["RootFS"]["Layers"]).map(text).collect();
            known.chains.extend(fixture::chains(&diffs));
        }
        let volumes = api.get("/volumes")?;
        known.volumes = list(&volumes["Volumes"]).map(|volume| text(&volume["Name"])).collect();
        let caches = api.get("/system/df?type=build-cache")?;
        known.caches = list(&caches["BuildCache"]).map(|cache| text(&cache["ID"])).collect();
        Ok(known)
    }

    /// Takes the layers' names out of the paths that inspect shows.
    fn add_layers(&mut self, data: &Value) {
        let paths = data.as_object().into_iter().flatten().filter_map(|(_, value)| value.as_str());
        for path in paths.flat_map(|paths| paths.split(':')) {
            let mut parts = Path::new(path).components().map(std::path::Component::as_os_str);
            if parts.any(|part| part == "overlay2")
                && let Some(layer) = parts.next()
            {
                self.layers.insert(layer.to_string_lossy().into_owned());
            }
        }
    }

    /// Takes the layer out of a thin device's name, and knows the one that a container's stands on.
    fn add_device(&mut self, data: &Value, of_container: bool) {
        let Some(layer) = data["DeviceName"].as_str().and_then(|name| name.rsplit('-').next())
        else {
            return;
        };
        if of_container {
            self.devices.insert(format!("{layer}-init"));
        }
        self.devices.insert(layer.to_owned());
    }

    /// Takes a layer's dataset, and knows the one that a container's stands on.
    fn add_dataset(&mut self, data: &Value, of_container: bool) {
        let Some(name) = data["Dataset"].as_str() else { return };
        if of_container {
            self.datasets.insert(format!("{name}-init"));
        }
        self.datasets.insert(name.to_owned());
    }
}

#[derive(Debug, Default)]
struct Found(Vec<String>);

impl Found {
    /// The names in `dir` are those expected and `besides`.
    fn compare(
        &mut self,
        what: &str,
        dir: &Path,
        expected: &BTreeSet<String>,
        besides: &[&str],
    ) -> Result<()> {
        let names = names(dir)?;
        for name in &names {
            if !expected.contains(name) && !besides.contains(&name.as_str()) {
                self.0.push(format!("{what} {}", dir.join(name).display()));
            }
        }
        for name in expected.difference(&names) {
            self.0.push(format!("no {what} {}", dir.join(name).display()));
        }
        Ok(())
    }

    /// Each layer has a file, and the pool has its own and a spare, but images' layers that are not the last one
    /// are not shown by the engine, nor what an image's containers begin as, which stands on such a layer.
    fn thin_devices(&mut self, dir: &Path, expected: &BTreeSet<String>) -> Result<()> {
        let names = names(dir)?;
        for name in &names {
            let layer = name.strip_suffix("-init").unwrap_or(name);
            let is_layer = layer.len() == 64 && !name.starts_with('.') && names.contains(layer);
            let of_pool = ["base", "deviceset-metadata", "transaction-metadata", ".berth-spare"];
            if !is_layer && !expected.contains(name) && !of_pool.contains(&name.as_str()) {
                self.0.push(format!("thin device {}", dir.join(name).display()));
            }
        }
        for name in expected.difference(&names) {
            self.0.push(format!("no thin device {}", dir.join(name).display()));
        }
        Ok(())
    }

    /// Each layer has a dataset. Images' layers that are not the last one are not shown by the engine:
    /// they are counted. The first line of `home` is what they are all below.
    fn datasets(&mut self, home: &Path, known: &Known) -> Result<()> {
        let Ok(home) = std::fs::read_to_string(home) else { return Ok(()) };
        let parent = home.lines().next().unwrap_or_default();
        let list = Command::new("zfs").args(["list", "-H", "-r", "-o", "name", parent]).output()?;
        ensure!(list.status.success(), "zfs list: {}", String::from_utf8_lossy(&list.stderr));
        let names = String::from_utf8_lossy(&list.stdout).into_owned();
        let names: BTreeSet<String> =
            names.lines().filter(|name| *name != parent).map(str::to_owned).collect();
        let is_layer = |name: &str| {
            let name = name.rsplit('/').next().unwrap_or_default();
            name.len() == 64 && !name.starts_with('.')
        };
        // What an image's containers begin as.
        let is_template = |name: &str| {
            let layer = name.strip_suffix("-init").unwrap_or_default();
            is_layer(layer) && names.contains(layer)
        };
        let strange = names.iter().filter(|name| !known.datasets.contains(*name));
        let (templates, strange): (Vec<&String>, Vec<&String>) =
            strange.partition(|name| is_template(name));
        for name in strange.into_iter().filter(|name| !is_layer(name)) {
            self.0.push(format!("dataset {name}"));
        }
        for name in known.datasets.difference(&names) {
            self.0.push(format!("no dataset {name}"));
        }
        let layers = known.chains.len() + 2 * known.containers.len();
        let found = names.len() - templates.len();
        if found != layers {
            self.0.push(format!("{found} datasets for {layers} layers"));
        }
        Ok(())
    }

    /// Each layer has one short name, and none points to nowhere.
    fn links(&mut self, dir: &Path, layers: usize) -> Result<()> {
        let names = names(dir)?;
        for name in &names {
            if !dir.join(name).try_exists()? {
                self.0.push(format!("link {} to nowhere", dir.join(name).display()));
            }
        }
        if names.len() != layers {
            self.0.push(format!("{} links for {layers} layers", names.len()));
        }
        Ok(())
    }

    /// Nothing is mounted but the roots of what runs, and namespaces.
    fn mounts(&mut self, root: &Path, run: &Path, known: &Known) -> Result<()> {
        let mut roots = 0;
        // The root may be a file system of its own.
        for point in daemon::mounts_below(root)?.into_iter().filter(|point| point != root) {
            if point.file_name().is_some_and(|name| name == "merged") {
                roots += 1;
            } else {
                self.0.push(format!("mount {}", point.display()));
            }
        }
        if roots > known.running.len() {
            self.0.push(format!("{roots} roots mounted for {} containers", known.running.len()));
        }
        let spaces = daemon::mounts_below(run)?.len();
        if spaces > known.running.len() {
            self.0.push(format!("{spaces} namespaces for {} containers", known.running.len()));
        }
        Ok(())
    }

    /// Each running container has one watcher.
    fn watchers(&mut self, run: &Path, known: &Known) {
        let watchers = daemon::watchers(run);
        if watchers.len() != known.running.len() {
            let text = format!("watchers {watchers:?} of {} containers", known.running.len());
            self.0.push(text);
        }
    }

    /// Each container on the bridge has one interface where the daemon is.
    fn interfaces(&mut self, daemon: &BerthDaemon, known: &Known) -> Result<()> {
        let Some(pid) = daemon.pid() else { return Ok(()) };
        let path = format!("/proc/{}/net/dev", pid.as_raw_nonzero());
        let text = std::fs::read_to_string(&path).context(path)?;
        let names =
            text.lines().filter_map(|line| line.split_once(':')).map(|(name, _)| name.trim());
        let pairs = names.filter(|name| name.starts_with("berth") && *name != "berth0").count();
        if pairs != known.addresses {
            self.0.push(format!("{pairs} interfaces for {} containers", known.addresses));
        }
        Ok(())
    }

    /// What is beside a running container's control groups belongs to other running containers.
    fn groups(&mut self, known: &Known) -> Result<()> {
        let Some(pid) = known.pids.first() else { return Ok(()) };
        let text = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
        for line in text.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (Some(names), Some(path)) = (fields.next(), fields.next()) else { continue };
            let Some(parent) = Path::new(path).parent().filter(|parent| *parent != Path::new("/"))
            else {
                continue;
            };
            let parent = parent.strip_prefix("/").unwrap_or(parent);
            for mount in group_mounts(names) {
                let dir = mount.join(parent);
                for name in names_of_dirs(&dir)? {
                    if is_ours(&name) && !known.running.contains(&name) {
                        self.0.push(format!("control group {}", dir.join(name).display()));
                    }
                }
            }
        }
        Ok(())
    }
}

/// Notes that this program's engine has a container of this id: other engines on the machine have their
/// groups in the same place.
pub(super) fn remember(id: &str) {
    if let Ok(mut seen) = seen().lock() {
        seen.insert(id.to_owned());
    }
}

/// Forgets them: an engine that failed a check may leave groups behind, which are not the next one's.
pub(super) fn forget_all() {
    if let Ok(mut seen) = seen().lock() {
        seen.clear();
    }
}

fn is_ours(id: &str) -> bool {
    seen().lock().is_ok_and(|seen| seen.contains(id))
}

fn seen() -> &'static std::sync::Mutex<BTreeSet<String>> {
    static SEEN: std::sync::Mutex<BTreeSet<String>> = std::sync::Mutex::new(BTreeSet::new());
    &SEEN
}

/// Where the hierarchy of these controllers is mounted, by the usual names.
fn group_mounts(names: &str) -> Vec<PathBuf> {
    let base = Path::new("/sys/fs/cgroup");
    match names {
        "" => vec![base.to_owned(), base.join("unified")],
        names => vec![base.join(names.trim_start_matches("name="))],
    }
}

fn names_of_dirs(dir: &Path) -> Result<Vec<String>> {
    Ok(names(dir)?.into_iter().filter(|name| dir.join(name).is_dir()).collect())
}

fn names(dir: &Path) -> Result<BTreeSet<String>> {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(error).with_context(|| dir.display().to_string()),
    };
    let mut names = BTreeSet::new();
    for entry in entries {
        names.insert(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names)
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
