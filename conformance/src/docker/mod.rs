//! The official docker CLI against an engine, and the comparison with dockerd.
//!
//! The cases stand in `cases/*.txt` ([`case`] says in which form). Each is a list of shell lines that
//! call the docker CLI; what they print and their exit codes make a transcript, from which
//! [`normalise`] takes what differs from run to run. dockerd's transcripts were recorded once, with
//! its version, under `goldens/`; the rows of `differences.txt` name the cases where berth answers
//! otherwise, and why; what it answers there stands under `goldens/berth/`.

mod archive;
mod case;
mod compare;
mod engine;
mod normalise;
mod options;
mod runner;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::needs::on_path;
use crate::ui;
use compare::{Goldens, Verdict};
use engine::{Engine, Kind};
use options::{Mode, Options};
use runner::Runner;

/// Runs `conformance docker`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let Some(options) = Options::parse(args)? else {
        ui::line(options::USAGE);
        return Ok(());
    };
    let cases = case::read_all(&home().join("cases"))?;
    if options.list {
        for case in &cases {
            ui::line(&case.name);
        }
        return Ok(());
    }
    if let Some(need) = missing_need() {
        ui::line(&format!("skipped docker: {need}"));
        return Ok(());
    }
    let cli = engine::cli_version()?;
    ui::detail(&format!("docker CLI {cli}"));
    let wanted: Vec<_> = cases.iter().filter(|case| options.wants(&case.name)).collect();
    let goldens = Goldens::open(&home(), &cli)?;
    match &options.mode {
        Mode::Record => record(&options, &wanted, &goldens),
        Mode::Compare => compare_all(&options, &wanted, &goldens),
    }
}

/// Where the cases and goldens are: the directory of this package.
fn home() -> PathBuf {
    match std::env::var_os("BERTH_CONFORMANCE") {
        Some(dir) => dir.into(),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).to_owned(),
    }
}

/// What this machine lacks for a case.
fn lacks(case: &case::Case) -> Option<&'static str> {
    let cgroup1 = Path::new("/sys/fs/cgroup/memory").metadata().is_ok();
    let needs = [
        (case.cgroup1 && !cgroup1, "needs control groups of version 1"),
        (
            case.registry && !on_path("docker-registry"),
            "needs docker-registry (Debian: docker-registry)",
        ),
        (case.registry && !on_path("skopeo"), "needs skopeo (Debian: skopeo)"),
        (case.witness && !on_path("dockerd"), "needs dockerd (Debian: docker.io)"),
    ];
    needs.into_iter().find_map(|(is_missing, need)| is_missing.then_some(need))
}

/// What this machine lacks for the cases to run at all.
fn missing_need() -> Option<&'static str> {
    if !rustix::process::geteuid().is_root() {
        return Some("needs root");
    }
    [
        ("docker", "needs the docker CLI (Debian: docker.io or docker-cli)"),
        ("script", "needs script (Debian: bsdutils)"),
        ("unshare", "needs unshare (Debian: util-linux)"),
        ("ip", "needs ip (Debian: iproute2)"),
    ]
    .into_iter()
    .find_map(|(program, need)| (!on_path(program)).then_some(need))
    .or_else(|| {
        let static_busybox = Path::new(archive::BUSYBOX).metadata().is_ok();
        (!static_busybox).then_some("needs /bin/busybox (Debian: busybox-static)")
    })
}

/// One run of cases: all over the driver that berth chooses, the core over each other one, and the
/// core and more with remapped users.
struct Pass {
    driver: Option<&'static str>,
    kind: Kind,
    /// What the data root is put on; `None` for what the machine has.
    file_system: Option<&'static str>,
    /// Programs without which it is skipped, and in which words.
    programs: &'static [(&'static str, &'static str)],
}

/// What `--driver` calls the pass with remapped users.
const REMAPPING: &str = "userns";
/// And the one with experimental features.
const EXPERIMENTAL: &str = "experimental";

#[rustfmt::skip]
const PASSES: &[Pass] = &[
    Pass { driver: None,                   kind: Kind::Plain,        file_system: None,          programs: &[] },
    Pass { driver: Some("vfs"),            kind: Kind::Plain,        file_system: None,          programs: &[] },
    Pass { driver: Some("aufs"),           kind: Kind::Plain,        file_system: Some("ext4"),  programs: &[("mkfs.ext4", "needs mkfs.ext4 (Debian: e2fsprogs)")] },
    Pass { driver: Some("overlay"),        kind: Kind::Plain,        file_system: Some("ext4"),  programs: &[("mkfs.ext4", "needs mkfs.ext4 (Debian: e2fsprogs)")] },
    Pass { driver: Some("btrfs"),          kind: Kind::Plain,        file_system: Some("btrfs"), programs: &[("mkfs.btrfs", "needs mkfs.btrfs (Debian: btrfs-progs)")] },
    Pass { driver: Some("fuse-overlayfs"), kind: Kind::Plain,        file_system: None,          programs: &[("fuse-overlayfs", "needs fuse-overlayfs (Debian: fuse-overlayfs)")] },
    Pass { driver: None,                   kind: Kind::Remapping,    file_system: None,          programs: &[("unshare", "needs unshare (Debian: util-linux)")] },
    Pass { driver: None,                   kind: Kind::Experimental, file_system: None,          programs: &[] },
];

