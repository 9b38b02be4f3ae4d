//! Containers on thin devices: what the kernel shows of them, and what is left of them.

use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::engine::{Engine, eventually};
use super::layers::{changes, outlives};
use super::refusals::Offer;
use crate::client::Request;

/// So small that a container can fill the pool.
pub(super) const FLAGS: &[&str] = &[
    "--storage-driver=devicemapper",
    "--storage-opt=dm.basesize=300M",
    "--storage-opt=dm.loopdatasize=256M",
    "--storage-opt=dm.loopmetadatasize=16M",
    "--metrics-addr=127.0.0.1:9323",
    "--live-restore",
];

type Case = (&'static str, fn(&mut Engine) -> Result<()>);

pub(super) const CASES: &[Case] = &[
    ("thin devices: docker info says what the pool is", info),
    ("thin devices: a running container's is mounted, an ended one's is gone", life),
    ("thin devices: changes are found, committed and run", changes),
    ("thin devices: a container outlives a killed daemon", outlives),
    ("thin devices: what is removed is given back", removal),
    ("thin devices: a check finds nothing, a backup is refused by name", upkeep),
    ("thin devices: a full pool fails writes and nothing else, and removals empty it", full),
    ("thin devices: an administrator sees, copies and removes devices, and adds room", manage),
    ("thin devices: a copy of everything, put back, has everything", restored),
    ("thin devices: the pool goes with the daemon and comes back", pool),
];

fn info(engine: &mut Engine) -> Result<()> {
    let info = engine.api().get("/info")?;
    ensure!(info["Driver"] == "devicemapper", "driver {}", info["Driver"]);
    let status = info["DriverStatus"].to_string();
    for words in ["-pool\"", "[\"Pool Blocksize\",\"65.54kB\"]", "[\"Backing Filesystem\",\"xfs\"]"]
    {
        ensure!(status.contains(words), "no {words} in {status}");
    }
    let warnings = info["Warnings"].to_string();
    for words in ["the devicemapper storage-driver is deprecated", "usage of loopback devices"] {
        ensure!(warnings.contains(words), "no {words} in {warnings}");
    }
    Ok(())
}

fn life(engine: &mut Engine) -> Result<()> {
    let container = engine.run("sleep 1000", &json!({}))?;
    let inspected = engine.api().get(&container.path("/json"))?;
    let name = inspected["GraphDriver"]["Data"]["DeviceName"].as_str().context("a device")?;
    let mounts = std::fs::read_to_string("/proc/self/mounts")?;
    let line = mounts.lines().find(|line| line.starts_with(&format!("/dev/mapper/{name} ")));
    let line = line.with_context(|| format!("{name} is not mounted:\n{mounts}"))?;
    ensure!(line.contains("/devicemapper/mnt/") && line.contains(" xfs "), "{line}");
    container.post("/kill", Value::Null)?;
    container.wait()?;
    eventually("its device is gone", || Ok(!devices()?.contains(&name.to_owned())))
}

fn removal(engine: &mut Engine) -> Result<()> {
    // After the first container of an image, what its containers begin as stays.
    engine.run("true", &json!({}))?.wait()?;
    eventually("what was removed before is deleted", || Ok(!removing(engine)?))?;
    let before = files(engine)?;
    let container = engine.run("echo x >/file", &json!({}))?;
    container.wait()?;
    ensure!(files(engine)? == before + 2, "a container has two devices");
    drop(container);
    eventually("nothing is left of it", || Ok(files(engine)? == before))?;
    eventually("only the pool is active", || Ok(devices()?.len() == 1))
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
    let refusal = "layers of the storage driver devicemapper cannot be copied";
    ensure!(told.contains(refusal), "{told}");
    for path in [dest.clone(), dest.with_extension("backup.partial")] {
        ensure!(!path.try_exists()?, "{} stays", path.display());
    }
    Ok(())
}

fn full(engine: &mut Engine) -> Result<()> {
    // Else writes wait for a minute before they fail.
    let patience = "/sys/module/dm_thin_pool/parameters/no_space_timeout";
    std::fs::OpenOptions::new().write(true).open(patience)?.write_all(b"5")?;
    let offer = Offer::make(engine)?;
    let other = engine.run("sleep 1000", &json!({}))?;
    let script = "dd if=/dev/zero of=/big bs=1M count=220 conv=fsync; echo dd: $?; sleep 1000";
    let greedy = engine.run(script, &json!({}))?;
    eventually("the pool is full", || {
        let info = engine.api().get("/info")?;
        Ok(info["DriverStatus"].to_string().contains("[\"Data Space Available\",\"0B\"]"))
    })?;
    let config = json!({ "Image": "vm", "Cmd": ["true"], "HostConfig": { "NetworkMode": "none" } });
    let refused = || engine.api().send(&Request::post("/containers/create", config.clone()));
    // While the writer waits, and after it was told.
    for _ in 0..2 {
        let answer = refused()?.text();
        ensure!(
            answer.contains("devmapper: Thin Pool has 0 free data blocks which is"),
            "{answer}"
        );
        let all = engine.api().get("/containers/json?size=1")?;
        ensure!(all.as_array().map_or(0, Vec::len) == 2, "{all}");
        engine.api().get(&greedy.path("/json?size=1"))?;
        let exec = other.exec(&["true"])?;
        let exec = format!("/exec/{}/json", exec["ID"].as_str().context("an id")?);
        eventually(
            "an exec beside it ends well",
            || Ok(engine.api().get(&exec)?["ExitCode"] == 0),
        )?;
        eventually("the writer is told", || Ok(greedy.output()?.contains("dd: 1")))?;
    }
    if let Some(offer) = offer {
        offer.is_refused(engine, "devmapper: Thin Pool has 0 free data blocks which is")?;
    }
    let until = std::time::UNIX_EPOCH.elapsed()?.as_secs() + 1;
    let daemon = "%7B%22type%22%3A%5B%22daemon%22%5D%7D";
    let told = Request::get(format!("/events?since=0&until={until}&filters={daemon}"));
    let told = engine.api().send(&told)?;
    ensure!(told.text().contains("\"thin-pool-full\""), "{}", told.text());
    let usage = &engine.api().get("/berth/storage/info")?["Pool"];
    ensure!(usage["Level"] == "full" && usage["Data"]["Room"] == 0, "{usage}");
    let metrics = metrics()?;
    let pool = usage["Name"].as_str().context("a name")?;
    for line in [
        format!("berth_storage_pool_level{{pool=\"{pool}\",level=\"full\"}} 1"),
        format!("berth_storage_pool_level{{pool=\"{pool}\",level=\"normal\"}} 0"),
        format!("berth_storage_pool_room_bytes{{pool=\"{pool}\",of=\"data\"}} 0"),
    ] {
        ensure!(metrics.lines().any(|one| one == line), "no {line} in\n{metrics}");
    }
    greedy.remove()?;
    eventually("there is room again", || Ok(refused()?.is_success()))?;
    let container = engine.run("cat /bin/busybox >/dev/null && echo whole >/file", &json!({}))?;
    ensure!(container.wait()? == 0, "{}", container.output()?);
    drop(container);
    for left in engine.api().get("/containers/json?all=1")?.as_array().context("a list")? {
        if left["State"] == "created" {
            let id = left["Id"].as_str().context("an id")?;
            engine.api().delete(&format!("/containers/{id}"))?;
        }
    }
    ensure!(other.state()?["Running"] == true, "{}", other.state()?);
    Ok(())
}

fn manage(engine: &mut Engine) -> Result<()> {
    let container = engine.run("echo kept >/file; sleep 1000", &json!({}))?;
    eventually("it has written", || {
        Ok(engine.api().get(&container.path("/changes"))?.to_string().contains("/file"))
    })?;
    let devices = engine.api().get("/berth/storage/devices")?;
    let id = container.path("").replace("/containers/", "");
    let own = devices.as_array().context("a list")?.iter().find(|device| {
        device["Owner"] == id.as_str() && !device["Id"].to_string().contains("-init")
    });
    let own = own.with_context(|| format!("no device of the container: {devices}"))?;
    let own = own["Id"].as_str().context("an id")?;
    let refused = engine.api().send(&Request::delete(format!("/berth/storage/devices/{own}")))?;
    ensure!(refused.status == 409, "{}: {}", refused.status, refused.text());
    engine.api().post(&format!("/berth/storage/devices/{own}/snapshot?name=copy"), Value::Null)?;
    let target = engine.data_root().with_extension("look");
    std::fs::create_dir_all(&target)?;
    let at = "/berth/storage/devices/snapshot-copy";
    engine.api().post(&format!("{at}/mount?target={}", target.display()), Value::Null)?;
    let read = std::fs::read_to_string(target.join("rootfs/file"));
    rustix::mount::unmount(&target, rustix::mount::UnmountFlags::empty())?;
    std::fs::remove_dir(&target)?;
    ensure!(read? == "kept\n");
    ensure!(engine.api().get(at)?["MappedSectors"].as_u64() > Some(0));
    engine.api().delete(at)?;
    let total = |pool: &Value| pool["Data"]["Total"].as_u64();
    let before = engine.api().get("/berth/storage/pool")?;
    let grown = engine.api().post("/berth/storage/extend?size=320M", Value::Null)?.json()?;
    ensure!(total(&grown) == Some(320 << 20) && total(&grown) > total(&before), "{before} {grown}");
    ensure!(container.state()?["Running"] == true, "{}", container.state()?);
    Ok(())
}

fn restored(engine: &mut Engine) -> Result<()> {
    let container = engine.run("echo kept >/file", &json!({}))?;
    container.wait()?;
    let container = container.leave();
    engine.stop()?;
    let root = engine.data_root().to_owned();
    let copy = root.with_extension("copy");
    copy_all(&root, &copy)?;
    for entry in std::fs::read_dir(&root)? {
        let path = entry?.path();
        if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) }?;
    }
    copy_all(&copy, &root)?;
    std::fs::remove_dir_all(&copy)?;
    engine.start_again()?;
    let container = engine.container(container);
    let found = engine.api().get(&container.path("/changes"))?.to_string();
    ensure!(found.contains("/file"), "{found}");
    let told = engine.api().post("/berth/storage/check?deep=1", Value::Null)?.text();
    ensure!(told.contains("\"Findings\":0"), "{told}");
    let second = engine.run("echo again", &json!({}))?;
    ensure!(second.wait()? == 0, "{}", second.output()?);
    Ok(())
}

