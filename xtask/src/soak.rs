//! `cargo xtask soak`: long runs of what the tests do briefly.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::test::FUZZ_TARGETS;
use crate::vm::cuts::{Points, Records};
use crate::{host, run, ui};

/// How long without `--minutes`.
const MINUTES: u64 = 60;
/// Kills that the harness gets done in a minute, about.
const KILLS_PER_MINUTE: u64 = 20;
/// Operations that it kills the daemon in: load, create, start, rm, commit, rmi, pull.
const OPERATIONS: u64 = 7;

/// Points at which the power of each recorded disk is cut besides, for each minute.
const CUTS_PER_MINUTE: u64 = 4;
/// The same of disks that are looked at in a machine.
const SLOW_CUTS_PER_MINUTE: u64 = 1;

/// Kills the daemon at many points for half of the time, and fuzzes the parsers for the other half.
/// Then it runs the tests in the virtual machine with all of their cases, however long that takes, and
/// cuts the power.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let minutes = match args {
        [] => MINUTES,
        [flag, value] if flag == "--minutes" => {
            value.parse().ok().filter(|minutes| *minutes > 0).with_context(|| {
                format!("--minutes takes a whole number of at least 1, not {value:?}")
            })?
        }
        _ => bail!("soak takes --minutes N, not {}", args.join(" ")),
    };
    if !host::is_root() {
        bail!("the kill harness runs containers, which takes root's rights: run it as root");
    }
    host::ensure(host::BUILD)?;
    host::ensure(host::TEST)?;
    ui::step("building");
    let built = run::build_release()?;
    run::succeed(run::cargo().args([
        "build",
        "--release",
        "-p",
        "conformance",
        "-p",
        "berth-fuzz",
    ]))?;
    let points = (minutes * KILLS_PER_MINUTE / 2 / OPERATIONS).max(1);
    ui::step(&format!(
        "the daemon killed at {points} random points of each operation, and at its steps"
    ));
    let kill = run::succeed(Command::new(built.join("conformance")).args([
        "kill",
        "--points",
        &points.to_string(),
    ]));
    let targets = u64::try_from(FUZZ_TARGETS.len()).unwrap_or(1);
    let seconds = minutes * 60 / 2 / targets;
    for target in FUZZ_TARGETS {
        ui::step(&format!("broken inputs for {target}, {seconds} s"));
        run::succeed(
            Command::new(built.join("berth-fuzz"))
                .args([target, "--seconds", &seconds.to_string()])
                .current_dir(run::workspace()),
        )?;
    }
    kill?;
    if let Err(error) = crate::vm::prepare(None) {
        ui::line(&format!("skipped: what takes a virtual machine: {error:#}"));
        return Ok(());
    }
    ui::step("tests in the virtual machine, with all of their cases");
    crate::test::soak_vm()?;
    cut_power(minutes, &built)
}

fn cut_power(minutes: u64, built: &Path) -> Result<()> {
    let (here, in_machine) = (minutes * CUTS_PER_MINUTE, minutes * SLOW_CUTS_PER_MINUTE);
    ui::step(&format!(
        "the power cut at {here} points of each recorded disk, at {in_machine} where that takes a machine"
    ));
    let conformance = built.join("conformance");
    let records = Records::make_all(&conformance)?;
    let points = Points { here: Some(here), in_machine: Some(in_machine) };
    records.check(&conformance, points, None)
}
