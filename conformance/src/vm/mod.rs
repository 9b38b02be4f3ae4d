//! What depends on the kernel's configuration, tried where the kernel is known: in the virtual
//! machine of `cargo xtask vm`, whose control groups are of version 2 alone.
//!
//! One daemon on a scratch disk serves all cases. Each looks at the kernel's own files, or at what
//! a container could and could not do, never only at what berth says.

mod cgroups;
mod engine;

use anyhow::{Context as _, Result, bail};

use crate::kill::fixture;
use crate::ui;
use engine::Engine;

/// A case and its name in the report.
type Case = (&'static str, fn(&Engine) -> Result<()>);

/// Runs `conformance vm`.
pub(crate) fn run() -> Result<()> {
    if std::env::var_os("BERTH_VM").is_none() {
        ui::line("skipped vm: a virtual machine (cargo xtask test --only vm)");
        return Ok(());
    }
    if !fixture::has_busybox() {
        ui::line("skipped vm: busybox-static");
        return Ok(());
    }
    let engine = Engine::start().context("the engine does not start")?;
    let mut failed = 0;
    for (name, case) in cgroups::CASES {
        match case(&engine) {
            Ok(()) => ui::line(&format!("ok vm {name}")),
            Err(error) => {
                failed += 1;
                let why = format!("{error:#}");
                ui::line(&format!("FAILED vm {name}: {}", why.lines().next().unwrap_or_default()));
                ui::detail(&why);
            }
        }
    }
    if failed > 0 {
        ui::detail(&format!("the daemon's last words:\n{}", engine.end_of_log()));
        bail!("{failed} failed");
    }
    Ok(())
}
