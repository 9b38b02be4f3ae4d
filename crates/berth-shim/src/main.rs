//! `berth-shim`, the watcher: one small process for each container, independent of the daemon.
//!
//! ```text
//! berth-shim <bundle dir>            detach, create the container, report on stdout, watch it
//! berth-shim --cleanup <bundle dir>  undo what a watcher that was killed left behind
//! berth-shim --probe                 inside a container: does what must be refused get refused?
//! ```
//!
//! The bundle and the conversation are described in [`berth_shim_proto`]. Process tree:
//!
//! ```text
//! daemon ── berth-shim (ends as soon as the watcher reported or failed to)
//! init ── watcher: session leader, subreaper, one thread, poll loop; holds stdio, log, socket
//!           ├─ a fork that runs libcontainer and ends; what it made is the watcher's by reparenting
//!           ├─ the container's init
//!           └─ execs' processes
//! ```
//!
//! libcontainer runs only in forks, so that what it does to its process (not dumpable, another
//! `oom_score_adj`, heap) ends with them. The watcher's standard error is the bundle's `shim.log`.

#![forbid(unsafe_code)]

mod cgroups;
mod confine;
mod conn;
mod create;
mod error;
mod exec;
mod executor;
mod inside;
mod io;
mod lookup;
mod mounts;
mod probe;
mod process;
mod program;
mod queue;
mod requests;
mod shim;
mod spec;
mod state;
mod status;
mod watch;

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use berth_types::kind::chain;

fn main() -> ExitCode {
    let mut args = std::env::args_os().skip(1);
    let result = match (args.next(), args.next(), args.next()) {
        (Some(flag), None, None) if flag == "--probe" => return probe::run(),
        (Some(flag), Some(dir), None) if flag == "--cleanup" => watch::cleanup(&PathBuf::from(dir)),
        (Some(dir), None, None) if !dir.as_encoded_bytes().starts_with(b"-") => {
            watch::run(&PathBuf::from(dir))
        }
        _ => {
            say("usage: berth-shim <bundle dir> | --cleanup <bundle dir> | --probe");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            say(&chain(&error));
            ExitCode::FAILURE
        }
    }
}

/// A line for `shim.log`. Nobody can be told when that fails.
fn say(text: &str) {
    drop(writeln!(std::io::stderr(), "{text}"));
}
