//! The daemon as a service: sockets that it opens or is handed, readiness, signals, what it refuses
//! to start with, and what its end means for containers. The docker CLI is the client.

mod cases;
mod lab;
mod storage;

use std::path::Path;

use anyhow::{Result, bail};

use crate::ui;

const USAGE: &str =
    "usage: conformance service [NAME…]     only the cases whose names hold one of these";

/// A named case.
#[derive(Debug)]
struct Case {
    name: &'static str,
    run: fn() -> Result<()>,
}

/// Runs `conformance service`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if args.iter().any(|arg| arg.starts_with('-')) {
        ui::line(USAGE);
        return Ok(());
    }
    if !rustix::process::geteuid().is_root() {
        ui::line("skipped service: root");
        return Ok(());
    }
    for (file, need) in [("/bin/busybox", "busybox-static"), ("/usr/bin/openssl", "openssl")] {
        if !Path::new(file).is_file() {
            ui::line(&format!("skipped service: {need}"));
            return Ok(());
        }
    }
    let mut failed = 0;
    for case in cases::ALL {
        if !args.is_empty() && !args.iter().any(|arg| case.name.contains(arg.as_str())) {
            continue;
        }
        match (case.run)() {
            Ok(()) => ui::line(&format!("ok {}", case.name)),
            Err(error) => {
                let why = format!("{error:#}");
                ui::line(&format!("FAILED {}: {}", case.name, why.lines().next().unwrap_or("")));
                ui::detail(&why);
                failed += 1;
            }
        }
    }
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}
