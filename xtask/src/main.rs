//! Every developer command: `cargo xtask COMMAND`.
//!
//! Needs cargo alone; what a command needs beyond that it says, and with root rights on Debian or
//! Ubuntu it installs it.

#![forbid(unsafe_code)]

mod archive;
mod bench;
mod check;
mod dist;
mod host;
mod http;
mod interrupt;
mod lab;
mod processes;
mod quickstart;
mod run;
mod soak;
mod test;
mod tidy;
mod ui;
mod vm;

use std::fmt;
use std::process::ExitCode;

use anyhow::{Result, bail};

const HELP: &str = "\
Usage: cargo xtask COMMAND

  quickstart            build, start an engine on directories of its own, run containers from a real
                        image with a volume, show what happened, clean up
  test [--only TIER]    every test this machine can run; TIER is unit, host, root, fault, conformance, fuzz or vm;
                        --kernel FILE is the vm's, with everything built in
  check                 formatting, lints, layer directions, file sizes
  bench [--socket NAME=PATH ...] [--runs N] [--quick] [--without-dockerd] [--built DIR]
        [--images | --devicemapper [--rounds N] | --storage DRIVER[/FS] ...]
                        berth beside dockerd (where it is installed) and other engines, turn about, through
                        their API sockets; --built takes berth from DIR instead of building it;
                        --storage measures a storage driver instead, on a new file system of the kind FS;
                        --images pulls, pushes and builds; --devicemapper thin devices, in a virtual machine
  soak [--minutes N]    long runs: kills at random points, fuzzing, power cuts
  dist                  release binaries in target/dist
  vm run [OPTIONS] -- COMMAND...
                        a command as root in a virtual machine that shows this machine's files; vm --help
  vm shell [OPTIONS]    a shell there
  vm cuts [OPTIONS]     a daemon started on its disk as power cuts at many points leave it
  vm zfs                installs and builds ZFS for that machine's kernel (minutes)
  vm replay LOG         a disk, recorded by vm run, as a power cut may leave it

Examples:
  cargo xtask test --only unit
  cargo xtask bench --socket dockerd=/var/run/docker.sock
  cargo xtask bench --storage overlay2 --storage vfs/xfs --storage btrfs/btrfs
";

fn main() -> ExitCode {
    match command() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.is::<Told>() => ExitCode::FAILURE,
        Err(error) => {
            if let Some(Ended(code)) = error.downcast_ref() {
                return ExitCode::from(*code);
            }
            ui::error(&format!("{error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// The command failed, and what it printed last says so.
#[derive(Debug)]
struct Told;

impl fmt::Display for Told {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("failed")
    }
}

impl std::error::Error for Told {}

/// What ran on the user's behalf ended with this code, and said why.
#[derive(Debug)]
struct Ended(u8);

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ended with code {}", self.0)
    }
}

impl std::error::Error for Ended {}

fn command() -> Result<()> {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let (command, rest) = match args.split_first() {
        Some((command, rest)) => (command.as_str(), rest),
        None => ("--help", &[][..]),
    };
    match command {
        "quickstart" => quickstart::run(rest),
        "test" => test::run(rest),
        "check" => check::run(rest),
        "bench" => bench::run(rest),
        "soak" => soak::run(rest),
        "dist" => dist::run(rest),
        "vm" => vm::run(rest),
        "--help" | "-h" | "help" => {
            ui::line(HELP.trim_end());
            Ok(())
        }
        other => bail!("there is no command {other:?}\n\n{HELP}"),
    }
}
