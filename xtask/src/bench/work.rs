//! What the engines do while the clock runs.

use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::engine::Engine;
use super::figures::{Figures, Unit};
use super::{Runs, memory};
use crate::interrupt::Interrupt;
use crate::ui;

/// The image that containers are made of.
pub(super) const BUSYBOX: &str = "berth-bench-busybox:1";
/// The image that is loaded and removed.
pub(super) const LAYERED: &str = "berth-bench-layers:1";
/// Its layers.
pub(super) const LAYERS: usize = 8;
/// Its size.
pub(super) const LAYERED_BYTES: usize = 110_000_000;
/// Containers that run at once when their watchers are weighed.
const RUNNING: usize = 50;
/// Containers in the short list, and in a prune.
const FEW: usize = 100;

/// The archives, made once.
pub(super) struct Images {
    pub(super) busybox: Vec<u8>,
    pub(super) layered: Vec<u8>,
}

/// One run of everything.
pub(super) struct Bench<'a> {
    pub(super) runs: Runs,
    pub(super) images: Images,
    pub(super) interrupt: Interrupt,
    pub(super) figures: &'a mut Figures,
    pub(super) engines: &'a mut Vec<Engine>,
}

impl Bench<'_> {
    pub(super) fn run(mut self) -> Result<()> {
        ui::step("the image");
        for engine in self.engines.iter() {
            let (name, tag) = BUSYBOX.split_once(':').unwrap_or((BUSYBOX, "latest"));
            let path = format!("/images/create?fromSrc=-&repo={name}&tag={tag}");
            engine.api.post_tar(&path, &self.images.busybox)?;
        }
        self.daemons("daemon memory, at rest (PSS)")?;
        self.running_containers()?;
        self.images()?;
        self.few()?;
        self.many()?;
        self.watchers()?;
        self.daemons("daemon memory, after all of it (PSS)")
    }

    /// Does `work` in each engine in turn, `times` over, and once before without looking at the clock.
    fn turn_about(
        &mut self,
        what: &str,
        times: usize,
        mut work: impl FnMut(&Engine) -> Result<Duration>,
    ) -> Result<()> {
        ui::line(what);
        for round in 0..=times {
            for (number, engine) in self.engines.iter().enumerate() {
                self.interrupt.check()?;
                let time = work(engine).with_context(|| format!("{what} in {}", engine.name))?;
                if round > 0 {
                    self.figures.add_time(what, number, time);
                }
            }
        }
        Ok(())
    }

    fn running_containers(&mut self) -> Result<()> {
        ui::step("containers");
        let times = self.runs.short;
        self.turn_about("run, wait, remove (no network)", times, |engine| {
            run_to_end(engine, "none")
        })?;
        let bridge = "run, wait, remove (bridge)";
        if let Some(without) = self.engines.iter().find(|engine| !engine.has_bridge()) {
            let why = format!("not measured, {} has no bridge here", without.name);
            self.figures.skip(bridge, &why);
        } else {
            self.turn_about(bridge, times, |engine| run_to_end(engine, "bridge"))?;
        }
        let mut hosts = Vec::new();
        for engine in self.engines.iter() {
            let id = engine.create(&["sleep", "3600"], "none")?;
            engine.start(&id)?;
            hosts.push((engine.name.clone(), id));
        }
        self.turn_about("exec", times, |engine| {
            let host = hosts.iter().find(|(name, _)| *name == engine.name);
            exec(engine, &host.context("a container to work in")?.1)
        })?;
        for engine in self.engines.iter() {
            for (_, id) in hosts.iter().filter(|(name, _)| *name == engine.name) {
                engine.remove(id)?;
            }
        }
        self.turn_about("create", times, |engine| {
            let begun = Instant::now();
            let id = engine.create(&["true"], "none")?;
            let took = begun.elapsed();
            engine.remove(&id)?;
            Ok(took)
        })
    }

    fn images(&mut self) -> Result<()> {
        ui::step("images");
        let tar = std::mem::take(&mut self.images.layered);
        let load = format!("load of {LAYERS} layers, {} MB", LAYERED_BYTES / 1_000_000);
        let rmi = "rmi of it";
        let times = self.runs.long;
        ui::line(&load);
        ui::line(rmi);
        for round in 0..=times {
            for (number, engine) in self.engines.iter().enumerate() {
                self.interrupt.check()?;
                let begun = Instant::now();
                engine.api.post_tar("/images/load?quiet=1", &tar)?;
                let loaded = begun.elapsed();
                let begun = Instant::now();
                engine.api.delete(&format!("/images/{LAYERED}"))?;
                let removed = begun.elapsed();
                if round > 0 {
                    self.figures.add_time(&load, number, loaded);
                    self.figures.add_time(rmi, number, removed);
                }
            }
        }
        Ok(())
    }

    fn few(&mut self) -> Result<()> {
        ui::step(&format!("{FEW} containers"));
        self.fill(FEW)?;
        self.lists(FEW)?;
        let times = self.runs.long;
        self.turn_about(&format!("prune of {FEW}"), times, |engine| {
            let missing = FEW.saturating_sub(engine.containers()?.len());
            for _ in 0..missing {
                engine.create(&["true"], "none")?;
            }
            let begun = Instant::now();
            engine.prune()?;
            Ok(begun.elapsed())
        })
    }

    fn many(&mut self) -> Result<()> {
        let many = self.runs.many;
        ui::step(&format!("{many} containers"));
        self.fill(many)?;
        self.lists(many)?;
        let what = format!("start of the daemon with {many}");
        ui::line(&what);
        for _ in 0..self.runs.long.min(3) {
            for (number, engine) in self.engines.iter_mut().enumerate() {
                self.interrupt.check()?;
                if let Some(time) = engine.restart()? {
                    self.figures.add_time(&what, number, time);
                }
            }
        }
        self.engines.iter().try_for_each(Engine::prune)
    }

    /// Creates containers until there are `count`.
    fn fill(&mut self, count: usize) -> Result<()> {
        ui::line("creating them");
        for engine in self.engines.iter() {
            let there = engine.containers()?.len();
            for _ in there..count {
                self.interrupt.check()?;
                engine.create(&["true"], "none")?;
            }
        }
        Ok(())
    }

    fn lists(&mut self, count: usize) -> Result<()> {
        let times = self.runs.short;
        let mut timed_get = |what: &str, path: &str| {
            self.turn_about(&format!("{what} of {count}"), times, |engine| {
                let begun = Instant::now();
                engine.api.get_bytes(path)?;
                Ok(begun.elapsed())
            })
        };
        timed_get("ps -a -s", "/containers/json?all=1&size=1")?;
        timed_get("system df", "/system/df")
    }

    fn watchers(&mut self) -> Result<()> {
        ui::step(&format!("memory of {RUNNING} watchers"));
        for (number, engine) in self.engines.iter().enumerate() {
            let mut ids = Vec::new();
            for _ in 0..RUNNING {
                self.interrupt.check()?;
                let id = engine.create(&["sleep", "3600"], "none")?;
                engine.start(&id)?;
                ids.push(id);
            }
            if let Some(share) = memory::of_watchers(&ids) {
                let what = format!("watcher memory, mean of {RUNNING} (PSS)");
                self.figures.add(&what, Unit::Mebibytes, number, share);
            }
            for id in &ids {
                engine.remove(id)?;
            }
        }
        Ok(())
    }

    fn daemons(&mut self, what: &str) -> Result<()> {
        for (number, engine) in self.engines.iter().enumerate() {
            if let Some(share) = memory::of_daemon(engine.pid()?) {
                self.figures.add(what, Unit::Mebibytes, number, share);
            }
        }
        Ok(())
    }
}

fn run_to_end(engine: &Engine, network: &str) -> Result<Duration> {
    let begun = Instant::now();
    let id = engine.create(&["true"], network)?;
    engine.start(&id)?;
    let ended = engine.api.post(&format!("/containers/{id}/wait"), &Value::Null)?;
    engine.api.delete(&format!("/containers/{id}"))?;
    let took = begun.elapsed();
    anyhow::ensure!(ended["StatusCode"] == 0, "the container ended with {ended}");
    Ok(took)
}

fn exec(engine: &Engine, container: &str) -> Result<Duration> {
    let begun = Instant::now();
    let body = json!({ "AttachStdout": true, "AttachStderr": true, "Cmd": ["echo", "done"] });
    let made = engine.api.post(&format!("/containers/{container}/exec"), &body)?;
    let id = made["Id"].as_str().context("exec gives an id")?;
    let start = json!({ "Detach": false, "Tty": false });
    let output = engine.api.hijack(&format!("/exec/{id}/start"), &start)?;
    let took = begun.elapsed();
    anyhow::ensure!(output.ends_with(b"done\n"), "the exec printed {output:?}");
    Ok(took)
}
