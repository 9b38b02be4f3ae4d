//! `--devicemapper`: thin devices in each engine, inside a virtual machine, whose kernel has them.
//!
//! Each engine in turn has the same disk, pools in files as both make them by themselves, and starts
//! from nothing in each round.

use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use serde_json::{Value, json};

use super::engine::Engine;
use super::figures::Figures;
use super::work::BUSYBOX;
use super::{Options, machine};
use crate::interrupt::Interrupt;
use crate::lab::{Lab, Place, Program};
use crate::{archive, host, run, ui};

const DISK: &str = "8G";
const LIMIT_SECONDS: u64 = 3600;
/// How much is imported.
const IMPORTED: usize = 50 << 20;
/// Things that take less than a second are done so often in each round.
const REPEATS: usize = 3;
/// What passes between two imports, at least, where people make them.
const PAUSE: Duration = Duration::from_secs(1);
const FLAGS: &[&str] = &["--storage-driver=devicemapper", "--bridge=none", "--iptables=false"];
/// Nothing in the machine makes nodes for devices, which dockerd refuses unless told.
const DOCKERD: &str = "--storage-opt=dm.override_udev_sync_check=true";

/// Measures in a machine of its own, or here if this is one.
pub(super) fn run(built: &Path, options: &Options, interrupt: &Interrupt) -> Result<()> {
    if std::env::var_os("BERTH_VM").is_some() {
        return inside(built, options, interrupt);
    }
    crate::vm::prepare(None)?;
    host::ensure(host::VM_TEST)?;
    let own = std::env::current_exe().context("this program's path")?;
    let mut command = Command::new(&own);
    command.args(["vm", "run", "--disk", DISK, "--limit", &LIMIT_SECONDS.to_string(), "--"]);
    command.arg(&own).args(["bench", "--devicemapper", "--built"]).arg(built.canonicalize()?);
    command.args(["--rounds", &options.runs.long.to_string()]);
    if options.without_dockerd {
        command.arg("--without-dockerd");
    }
    run::succeed(&mut command)
}

fn inside(built: &Path, options: &Options, interrupt: &Interrupt) -> Result<()> {
    let disks = std::env::var("BERTH_VM_DISKS").unwrap_or_default();
    let disk = disks.split(':').next().context("a machine with a disk")?;
    let below = Path::new("/mnt");
    run::output(Command::new("mkfs.ext4").args(["-q", "-F", disk]))?;
    run::output(Command::new("mount").args([disk.as_ref(), below]))?;
    let mut names = vec!["berth".to_owned()];
    if host::on_path("dockerd") && !options.without_dockerd {
        names.push("dockerd".to_owned());
    }
    let archives = [archive::busybox_root()?, archive::files(1, IMPORTED)?];
    let mut figures = Figures::new(names.clone());
    let mut all = || -> Result<()> {
        for round in 1..=options.runs.long {
            ui::step(&format!("round {round}"));
            for (number, name) in names.iter().enumerate() {
                interrupt.check()?;
                for (what, time) in work(name, built, below, &archives)? {
                    figures.add_time(what, number, time);
                }
            }
        }
        Ok(())
    };
    let done = all();
    ui::step("figures");
    figures.print();
    ui::line("");
    ui::line(&machine());
    done
}

/// The life of one engine; gives the times.
fn work(
    name: &str,
    built: &Path,
    below: &Path,
    [busybox, large]: &[Vec<u8>; 2],
) -> Result<Vec<(&'static str, Duration)>> {
    let mut flags: Vec<String> = FLAGS.iter().map(|&flag| flag.to_owned()).collect();
    let program = if name == "berth" {
        Program::Berth(built.join("berth"))
    } else {
        flags.push(DOCKERD.to_owned());
        Program::Dockerd
    };
    let mut times = Vec::new();
    let place = Place { below, flags: &flags };
    let begun = Instant::now();
    let lab = Lab::start_at(&format!("{name}-bench"), program, &place)?;
    times.push(("first start: the pool and its base device are made", begun.elapsed()));
    let mut engine = Engine::own(name, lab)?;
    let import = |name: &str, content: &[u8]| {
        let (repository, tag) = name.split_once(':').unwrap_or((name, "latest"));
        let path = format!("/images/create?fromSrc=-&repo={repository}&tag={tag}");
        engine.api.post_tar(&path, content)
    };
    import(BUSYBOX, busybox)?;
    rustix::fs::sync();
    std::thread::sleep(PAUSE);
    let begun = Instant::now();
    import("berth-bench-large:1", large)?;
    times.push(("import of 50 MiB", begun.elapsed()));
    rustix::fs::sync();
    for round in 0..=REPEATS {
        let begun = Instant::now();
        let id = engine.create(&["true"], "none")?;
        engine.start(&id)?;
        engine.api.post(&format!("/containers/{id}/wait"), &Value::Null)?;
        let ran = begun.elapsed();
        engine.remove(&id)?;
        let begun = Instant::now();
        let made = json!({ "Image": BUSYBOX, "Cmd": ["true"] });
        let made = engine.api.post("/containers/create", &made)?;
        engine.remove(made["Id"].as_str().context("create gives an id")?)?;
        // The first has to find its programs.
        if round > 0 {
            times.push(("run of true to its end", ran));
            times.push(("create and rm", begun.elapsed()));
        }
    }
    // Nothing is being deleted any more.
    std::thread::sleep(Duration::from_secs(3));
    let again = engine.restart()?.context("an engine of our own")?;
    times.push(("start with a pool that is there", again));
    Ok(times)
}
