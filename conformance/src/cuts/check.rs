//! Daemons on disks as cuts leave them.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow, bail, ensure};
use serde_json::{Value, json};
use testkit::writelog::WriteLog;

use super::expected::{Expected, Kind};
use super::laps::Laps;
use super::points::{Point, Record};
use super::{DISK_BYTES, Lab, NAMELESS, Options, list, succeed, zpool};
use crate::client::{Client, Request};
use crate::daemon::BerthDaemon;
use crate::kill::fixture;
use crate::kill::{disk, lab};
use crate::ui;

/// How long removed content may take to be gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// How many failed points are told in full.
const TOLD: usize = 3;

/// Checks the points of each lab and reports a line for each. Labs without devices are checked side by
/// side.
pub(super) fn run(options: &Options) -> Result<()> {
    let (alone, together): (Vec<&Lab>, Vec<&Lab>) =
        options.labs.iter().partition(|lab| lab.has_devices());
    let mut failed = std::thread::scope(|scope| {
        let works: Vec<_> = together
            .into_iter()
            .map(|lab| (lab, scope.spawn(move || check_all(lab, options))))
            .collect();
        works.into_iter().fold(0, |failed, (lab, work)| {
            let done = work.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            failed + usize::from(!report(lab, done))
        })
    });
    for lab in alone {
        if let Some(need) = lab.missing() {
            ui::line(&format!("skipped cuts {}: {need}", lab.name()));
            continue;
        }
        failed += usize::from(!report(lab, check_all(lab, options)));
    }
    ensure!(failed == 0, "{failed} failed");
    Ok(())
}

/// Says how a lab came off; gives whether it did well.
fn report(lab: &Lab, done: Result<String>) -> bool {
    match done {
        Ok(summary) => {
            ui::line(&format!("ok cuts {}", lab.name()));
            ui::detail(&format!("{}: {summary}", lab.name()));
            true
        }
        Err(error) => {
            ui::line(&format!("FAILED cuts {}: {error:#}", lab.name()));
            false
        }
    }
}

fn check_all(lab: &Lab, options: &Options) -> Result<String> {
    let begun = Instant::now();
    let shown = lab.path.display();
    let log = WriteLog::open(&lab.path).with_context(|| format!("cannot read {shown}"))?;
    let record = Record::open(log)?;
    let points =
        options.at.map_or_else(|| record.choose(options.points, options.seed), |at| vec![at]);
    let mut bad = Vec::new();
    let mut laps = Laps::new();
    for point in &points {
        let expected = record.expected(*point)?;
        let Err(error) = check(lab, &record, *point, expected, &mut laps) else { continue };
        if bad.len() < TOLD {
            let step = expected.step();
            ui::detail(&format!(
                "{}: at {point}, after {step:?}: {error:#}\n  again: conformance cuts check --at \
                 {point} {shown}={}",
                lab.name(),
                lab.name()
            ));
        }
        bad.push(format!("{point} ({error})"));
    }
    let (entries, flushes) = record.log().counts();
    let seconds = begun.elapsed().as_secs_f32();
    let summary = format!(
        "{} of {} points (seed {}) among {entries} writes, {flushes} flushes and {} acknowledged \
         operations, {seconds:.1} s: {laps}",
        points.len() - bad.len(),
        points.len(),
        options.seed,
        record.acknowledged(),
    );
    if bad.is_empty() {
        return Ok(summary);
    }
    bad.truncate(TOLD);
    bail!("{summary}; at {}", bad.join(", "))
}

