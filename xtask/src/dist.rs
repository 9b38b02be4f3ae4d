//! `cargo xtask dist`: release binaries to hand out.

use anyhow::{Context as _, Result, bail};

use crate::{host, run, ui};

/// Builds the release binaries and puts them, with the unit files, into `target/dist`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("dist takes no arguments, not {unknown:?}");
    }
    host::ensure(host::BUILD)?;
    let built = run::build_release()?;
    let dist = run::target().join("dist");
    std::fs::create_dir_all(&dist)?;
    for name in ["berth", "berth-shim"] {
        let to = dist.join(name);
        std::fs::copy(built.join(name), &to).with_context(|| format!("cannot copy {name}"))?;
        let size = to.metadata()?.len();
        ui::line(&format!("{}  {:.1} MB", to.display(), megabytes(size)));
    }
    let packaging = run::workspace().join("packaging");
    for entry in std::fs::read_dir(&packaging).context("packaging/ is part of the sources")? {
        let entry = entry?;
        if entry.file_type()?.is_file() {
            std::fs::copy(entry.path(), dist.join(entry.file_name()))?;
        }
    }
    for name in ["LICENSE", "README.md"] {
        std::fs::copy(run::workspace().join(name), dist.join(name))?;
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
