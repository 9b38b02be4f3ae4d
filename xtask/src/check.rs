//! `cargo xtask check`: what must hold of the sources.

use anyhow::{Result, bail};

use crate::{host, run, tidy, ui};

/// Formatting, lints, and the rules of [`tidy`].
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("check takes no arguments, not {unknown:?}");
    }
    host::ensure(host::BUILD)?;
    ui::step("tidy: layers, file sizes, words");
    tidy::run()?;
    ui::step("formatting");
    run::succeed(run::cargo().args(["fmt", "--all", "--check"]))?;
    ui::step("lints");
    let clippy = ["clippy", "--workspace", "--all-targets", "--quiet", "--", "-D", "warnings"];
    run::succeed(run::cargo().args(clippy))?;
    if host::on_path("cargo-deny") {
        ui::step("licences and advisories");
        run::succeed(run::cargo().args(["deny", "--offline", "check", "bans", "licenses"]))?;
    } else {
        ui::line("cargo-deny is not installed: licences are not checked here");
    }
    ui::line("check: everything holds");
    Ok(())
}