/// One cut: the disk is made, and a daemon started on it, twice.
fn check(
    lab: &Lab,
    record: &Record,
    point: Point,
    expected: &Expected,
    laps: &mut Laps,
) -> Result<()> {
    // Declared first: where this fails, the daemon ends before its disk does.
    let attached;
    laps.begin();
    let mut daemon = BerthDaemon::prepare(&lab.path_name())?;
    let image = Image::make(daemon.data_root(), record, point)?;
    laps.end("replay");
    attached = lab.attach(&image.0, daemon.data_root())?;
    laps.end("attach");
    let flags = lab.flags();
    daemon.set_flags(&flags.iter().map(String::as_str).collect::<Vec<_>>());
    daemon.restart().context("the first start")?;
    laps.end("start");
    let api = Client::new(&daemon.socket());
    let seen = inspect(&daemon, &api, expected, laps)
        .map_err(|error| anyhow!(daemon.end_of_log()).context(format!("{error:#}")))?;
    daemon.kill9()?;
    daemon.restart().context("the second start")?;
    laps.end("start again");
    // Where each look at a layer takes a device, once must do.
    let again = if lab.has_devices() {
        lists(&daemon, &api)
    } else {
        inspect(&daemon, &api, expected, laps)
    };
    lab::same(&seen, &again.context("the second time")?)
        .context("the second start changed something")?;
    laps.end("lists");
    daemon.stop()?;
    laps.end("stop");
    check_pool(lab, daemon.data_root())?;
    attached.detach()?;
    laps.end("pool");
    Ok(())
}

/// Once a daemon has let go of its pool: nothing in it is broken, and no device has no record.
fn check_pool(lab: &Lab, data_root: &Path) -> Result<()> {
    if lab.has_zpool() {
        return zpool::check().context("the pool is broken");
    }
    let Some(metadata) = lab.pool_metadata(data_root) else { return Ok(()) };
    succeed(Command::new("thin_check").arg("-q").arg(&metadata)).context("the pool is broken")?;
    let listed =
        Command::new("thin_ls").args(["--no-headers", "-o", "DEV"]).arg(&metadata).output()?;
    ensure!(listed.status.success(), "thin_ls: {}", String::from_utf8_lossy(&listed.stderr));
    let listed = String::from_utf8_lossy(&listed.stdout);
    let devices: BTreeSet<u64> =
        listed.split_whitespace().map(str::parse).collect::<Result<_, _>>().context("thin_ls")?;
    let mut recorded = BTreeSet::new();
    for entry in std::fs::read_dir(data_root.join("devicemapper/metadata"))? {
        let record: Value = serde_json::from_slice(&std::fs::read(entry?.path())?)?;
        if record["size"].is_u64() {
            recorded.extend(record["device_id"].as_u64());
        }
    }
    ensure!(devices == recorded, "the pool has devices {devices:?}, and files for {recorded:?}");
    Ok(())
}

/// A disk in a file, gone with this value.
struct Image(PathBuf);

impl Image {
    fn make(data_root: &Path, record: &Record, point: Point) -> Result<Self> {
        let name = data_root.file_name().context("a data root has a name")?;
        let image = Self(Path::new("/var/tmp").join(name).with_extension("disk"));
        let file = File::options().create_new(true).write(true).open(&image.0)?;
        file.set_len(DISK_BYTES)?;
        record.log().replay(point.entries, point.seed, &file)?;
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_file(&self.0) {
            ui::detail(&format!("cannot remove {}: {error}", self.0.display()));
        }
    }
}

/// Everything is as it must be; gives all that there is, as lists have it.
fn inspect(
    daemon: &BerthDaemon,
    api: &Client,
    expected: &Expected,
    laps: &mut Laps,
) -> Result<Value> {
    images(api, expected)?;
    laps.end("images");
    containers(api, expected)?;
    laps.end("containers");
    check_storage(api)?;
    laps.end("storage check");
    let all = lists(daemon, api)?;
    laps.end("lists");
    Ok(all)
}

