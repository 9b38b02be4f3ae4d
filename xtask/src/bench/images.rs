//! `--images`: pulls, pushes and builds, in each engine.
//!
//! Each engine has a `docker-registry` of its own on loopback; all keep what they have in one
//! directory, so that every engine pulls the same bytes. Each round pulls another image, and nothing is
//! removed between them: a file system that still forgets the last one's files is slow to make new ones
//! (ext4 without a journal passes over the inodes of each for a minute). That needs some 2 GiB below
//! `/var/tmp` for each round with two engines.

use std::fs::File;
use std::io::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::engine::Engine;
use super::figures::Figures;
use super::{Options, start_engines, work};
use crate::interrupt::Interrupt;
use crate::lab::{Lab, Program};
use crate::{archive, host, ui};

const ADDRESS: &str = "127.0.0.1:5000";
/// The repository that is pulled.
const PULLED: &str = "127.0.0.1:5000/pulled";
/// The image that is pulled, and how large it is.
const LAYERS: usize = 10;
const BYTES: usize = 500 << 20;
/// What is built.
const BUILT: &str = "berth-bench-built:1";
/// How often a round does what takes milliseconds.
const SHORT: usize = 5;
/// How long a registry may take to come up.
const START: Duration = Duration::from_secs(20);

/// A registry in an engine's network, until this is dropped.
struct Registry(Child);

impl Drop for Registry {
    fn drop(&mut self) {
        if let Err(error) = self.0.kill().and_then(|()| self.0.wait()) {
            ui::line(&format!("a registry does not end: {error}"));
        }
    }
}

/// Measures, and prints one table.
pub(super) fn run(built: &Path, options: &Options, interrupt: &Interrupt) -> Result<()> {
    if !host::on_path("docker-registry") {
        bail!("--images needs docker-registry (package docker-registry)");
    }
    let engines = start_engines(built, options)?;
    for engine in &engines {
        ui::line(&format!("{}: {}", engine.name, engine.describe()?));
    }
    let store = TempDir::with_prefix_in("berth-bench-", "/var/tmp")?;
    let mut registries = Vec::new();
    for engine in &engines {
        registries.push(start(store.path(), engine)?);
    }
    ui::step("filling the registry");
    let filler = Lab::start("berth-filler", Program::Berth(built.join("berth")))?;
    let filler = Engine::own("filler", filler)?;
    registries.push(start(store.path(), &filler)?);
    for round in 0..=options.runs.long {
        interrupt.check()?;
        let seed = u64::try_from(round).unwrap_or_default();
        let image = archive::layered(&format!("{PULLED}:{round}"), LAYERS, BYTES, seed)?;
        filler.api.post_tar("/images/load?quiet=1", &image)?;
        push(&filler, PULLED, round)?;
    }
    let busybox = archive::busybox_root()?;
    for engine in &engines {
        let (repository, tag) = work::BUSYBOX.split_once(':').unwrap_or((work::BUSYBOX, "latest"));
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        engine.api.post_tar(&path, &busybox)?;
    }
    let context = context()?;
    rustix::fs::sync();
    let mut figures = Figures::new(engines.iter().map(|engine| engine.name.clone()).collect());
    ui::step("pulling, pushing, building");
    for round in 0..=options.runs.long {
        for (number, engine) in engines.iter().enumerate() {
            interrupt.check()?;
            for (what, time) in measure(engine, round, &context)? {
                if round > 0 {
                    figures.add_time(&what, number, time);
                }
            }
        }
    }
    ui::step("figures");
    figures.print();
    ui::line("");
    ui::line(&super::machine());
    drop(registries);
    Ok(())
}

/// Everything once; gives the times.
fn measure(engine: &Engine, round: usize, context: &[u8]) -> Result<Vec<(String, Duration)>> {
    let mut times = Vec::new();
    let mut timed = |what: String, act: &mut dyn FnMut() -> Result<Value>| -> Result<()> {
        let begun = Instant::now();
        act().with_context(|| format!("{what} in {}", engine.name))?;
        times.push((what, begun.elapsed()));
        Ok(())
    };
    let api = &engine.api;
    // What the engine before has left to be written is not this one's.
    rustix::fs::sync();
    timed(format!("pull of {LAYERS} layers, {} MiB", BYTES >> 20), &mut || {
        api.post(&format!("/images/create?fromImage={PULLED}&tag={round}"), &Value::Null)
    })?;
    let own = format!("{ADDRESS}/{}", engine.name);
    api.post(&format!("/images/{PULLED}:{round}/tag?repo={own}&tag={round}"), &Value::Null)?;
    push(engine, &own, round)?;
    for _ in 0..SHORT {
        timed("second push of it".to_owned(), &mut || push(engine, &own, round))?;
    }
    let build = |cached: bool| {
        let no_cache = u8::from(!cached);
        api.post_tar(&format!("/build?t={BUILT}&rm=1&nocache={no_cache}"), context)
    };
    timed("build of ten steps".to_owned(), &mut || build(false))?;
    for _ in 0..SHORT {
        timed("the same, cached".to_owned(), &mut || build(true))?;
    }
    api.delete(&format!("/images/{BUILT}"))?;
    Ok(times)
}

fn push(engine: &Engine, repository: &str, tag: usize) -> Result<Value> {
    engine.api.post(&format!("/images/{repository}/push?tag={tag}"), &json!({}))
}

/// Five files to copy and five commands to run, turn about.
fn context() -> Result<Vec<u8>> {
    let mut lines = vec![format!("FROM {}", work::BUSYBOX)];
    let mut tar = tar::Builder::new(Vec::new());
    let mut put = |name: &str, content: &[u8]| {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        tar.append_data(&mut header, name, content)
    };
    for number in 0..5 {
        let name = format!("file{number}");
        put(&name, &vec![b'x'; 100_000])?;
        lines.push(format!("COPY {name} /{name}"));
        lines.push(format!("RUN echo {number} > /made{number}"));
    }
    put("Dockerfile", lines.join("\n").as_bytes())?;
    Ok(tar.into_inner()?)
}

fn start(store: &Path, engine: &Engine) -> Result<Registry> {
    let config = store.join(format!("{}.yml", engine.name));
    let text = format!(
        "version: 0.1\nlog: {{ level: info }}\n\
         storage: {{ filesystem: {{ rootdirectory: {}/store }}, delete: {{ enabled: true }} }}\n\
         http: {{ addr: '{ADDRESS}' }}\n",
        store.display()
    );
    File::create_new(&config)?.write_all(text.as_bytes())?;
    let path = config.with_extension("log");
    let log = File::create_new(&path)?;
    let mut command = Command::new("nsenter");
    command.arg(format!("--net=/proc/{}/ns/net", engine.pid()?));
    command.args(["--", "docker-registry", "serve"]).arg(&config).stdin(Stdio::null());
    command.stdout(log.try_clone()?).stderr(log);
    let registry = Registry(command.spawn().context("cannot start docker-registry")?);
    let until = Instant::now() + START;
    loop {
        let said = std::fs::read_to_string(&path)?;
        if said.contains("listening on") {
            return Ok(registry);
        }
        if Instant::now() > until {
            bail!("docker-registry does not listen: {said}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}
