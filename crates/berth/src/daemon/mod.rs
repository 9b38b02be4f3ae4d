//! `berth daemon`: settings, listeners, signals, and the engine between them.
//!
//! Start-up is in this order: settings are read and checked; the pid file is written; the listeners
//! are opened, so that early clients wait and are not refused; the engine opens its data root;
//! systemd is told. A failure on the way is one line on stderr and exit status 1.

mod accept;
mod config;
mod listen;
mod logging;
mod notify;
mod pidfile;
mod reload;
mod remap;
mod run;
mod tls;

use std::io::Write as _;
use std::process::ExitCode;

use berth_types::kind::chain;

use config::{Config, Flags};

/// Runs the daemon with the arguments after `berth daemon`.
pub(crate) fn main(args: &[String]) -> ExitCode {
    let flags = match Flags::parse(args) {
        Ok(flags) => flags,
        Err(error) => return fail(&error.to_string()),
    };
    if flags.is_given("help") {
        return say(std::io::stdout().lock(), &config::help());
    }
    if flags.is_given("version") {
        let version = env!("CARGO_PKG_VERSION");
        return say(std::io::stdout().lock(), &format!("berth version {version}\n"));
    }
    let config = match Config::load(&flags) {
        Ok((config, _keys)) => config,
        Err(error) => return fail(&chain(&error)),
    };
    if flags.is_given("validate") {
        return say(std::io::stderr().lock(), "configuration OK\n");
    }
    match run::run(config, flags) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => fail(&chain(&error)),
    }
}

fn say(mut to: impl std::io::Write, text: &str) -> ExitCode {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// One plain line on stderr; where stderr is gone there is nobody to tell.
fn fail(message: &str) -> ExitCode {
    match writeln!(std::io::stderr().lock(), "{message}") {
        Ok(()) | Err(_) => ExitCode::FAILURE,
    }
}