/// Nothing is there that is not listed; gives what is.
fn lists(daemon: &BerthDaemon, api: &Client) -> Result<Value> {
    let images = api.get("/images/json?all=1")?;
    let containers = api.get("/containers/json?all=1")?;
    let begun = Instant::now();
    loop {
        let strangers = disk::strangers(daemon, api)?;
        if strangers.is_empty() {
            break;
        }
        ensure!(begun.elapsed() < PATIENCE, "left behind: {}", strangers.join(", "));
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(json!({ "images": images, "containers": containers }))
}

/// Every layer has its content by its digest, and the driver has none besides.
fn check_storage(api: &Client) -> Result<()> {
    let answer = api.expect(&Request::post("/berth/storage/check?deep=1", Value::Null))?;
    let mut checked = false;
    for line in answer.text().lines() {
        let message: Value = serde_json::from_str(line).with_context(|| line.to_owned())?;
        let finding = &message["aux"]["Finding"];
        ensure!(finding.is_null(), "storage check: {finding}");
        checked |= message["aux"]["Checked"]["Findings"] == 0;
    }
    ensure!(checked, "storage check did not come to its end: {}", answer.text());
    Ok(())
}

/// Those that must be there are, as they were; nothing else is but what may be.
fn images(api: &Client, expected: &Expected) -> Result<()> {
    let all = api.get("/images/json?all=1")?;
    let mut names = BTreeSet::new();
    for image in list(&all) {
        let tags = list(&image["RepoTags"]).filter_map(Value::as_str);
        let tags: Vec<&str> = tags.filter(|tag| *tag != NAMELESS).collect();
        let id = image["Id"].as_str().unwrap_or_default();
        if tags.is_empty() {
            names.insert(id.to_owned());
        }
        names.extend(tags.into_iter().map(str::to_owned));
    }
    let mut found = Vec::new();
    for (name, facts) in expected.certain(Kind::Images) {
        ensure!(names.remove(name), "image {name} is lost");
        found.push((name.as_str(), facts));
    }
    for (name, facts) in expected.possible(Kind::Images) {
        // One that is losing its name.
        let nameless = facts["id"].as_str().filter(|id| names.remove(*id));
        if names.remove(name) || nameless.is_some() {
            found.push((nameless.unwrap_or(name), facts));
        }
    }
    ensure!(names.is_empty(), "images {names:?} are there");
    check_images(api, &found)
}

/// Each by name and by id, and by every byte of its layers; those that images share are read once.
fn check_images(api: &Client, images: &[(&str, &Value)]) -> Result<()> {
    if images.is_empty() {
        return Ok(());
    }
    let names: Vec<String> = images.iter().map(|(name, _)| format!("names={name}")).collect();
    let archive = api.bytes(&format!("/images/get?{}", names.join("&")))?;
    let saved = fixture::read_all_saved(&archive)?;
    for (name, facts) in images {
        let shown = api.get(&format!("/images/{name}/json"))?;
        let layers = saved.get(shown["Id"].as_str().unwrap_or_default());
        let layers = layers.with_context(|| format!("image {name} was not saved: {saved:?}"))?;
        ensure!(shown["RootFS"]["Layers"] == json!(layers), "image {name} was saved as {layers:?}");
        let found = json!({ "id": shown["Id"], "layers": layers });
        ensure!(facts.is_null() || **facts == found, "image {name} is {found}, not {facts}");
    }
    Ok(())
}

fn containers(api: &Client, expected: &Expected) -> Result<()> {
    let all = api.get("/containers/json?all=1")?;
    let mut names = BTreeSet::new();
    for container in list(&all) {
        let name = container["Names"][0].as_str().context("a container has a name")?;
        names.insert(name.trim_start_matches('/').to_owned());
    }
    for (name, facts) in expected.certain(Kind::Containers) {
        ensure!(names.remove(name), "container {name} is lost");
        check_container(api, name, facts).with_context(|| format!("container {name}"))?;
    }
    for (name, facts) in expected.possible(Kind::Containers) {
        if names.remove(name) {
            check_container(api, name, facts).with_context(|| format!("container {name}"))?;
        }
    }
    ensure!(names.is_empty(), "containers {names:?} are there");
    Ok(())
}

/// It can be looked at, and shows what its image has.
fn check_container(api: &Client, name: &str, facts: &Value) -> Result<()> {
    let shown = api.get(&format!("/containers/{name}/json"))?;
    ensure!(facts.is_null() || shown["Id"] == facts["id"], "it is {}, not {facts}", shown["Id"]);
    api.get(&format!("/containers/{name}/changes")).context("its changes")?;
    let mut files = fixture::digests(&api.bytes(&format!("/containers/{name}/export"))?)?;
    let content = files.remove(fixture::CONTENT).context("its image's content")?;
    ensure!(facts.is_null() || facts["content"] == content, "its image's content has changed");
    for file in ["etc/hosts", "etc/hostname", "etc/resolv.conf", "dev/console", ".dockerenv"] {
        ensure!(files.contains_key(file), "its mount point {file} is not there");
    }
    Ok(())
}
