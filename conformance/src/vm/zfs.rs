//! Containers on ZFS datasets: what the kernel shows of them, and what is left of them.

use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::{Value, json};

use super::engine::{Engine, eventually};
use super::layers;
use crate::client::Request;

const POOL: &str = "berth";
/// What layers are below; the daemon's directories are on another file system.
const DATASET: &str = "berth/layers";
const CACHE: &str = "/etc/zfs/zpool.cache";

pub(super) const FLAGS: &[&str] =
    &["--storage-driver=zfs", "--storage-opt=zfs.fsname=berth/layers", "--live-restore"];

type Case = (&'static str, fn(&mut Engine) -> Result<()>);

pub(super) const CASES: &[Case] = &[
    ("zfs: docker info says what the pool is", info),
    ("zfs: a running container's dataset is mounted, an ended one's is not", life),
    ("zfs: changes are found, committed and run", layers::changes),
    ("zfs: a container is held to its size", size),
    ("zfs: a container outlives a killed daemon", layers::outlives),
    ("zfs: what is removed is given back", removal),
    ("zfs: a check finds nothing, a backup is refused by name", upkeep),
    ("zfs: a full dataset fails writes and nothing else, and removals empty it", full),
    ("zfs: a pool that is not imported after a start is", import),
];

/// A pool on the machine's second disk, gone when this is dropped.
#[derive(Debug)]
pub(super) struct Pool {
    device: String,
}

impl Pool {
    pub(super) fn create() -> Result<Self> {
        let disks = std::env::var("BERTH_VM_DISKS").unwrap_or_default();
        let disk = disks.split(':').nth(1).context("a machine with two disks")?;
        run("modprobe", &["loop"])?;
        // On a disk itself zpool makes partitions, for whose nodes it needs udev.
        let device = run("losetup", &["-f", "--show", disk])?.trim().to_owned();
        run("zpool", &["create", "-f", "-m", "none", POOL, &device])?;
        run("zfs", &["create", DATASET])?;
        Ok(Self { device })
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        for (program, words) in
            [("zpool", &["destroy", "-f", POOL][..]), ("losetup", &["-d", &self.device])]
        {
            if let Err(error) = run(program, words) {
                crate::ui::detail(&format!("{error:#}"));
            }
        }
    }
}

fn run(program: &str, words: &[&str]) -> Result<String> {
    let output = Command::new(program).args(words).output().with_context(|| program.to_owned())?;
    if !output.status.success() {
        bail!("{program} {words:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn info(engine: &mut Engine) -> Result<()> {
    let info = engine.api().get("/info")?;
    ensure!(info["Driver"] == "zfs", "driver {}", info["Driver"]);
    let status = info["DriverStatus"].to_string();
    let begin = "[[\"Zpool\",\"berth\"],[\"Zpool Health\",\"ONLINE\"],\
                 [\"Parent Dataset\",\"berth/layers\"],[\"Space Used By Parent\",\"";
    ensure!(status.starts_with(begin), "{status}");
    ensure!(status.ends_with("[\"Parent Quota\",\"no\"],[\"Compression\",\"off\"]]"), "{status}");
    Ok(())
}

fn life(engine: &mut Engine) -> Result<()> {
    let container = engine.run("sleep 1000", &json!({}))?;
    let inspected = engine.api().get(&container.path("/json"))?;
    let data = &inspected["GraphDriver"]["Data"];
    let (dataset, place) = (data["Dataset"].as_str(), data["Mountpoint"].as_str());
    let line = format!("{} {} zfs rw", dataset.context("one")?, place.context("one")?);
    let mounts = || std::fs::read_to_string("/proc/self/mounts");
    ensure!(mounts()?.contains(&line), "{line} is not in {}", mounts()?);
    container.post("/kill", Value::Null)?;
    container.wait()?;
    eventually("it is not mounted", || Ok(!mounts()?.contains(&line)))
}

fn size(engine: &mut Engine) -> Result<()> {
    let script = "dd if=/dev/zero of=/big bs=1M count=20 conv=fsync";
    let limit = json!({ "StorageOpt": { "size": "4M" } });
    let container = engine.run(script, &limit)?;
    ensure!(container.wait()? != 0, "it could write 20 MiB");
    ensure!(container.output()?.contains("Disk quota exceeded"), "{}", container.output()?);
    let config = json!({
        "Image": "vm", "Cmd": ["true"],
        "HostConfig": { "NetworkMode": "none", "StorageOpt": { "size": "4X" } },
    });
    let refused = engine.api().send(&Request::post("/containers/create", config))?;
    ensure!(refused.text().contains("invalid numeric suffix 'X'"), "{}", refused.text());
    Ok(())
}

fn removal(engine: &mut Engine) -> Result<()> {
    let is_clean = || Ok(!datasets()?.iter().any(|name| name.contains("removing")));
    eventually("what other cases removed is destroyed", is_clean)?;
    let before = datasets()?;
    let container = engine.run("echo x >/file", &json!({}))?;
    container.wait()?;
    ensure!(datasets()?.len() == before.len() + 2, "a container has two datasets");
    drop(container);
    eventually("nothing is left of it", || Ok(datasets()? == before))
}

fn upkeep(engine: &mut Engine) -> Result<()> {
    let container = engine.run("echo x >/file", &json!({}))?;
    container.wait()?;
    let told = engine.api().post("/berth/storage/check?deep=1", Value::Null)?.text();
    ensure!(told.contains("\"Findings\":0") && told.contains("\"Containers\":1"), "{told}");
    let dest = engine.data_root().with_extension("backup");
    let request =
        Request::post(format!("/berth/storage/backup?dest={}", dest.display()), Value::Null);
    let told = engine.api().send(&request)?.text();
    ensure!(told.contains("layers of the storage driver zfs cannot be copied"), "{told}");
    ensure!(!dest.try_exists()?, "{} stays", dest.display());
    Ok(())
}

/// How long a writer may try where there is no room.
const FULL: Duration = Duration::from_mins(2);

fn full(engine: &mut Engine) -> Result<()> {
    let quota = space_used()? + (16 << 20);
    run("zfs", &["set", &format!("quota={quota}"), DATASET])?;
    let other = engine.run("sleep 1000", &json!({}))?;
    let script = "dd if=/dev/zero of=/big bs=1M count=40 conv=fsync; echo dd: $?; sleep 1000";
    let greedy = engine.run(script, &json!({}))?;
    // Near its end ZFS lets a writer wait for what is written before, again and again.
    let begun = Instant::now();
    while !greedy.output()?.contains("dd: 1") {
        ensure!(begun.elapsed() < FULL, "the writer is not told: {:?}", greedy.output()?);
        std::thread::sleep(Duration::from_millis(200));
    }
    ensure!(other.state()?["Running"] == true, "{}", other.state()?);
    let config = json!({ "Image": "vm", "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
    let answer = engine.api().send(&Request::post("/containers/create", config))?;
    // There may be just enough for datasets that hold nothing yet.
    if !answer.is_success() {
        // The command's words, or the kernel's.
        let is_full = ["out of space", "quota exceeded"].map(|text| answer.text().contains(text));
        ensure!(is_full.contains(&true), "{}", answer.text());
    }
    engine.api().get("/containers/json?size=1")?;
    greedy.remove()?;
    for left in engine.api().get("/containers/json?all=1")?.as_array().context("a list")? {
        if left["State"] == "created" {
            let id = left["Id"].as_str().context("an id")?;
            engine.api().delete(&format!("/containers/{id}"))?;
        }
    }
    eventually("its space is given back", || Ok(space_used()? + (8 << 20) < quota))?;
    let container = engine.run("cat /bin/busybox >/copy && echo whole", &json!({}))?;
    ensure!(container.wait()? == 0, "{}", container.output()?);
    run("zfs", &["set", "quota=none", DATASET]).map(drop)
}

fn import(engine: &mut Engine) -> Result<()> {
    let container = engine.run("echo kept >/file", &json!({}))?;
    container.wait()?;
    let id = container.leave();
    engine.stop()?;
    // A machine that is started anew reads there which pools it had.
    let cache = std::fs::read(CACHE)?;
    run("zpool", &["export", POOL])?;
    std::io::Write::write_all(&mut std::fs::File::create(CACHE)?, &cache)?;
    engine.start_again()?;
    let container = engine.container(id);
    let found = engine.api().get(&container.path("/changes"))?.to_string();
    ensure!(found.contains("/file"), "{found}");
    drop(container);
    engine.stop()
}

fn space_used() -> Result<u64> {
    let used = run("zfs", &["get", "-H", "-p", "-o", "value", "used", DATASET])?;
    Ok(used.trim().parse()?)
}

fn datasets() -> Result<Vec<String>> {
    let list = run("zfs", &["list", "-H", "-r", "-o", "name", DATASET])?;
    Ok(list.lines().map(str::to_owned).collect())
}
