//! Containers on aufs: what the kernel shows of them, and what is left of them.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};
use serde_json::{Value, json};

use super::engine::{Engine, eventually};
use super::layers::{changes, outlives};

pub(super) const FLAGS: &[&str] = &["--storage-driver=aufs", "--live-restore"];

type Case = (&'static str, fn(&mut Engine) -> Result<()>);

pub(super) const CASES: &[Case] = &[
    ("aufs: docker info has Docker's lines", info),
    ("aufs: a running container's layers are branches, an ended one is not mounted", life),
    ("aufs: what is deleted stays deleted in images of it", whiteouts),
    ("aufs: changes are found, committed and run", changes),
    ("aufs: a container outlives a killed daemon", outlives),
    ("aufs: nothing is left of what is removed", removal),
    ("aufs: a check finds nothing, a backup is made", upkeep),
];

fn info(engine: &mut Engine) -> Result<()> {
    let info = engine.api().get("/info")?;
    ensure!(info["Driver"] == "aufs", "driver {}", info["Driver"]);
    let home = engine.data_root().join("aufs");
    let expected = json!([
        ["Root Dir", home],
        ["Backing Filesystem", "extfs"],
        ["Dirs", "1"],
        ["Dirperm1 Supported", "true"],
    ]);
    ensure!(info["DriverStatus"] == expected, "{}", info["DriverStatus"]);
    let warnings = info["Warnings"].to_string();
    ensure!(warnings.contains("the aufs storage-driver is deprecated"), "{warnings}");
    Ok(())
}

fn life(engine: &mut Engine) -> Result<()> {
    let container = engine.run("sleep 1000", &json!({}))?;
    let inspected = engine.api().get(&container.path("/json"))?;
    ensure!(inspected["GraphDriver"]["Data"].is_null(), "{}", inspected["GraphDriver"]);
    let points = mounts(engine)?;
    ensure!(points.len() == 1, "{points:?}");
    let layer = Path::new(&points[0]).file_name().context("a layer")?;
    let layers = std::fs::read_to_string(engine.data_root().join("aufs/layers").join(layer))?;
    // The init layer, and the image's one.
    ensure!(layers.lines().count() == 2, "{layers}");
    container.post("/kill", Value::Null)?;
    container.wait()?;
    eventually("it is not mounted", || Ok(mounts(engine)?.is_empty()))?;
    ensure!(Path::new(&points[0]).is_dir(), "the mount point stays");
    Ok(())
}

fn whiteouts(engine: &mut Engine) -> Result<()> {
    let script = "mkdir -p /d/sub; echo old >/d/sub/f; echo old >/g";
    let first = engine.run(script, &json!({}))?;
    ensure!(first.wait()? == 0, "{}", first.output()?);
    commit(engine, &first.path(""), "one")?;
    let run = |image: &str, script: &str| {
        let words = ["sh", "-c", script];
        engine.run_config(&json!({
            "Image": image, "Cmd": words, "Tty": true, "HostConfig": { "NetworkMode": "none" },
        }))
    };
    let second = run("one", "rm -r /d /g; mkdir /d; echo new >/d/n")?;
    ensure!(second.wait()? == 0, "{}", second.output()?);
    let found = engine.api().get(&second.path("/changes"))?.to_string();
    for path in ["/d/n", "/d/sub", "/g"] {
        ensure!(found.contains(&format!("\"{path}\"")), "no {path} in {found}");
    }
    ensure!(!found.contains(".wh."), "{found}");
    commit(engine, &second.path(""), "two")?;
    let third = run("two", "find /d /g")?;
    third.wait()?;
    let output = third.output()?;
    ensure!(output == "/d\n/d/n\nfind: /g: No such file or directory\n", "{output}");
    drop((first, second, third));
    for image in ["two", "one"] {
        engine.api().delete(&format!("/images/{image}"))?;
    }
    Ok(())
}

fn commit(engine: &Engine, container: &str, name: &str) -> Result<()> {
    let id = container.trim_start_matches("/containers/");
    engine.api().post(&format!("/commit?container={id}&repo={name}"), json!({})).map(drop)
}

fn removal(engine: &mut Engine) -> Result<()> {
    let count = |engine: &Engine| -> Result<Vec<usize>> {
        let home = engine.data_root().join("aufs");
        ["diff", "layers", "mnt", "committed"]
            .iter()
            .map(|dir| {
                let names = std::fs::read_dir(home.join(dir))?;
                let names = names.collect::<Result<Vec<_>, _>>()?;
                let own = |name: &str| !name.starts_with(".berth-reserve");
                Ok(names.iter().filter(|entry| own(&entry.file_name().to_string_lossy())).count())
            })
            .collect()
    };
    eventually("only the image is left of other cases", || Ok(count(engine)? == [1; 4]))?;
    let container = engine.run("echo x >/file", &json!({}))?;
    container.wait()?;
    ensure!(count(engine)? == [3, 3, 3, 2], "{:?}", count(engine)?);
    drop(container);
    eventually("nothing is left of it", || Ok(count(engine)? == [1; 4]))
}

fn upkeep(engine: &mut Engine) -> Result<()> {
    let container = engine.run("rm /bin/cat; echo x >/file", &json!({}))?;
    container.wait()?;
    let told = engine.api().post("/berth/storage/check?deep=1", Value::Null)?.text();
    ensure!(told.contains("\"Findings\":0") && told.contains("\"Containers\":1"), "{told}");
    let dest = engine.data_root().with_extension("backup");
    let path = format!("/berth/storage/backup?dest={}", dest.display());
    let told = engine.api().post(&path, Value::Null)?.text();
    let layer = std::fs::read_dir(dest.join("aufs/diff"))
        .with_context(|| told.clone())?
        .filter_map(|entry| Some(entry.ok()?.path()))
        .find(|path| path.join("file").is_file());
    let layer = layer.context("the container's layer is in the backup")?;
    ensure!(layer.join("bin/.wh.cat").is_file(), "{told}");
    let name = layer.file_name().context("a layer")?;
    ensure!(
        dest.join("aufs/layers").join(name).is_file() && dest.join("aufs/mnt").join(name).is_dir()
    );
    Ok(std::fs::remove_dir_all(&dest)?)
}

/// Where aufs is mounted for the daemon.
fn mounts(engine: &Engine) -> Result<Vec<String>> {
    let all = std::fs::read_to_string("/proc/self/mounts")?;
    let home = engine.data_root().display().to_string();
    let points = all.lines().filter_map(|line| {
        let mut words = line.split(' ');
        let (point, kind) = (words.nth(1)?, words.next()?);
        (kind == "aufs" && point.starts_with(&home)).then(|| point.to_owned())
    });
    Ok(points.collect())
}
