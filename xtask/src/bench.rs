//! `cargo xtask bench`: engines side by side, turn about, through their API sockets.
//!
//! berth is started here, and dockerd where one is installed, each on directories of its own and in
//! a network namespace of its own; `--socket NAME=PATH` adds engines that run already. Every
//! engine does the same work with the same image: first one, then the other, then the first again,
//! so that what disturbs the machine disturbs all. Shown are medians, and the first engine's ratio to
//! each other one. Nothing is asserted. `--storage` measures storage drivers instead, `--images` pulls,
//! pushes and builds, `--devicemapper` thin devices in a virtual machine.

mod engine;
mod figures;
mod images;
mod memory;
mod storage;
mod thin;
mod work;

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

use crate::interrupt::Interrupt;
use crate::lab::{Lab, Program};
use crate::{archive, host, run, ui};
use engine::Engine;
use figures::Figures;
use work::Bench;

/// How often each thing is done.
#[derive(Debug, Clone, Copy)]
struct Runs {
    /// Things that take milliseconds.
    short: usize,
    /// Things that take a second.
    long: usize,
    /// Containers in the long list.
    many: usize,
}

const FULL: Runs = Runs { short: 20, long: 5, many: 1000 };
const QUICK: Runs = Runs { short: 5, long: 2, many: 300 };

struct Options {
    runs: Runs,
    sockets: Vec<(String, PathBuf)>,
    built: Option<PathBuf>,
    without_dockerd: bool,
    /// Storage drivers to measure instead of everything else.
    storage: Vec<storage::Spec>,
    /// Pulls, pushes and builds instead.
    images: bool,
    /// Thin devices instead, in a virtual machine.
    devicemapper: bool,
}

/// Starts the engines, has them work, prints the table.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = parse(args)?;
    if !host::is_root() {
        bail!("bench starts engines, which takes root's rights: run it as root");
    }
    let interrupt = Interrupt::watch()?;
    host::ensure(host::BUILD)?;
    host::ensure(host::RUN)?;
    let built = if let Some(dir) = &options.built {
        dir.clone()
    } else {
        ui::step("building berth");
        run::build_release()?
    };
    if !options.storage.is_empty() {
        return storage::run(&built, &options, &interrupt);
    }
    if options.devicemapper {
        return thin::run(&built, &options, &interrupt);
    }
    if options.images {
        return images::run(&built, &options, &interrupt);
    }
    ui::step("starting the engines");
    let mut engines = start_engines(&built, &options)?;
    for engine in &engines {
        ui::line(&format!("{}: {}", engine.name, engine.describe()?));
    }
    let images = work::Images {
        busybox: archive::busybox_root()?,
        layered: archive::layered(work::LAYERED, work::LAYERS, work::LAYERED_BYTES, 0)?,
    };
    let mut figures = Figures::new(engines.iter().map(|engine| engine.name.clone()).collect());
    let bench = Bench {
        runs: options.runs,
        images,
        interrupt,
        figures: &mut figures,
        engines: &mut engines,
    };
    let done = bench.run();
    ui::step("figures");
    figures.print();
    ui::line("");
    ui::line(&machine());
    if done.is_err() {
        ui::line("the run was cut short");
    }
    for engine in &engines {
        engine.clean();
    }
    done
}

fn parse(args: &[String]) -> Result<Options> {
    let mut options = Options {
        runs: FULL,
        sockets: Vec::new(),
        built: None,
        without_dockerd: false,
        storage: Vec::new(),
        images: false,
        devicemapper: false,
    };
    let mut args = args.iter();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--quick" => options.runs = QUICK,
            "--built" => {
                options.built = Some(args.next().context("--built needs a directory")?.into());
            }
            "--storage" => {
                let value = args.next().context("--storage needs DRIVER[/FS]")?;
                options.storage.push(storage::Spec::parse(value));
            }
            "--images" => options.images = true,
            "--devicemapper" => options.devicemapper = true,
            "--rounds" => {
                let value = args.next().context("--rounds needs a number")?;
                options.runs.long = value.parse().with_context(|| format!("--rounds {value}"))?;
            }
            "--without-dockerd" => options.without_dockerd = true,
            "--runs" => {
                let value = args.next().context("--runs needs a number")?;
                options.runs.short = value.parse().with_context(|| format!("--runs {value}"))?;
                options.runs.long = options.runs.short.div_ceil(4);
            }
            "--socket" => {
                let value = args.next().context("--socket needs NAME=PATH")?;
                let (name, path) = value
                    .split_once('=')
                    .with_context(|| format!("--socket takes NAME=PATH, not {value:?}"))?;
                options.sockets.push((name.to_owned(), path.into()));
            }
            other => bail!(
                "bench takes --socket NAME=PATH, --runs N, --quick, --without-dockerd, --built DIR, \
                 --images, --devicemapper, --rounds N and --storage DRIVER[/FS], not {other:?}"
            ),
        }
    }
    if options.runs.short == 0 {
        bail!("--runs must be at least 1");
    }
    Ok(options)
}

fn start_engines(built: &std::path::Path, options: &Options) -> Result<Vec<Engine>> {
    let berth = Lab::start("berth-bench", Program::Berth(built.join("berth")))?;
    let mut engines = vec![Engine::own("berth", berth)?];
    if host::on_path("dockerd") && !options.without_dockerd {
        engines.push(Engine::own("dockerd", Lab::start("dockerd-bench", Program::Dockerd)?)?);
    } else if !options.without_dockerd {
        ui::line("dockerd is not installed here (package docker.io): nothing to compare with");
    }
    for (name, path) in &options.sockets {
        engines.push(Engine::foreign(name, path)?);
    }
    Ok(engines)
}

/// What the figures were taken on.
fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let kernel = read("/proc/sys/kernel/osrelease");
    let cpu = read("/proc/cpuinfo")
        .lines()
        .find_map(|line| line.strip_prefix("model name")?.split_once(':'))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |(_, name)| name.trim().to_owned());
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let load = read("/proc/loadavg");
    let load = load.split(' ').next().unwrap_or_default();
    format!("{cores} × {cpu}, Linux {}, load {load} at the end", kernel.trim())
}