impl Pass {
    fn takes(&self, case: &case::Case) -> bool {
        match self.kind {
            Kind::Plain => case.kind() == Kind::Plain && (self.driver.is_none() || case.core),
            Kind::Remapping => case.userns || (case.core && !case.host_users),
            Kind::Experimental => case.experimental,
        }
    }

    /// What this machine lacks for it.
    fn lacks(&self) -> Option<&'static str> {
        let missing = self.programs.iter().find(|(program, _)| !on_path(program));
        let kernel = self.driver == Some("aufs") && !crate::needs::has_aufs();
        missing.map(|(_, need)| *need).or(kernel.then_some("needs a kernel with aufs"))
    }
}

fn record(options: &Options, cases: &[&case::Case], goldens: &Goldens) -> Result<()> {
    if let Some(socket) = &options.socket {
        // What it is told is not asked: whoever names it names the cases.
        return record_from(&Engine::foreign(socket)?, options, cases, goldens);
    }
    for kind in [Kind::Plain, Kind::Remapping, Kind::Experimental] {
        let cases: Vec<_> = cases.iter().copied().filter(|case| case.kind() == kind).collect();
        if !cases.is_empty() {
            record_from(&Engine::dockerd(kind)?, options, &cases, goldens)?;
        }
    }
    Ok(())
}

fn record_from(
    engine: &Engine,
    options: &Options,
    cases: &[&case::Case],
    goldens: &Goldens,
) -> Result<()> {
    let version = engine.version()?;
    if version.name == engine::BERTH {
        bail!("goldens are recorded from dockerd, and this is {}", version.name);
    }
    ui::detail(&format!("recording {} {}", version.name, version.number));
    let runner = Runner::new(engine, options.jobs)?;
    runner.run(cases, &mut |case, transcript| {
        goldens.record(&version.number, case, &transcript)?;
        ui::line(&format!("recorded {}", case.name));
        Ok(())
    })
}

/// So many different Dockerfiles the cases build at least.
const DOCKERFILES: usize = 60;

fn compare_all(options: &Options, cases: &[&case::Case], goldens: &Goldens) -> Result<()> {
    let mut failed = 0;
    let live = options.socket.as_deref().map(Engine::foreign).transpose()?;
    let mut answers = goldens.load()?;
    if live.is_none() && answers.is_empty() {
        ui::line("skipped docker: needs goldens recorded through this docker CLI (--record)");
        return Ok(());
    }
    let mut here = Vec::new();
    for &case in cases {
        match lacks(case) {
            None => here.push(case),
            Some(need) => ui::line(&format!("skipped {}: {need}", case.name)),
        }
    }
    if live.is_some() {
        // Whatever runs there, it is told nothing.
        here.retain(|case| case.kind() == Kind::Plain);
    }
    if let Some(live) = &live {
        let version = live.version()?;
        ui::detail(&format!("comparing with {} {}, live", version.name, version.number));
        answers.replace(|answers| {
            Runner::new(live, options.jobs)?.run(&here, &mut |case, transcript| {
                answers.insert(case.name.clone(), transcript);
                Ok(())
            })
        })?;
    } else {
        ui::detail(&format!("comparing with goldens of dockerd {}", answers.version()));
    }
    for pass in PASSES {
        let Pass { file_system, kind, .. } = *pass;
        let driver = match kind {
            Kind::Plain => pass.driver,
            Kind::Remapping => Some(REMAPPING),
            Kind::Experimental => Some(EXPERIMENTAL),
        };
        let prefix = driver.map_or(String::new(), |driver| format!("{driver}/"));
        let core: Vec<_> = here.iter().copied().filter(|case| pass.takes(case)).collect();
        let unasked = kind != Kind::Plain && live.is_some();
        if core.is_empty() || unasked || !options.wants_driver(driver) {
            continue;
        }
        if let Some(need) = pass.lacks() {
            ui::line(&format!("skipped {prefix}: {need}"));
            continue;
        }
        let engine = match kind {
            Kind::Plain => Engine::berth(driver, file_system)?,
            Kind::Remapping => Engine::remapping_berth()?,
            Kind::Experimental => Engine::experimental_berth()?,
        };
        let runner = Runner::new(&engine, options.jobs)?;
        runner.run(&core, &mut |case, transcript| {
            let name = format!("{prefix}{}", case.name);
            if options.accept && (driver.is_none() || case.kind() != Kind::Plain) {
                answers.accept(&case.name, &transcript)?;
            }
            match answers.judge(&case.name, &transcript) {
                Verdict::Same => ui::line(&format!("ok {name}")),
                Verdict::Failed { why, diff } => {
                    failed += 1;
                    ui::line(&format!("FAILED {name}: {why}"));
                    ui::detail(&diff);
                }
            }
            Ok(())
        })?;
        let built = runner.dockerfiles();
        if built > 0 {
            ui::detail(&format!("{prefix}{built} different Dockerfiles"));
        }
        if options.is_whole() && driver.is_none() && built < DOCKERFILES {
            failed += 1;
            ui::line(&format!("FAILED dockerfiles: only {built} of {DOCKERFILES} were built"));
        }
        engine.finish().with_context(|| format!("{prefix}berth"))?;
    }
    if options.is_whole() {
        for stale in answers.rows_without_case(cases) {
            failed += 1;
            ui::line(&format!(
                "FAILED {stale}: differences.txt names it, and there is no such case"
            ));
        }
    }
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}
