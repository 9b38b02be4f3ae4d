//! The `berth` program: the daemon, and the commands that talk to it.
//!
//! `berth daemon` takes dockerd's flags and reads them by dockerd's rules, so its arguments never
//! pass through the parser of the other commands.

#![forbid(unsafe_code)]

mod cli;
mod daemon;

use std::process::ExitCode;

fn main() -> ExitCode {
    let args: Vec<String> =
        std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).collect();
    match args.split_first() {
        Some((command, rest)) if command == "daemon" => daemon::main(rest),
        _ => cli::main(),
    }
}