/// Sparse files stay sparse.
fn copy_all(from: &Path, to: &Path) -> Result<()> {
    let mut copy = Command::new("cp");
    let done = copy.args(["-a", "--sparse=always"]).arg(from.join(".")).arg(to).output()?;
    ensure!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    Ok(())
}

fn pool(engine: &mut Engine) -> Result<()> {
    engine.stop()?;
    ensure!(devices()?.is_empty(), "{:?}", devices()?);
    engine.start_again()?;
    let container = engine.run("echo again", &json!({}))?;
    container.wait()?;
    ensure!(container.output()? == "again\n", "{}", container.output()?);
    drop(container);
    engine.stop()
}

/// What the daemon tells those who watch it.
fn metrics() -> Result<String> {
    let mut stream = std::net::TcpStream::connect("127.0.0.1:9323")?;
    stream.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    ensure!(answer.contains("\r\nContent-Type: application/openmetrics-text; "), "{answer}");
    Ok(answer)
}

fn files(engine: &Engine) -> Result<usize> {
    Ok(std::fs::read_dir(engine.data_root().join("devicemapper/metadata"))?.count())
}

fn removing(engine: &Engine) -> Result<bool> {
    let mut names = Vec::new();
    for entry in std::fs::read_dir(engine.data_root().join("devicemapper/metadata"))? {
        names.push(entry?.file_name().to_string_lossy().into_owned());
    }
    Ok(names.iter().any(|name| name.starts_with(".berth-removing")))
}

/// The device-mapper's devices.
fn devices() -> Result<Vec<String>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/sys/block")? {
        if let Ok(name) = std::fs::read_to_string(entry?.path().join("dm/name")) {
            found.push(name.trim().to_owned());
        }
    }
    Ok(found)
}
