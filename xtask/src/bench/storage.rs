//! `--storage DRIVER[/FS]`: what a storage driver does, in each engine.
//!
//! Every engine is started anew with the driver, on a file system of that kind in a file, or where
//! `/var/lib` is.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};
use testkit::LoopFs;

use super::engine::Engine;
use super::figures::Figures;
use super::{Options, work};
use crate::interrupt::Interrupt;
use crate::lab::{Lab, Place, Program};
use crate::{archive, host, ui};

/// What the file systems made here hold at most; they are sparse.
const FS_BYTES: u64 = 8 << 30;
/// Files of the image of which a container changes a few.
const FILES: usize = 20_000;
/// After it, nothing is left of what was removed.
const SETTLED: Duration = Duration::from_secs(3);
/// The layer that is committed.
const COMMITTED: usize = 64 << 20;
/// The image with many files.
const MANY: &str = "berth-bench-files:1";
/// What is committed.
const MADE: &str = "berth-bench-made:1";

/// A driver, on the file system of a kind.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    driver: String,
    kind: Option<String>,
}

/// Archives, made once.
struct Archives {
    layered: Vec<u8>,
    files: Vec<u8>,
    few: Vec<u8>,
    large: Vec<u8>,
}

impl Spec {
    /// `overlay2` or `btrfs/btrfs`.
    pub(super) fn parse(text: &str) -> Self {
        let (driver, kind) = text.split_once('/').map_or((text, None), |(a, b)| (a, Some(b)));
        Self { driver: driver.to_owned(), kind: kind.map(str::to_owned) }
    }

    fn name(&self) -> String {
        self.kind
            .as_ref()
            .map_or_else(|| self.driver.clone(), |kind| format!("{}/{kind}", self.driver))
    }
}

/// Measures each driver, and prints one table.
pub(super) fn run(built: &Path, options: &Options, interrupt: &Interrupt) -> Result<()> {
    let archives = Archives {
        layered: archive::layered(work::LAYERED, work::LAYERS, work::LAYERED_BYTES, 0)?,
        files: archive::files(FILES, 100)?,
        few: archive::files(3, 200)?,
        large: archive::files(1, COMMITTED)?,
    };
    let mut names = vec!["berth".to_owned()];
    if host::on_path("dockerd") && !options.without_dockerd {
        names.push("dockerd".to_owned());
    }
    let mut figures = Figures::new(names.clone());
    let mut done = Ok(());
    for spec in &options.storage {
        ui::step(&spec.name());
        done = measure(spec, built, &names, &archives, &mut figures, options.runs.long, interrupt);
        if let Err(error) = &done {
            ui::line(&format!("{}: {error:#}", spec.name()));
            if interrupt.check().is_err() {
                break;
            }
        }
    }
    ui::step("figures");
    figures.print();
    ui::line("");
    ui::line(&super::machine());
    done
}

fn measure(
    spec: &Spec,
    built: &Path,
    names: &[String],
    archives: &Archives,
    figures: &mut Figures,
    times: usize,
    interrupt: &Interrupt,
) -> Result<()> {
    let fs = spec.kind.as_ref().map(|kind| LoopFs::sized(kind, FS_BYTES)).transpose();
    let fs = fs.map_err(|need| anyhow::anyhow!("this machine has no {need}"))?;
    let below = fs.as_ref().map_or_else(|| PathBuf::from("/var/lib"), LoopFs::path);
    let flag = format!("--storage-driver={}", spec.driver);
    let mut engines = Vec::new();
    for name in names {
        let program = match name.as_str() {
            "berth" => Program::Berth(built.join("berth")),
            _ => Program::Dockerd,
        };
        let place = Place { below: &below, flags: std::slice::from_ref(&flag) };
        let lab = Lab::start_at(&format!("{name}-bench"), program, &place);
        engines.push(Engine::own(name, lab.with_context(|| name.clone())?)?);
    }
    for engine in &engines {
        ui::line(&format!("{}: {}", engine.name, engine.describe()?));
        let (repository, tag) = MANY.split_once(':').unwrap_or((MANY, "latest"));
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        engine.api.post_tar(&path, &archives.files)?;
    }
    // What is unpacked while the clock runs must not wait for what was unpacked before.
    rustix::fs::sync();
    for round in 0..=times {
        for (number, engine) in engines.iter().enumerate() {
            interrupt.check()?;
            for (what, time) in work(engine, archives)? {
                if round > 0 {
                    figures.add_time(&format!("{}: {what}", spec.name()), number, time);
                }
            }
        }
    }
    drop(engines);
    Ok(())
}

/// Everything once; gives the times.
fn work(engine: &Engine, archives: &Archives) -> Result<Vec<(String, Duration)>> {
    let mut times = Vec::new();
    let mut timed = |what: String, act: &mut dyn FnMut() -> Result<Value>| -> Result<Value> {
        let begun = Instant::now();
        let done = act().with_context(|| format!("{what} in {}", engine.name))?;
        times.push((what, begun.elapsed()));
        Ok(done)
    };
    let api = &engine.api;
    timed(format!("load of {} layers", work::LAYERS), &mut || {
        api.post_tar("/images/load?quiet=1", &archives.layered)
    })?;
    timed("rmi of it".to_owned(), &mut || api.delete(&format!("/images/{}", work::LAYERED)))?;
    let create = json!({ "Image": MANY, "Cmd": ["true"] });
    timed("create and rm".to_owned(), &mut || {
        let made = api.post("/containers/create", &create)?;
        api.delete(&format!("/containers/{}", id_of(&made)?))
    })?;
    let container = id_of(&api.post("/containers/create", &create)?)?;
    api.put_tar(&format!("/containers/{container}/archive?path=/"), &archives.few)?;
    // What was removed above is deleted by now, in an engine that does so in the background.
    rustix::fs::sync();
    std::thread::sleep(SETTLED);
    timed(format!("diff, {FILES} files unchanged"), &mut || {
        api.get(&format!("/containers/{container}/changes"))
    })?;
    api.put_tar(&format!("/containers/{container}/archive?path=/"), &archives.large)?;
    let (repository, tag) = MADE.split_once(':').unwrap_or((MADE, "latest"));
    let commit = format!("/commit?container={container}&repo={repository}&tag={tag}");
    timed(format!("commit of {} MiB", COMMITTED >> 20), &mut || api.post(&commit, &json!({})))?;
    api.delete(&format!("/containers/{container}"))?;
    api.delete(&format!("/images/{MADE}"))?;
    Ok(times)
}

fn id_of(made: &Value) -> Result<String> {
    Ok(made["Id"].as_str().context("create gives an id")?.to_owned())
}
