//! Power cuts: a daemon works on a disk each write to which is recorded, and from the record disks
//! are made as a cut at any point may leave them. On each a daemon must come up with everything that
//! was acknowledged by then, and with nothing half-made.
//!
//! `record` runs in a virtual machine and says on the disk itself, behind the file system, what was
//! acknowledged. `check` runs where the record is. `docs/design/0013-power-cuts-are-replayed.md` says
//! why.

mod check;
mod expected;
mod lab;
mod laps;
mod points;
mod record;
mod syncs;
mod zpool;

use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use crate::ui;
use lab::Lab;
use points::Point;

const USAGE: &str = "\
usage: conformance cuts record [--without SYNC] DISK=LAB…
       conformance cuts check [--points N] [--seed S] [--at POINT:SEED] LOG=LAB…
       conformance cuts labs [LAB…]
       conformance cuts syncs

record makes each LAB on its DISK and works there. check makes the disk at N points (default 10) of each
LOG and starts a daemon on it; --at takes one point that an earlier run named. LAB is a driver and a file
system, for example overlay2/xfs; labs says where the disks of each, or of those that are usually
recorded, can be checked. --without works with one sync taken out, to see that check notices;
syncs names them.";

/// How large a disk is, and where its file system ends.
const DISK_BYTES: u64 = 512 << 20;
const MARKS_AT: u64 = DISK_BYTES - (1 << 20);
/// What the API calls an image that has no name.
const NAMELESS: &str = "<none>:<none>";

#[derive(Debug)]
struct Options {
    labs: Vec<Lab>,
    points: usize,
    seed: u64,
    at: Option<Point>,
    without: Option<&'static syncs::Sync>,
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self { labs: Vec::new(), points: 10, seed: 1, at: None, without: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if !arg.starts_with("--") {
                options.labs.push(Lab::parse(arg)?);
                continue;
            }
            let value = args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"))?;
            match arg.as_str() {
                "--points" => options.points = value.parse().context("--points")?,
                "--seed" => options.seed = value.parse().context("--seed")?,
                "--at" => options.at = Some(Point::parse(value)?),
                "--without" => options.without = Some(syncs::find(value)?),
                _ => bail!("{arg} is unknown\n{USAGE}"),
            }
        }
        if options.labs.is_empty() {
            bail!("{USAGE}");
        }
        Ok(options)
    }
}

/// Runs `conformance cuts`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    match args.split_first().map(|(verb, rest)| (verb.as_str(), rest)) {
        Some(("record", rest)) => record::run(&Options::parse(rest)?),
        Some(("check", rest)) => check::run(&Options::parse(rest)?),
        Some(("labs", names)) => labs(names),
        Some(("syncs", [])) => {
            for sync in syncs::ALL {
                ui::line(&format!("{:<16} {}", sync.name, sync.what));
            }
            Ok(())
        }
        _ => bail!("{USAGE}"),
    }
}

/// Says of each lab whether its disks can be looked at on this machine, whatever its kernel is, or take
/// one that is known.
fn labs(names: &[String]) -> Result<()> {
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    for name in if names.is_empty() { lab::USUAL } else { &names } {
        let place = if Lab::named(name)?.has_devices() { "machine" } else { "here" };
        ui::line(&format!("{name} {place}"));
    }
    Ok(())
}

/// Runs a program quietly.
fn succeed(command: &mut Command) -> Result<()> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    if !output.status.success() {
        bail!("{command:?}: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}
