//! Tests of the built programs from outside: `docker` drives the official docker CLI against the
//! daemon and compares with dockerd's recorded answers; `kill` ends the daemon at random points and
//! checks what is left; `cuts` does the same with the power of its disk; `service` looks at its sockets, signals, start and end; `vm` tries in a
//! virtual machine what depends on the kernel, `guide` what Docker's guide to devicemapper says.
//!
//! All report one line for each comparison (`ok NAME`, `FAILED NAME: why`, `skipped NAME: need`) on
//! standard output, details on standard error, and exit with 1 if anything failed.

#![forbid(unsafe_code)]

mod client;
mod cuts;
mod daemon;
mod docker;
mod guide;
mod kill;
mod needs;
mod registry;
mod service;
mod ui;
mod vm;
mod wait;

use std::process::ExitCode;

const USAGE: &str = "\
usage: conformance docker [--help]     the docker CLI against berth
       conformance kill [--help]       the daemon killed at random points
       conformance cuts                the power cut at points of a recorded disk
       conformance service [NAME…]     its sockets, signals, start and end
       conformance guide               the guide to devicemapper, in a machine that reboots
       conformance vm [WORD…]          version 2 control groups, containers on thin devices";

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let done = match args.split_first() {
        Some((command, rest)) if command == "docker" => docker::run(rest),
        Some((command, rest)) if command == "kill" => kill::run(rest),
        Some((command, rest)) if command == "cuts" => cuts::run(rest),
        Some((command, rest)) if command == "service" => service::run(rest),
        Some((command, rest)) if command == "vm" => vm::run(rest),
        Some((command, [])) if command == "guide" => match guide::run() {
            Ok(code) => return code,
            Err(error) => Err(error),
        },
        _ => Err(anyhow::anyhow!("{USAGE}")),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            ui::detail(&format!("conformance: {error:#}"));
            ExitCode::FAILURE
        }
    }
}
