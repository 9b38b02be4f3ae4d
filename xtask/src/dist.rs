//! `cargo xtask dist`: release binaries to hand out.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::{host, run, ui};

/// Builds the release binaries and puts them, with the unit files, into `target/dist`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    if let Some(unknown) = args.first() {
        bail!("dist takes no arguments, not {unknown:?}");
    }
    host::ensure(host::BUILD)?;
    let built = build()?;
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

/// Builds with libseccomp inside, so that the programs need no library but the C library where they
/// are taken.
fn build() -> Result<PathBuf> {
    let mut cargo = run::cargo();
    cargo.args(["build", "--release", "-p", "berth", "-p", "berth-shim"]);
    cargo.env("LIBSECCOMP_LINK_TYPE", "static").env("LIBSECCOMP_LIB_PATH", archive_dir()?);
    run::succeed(&mut cargo)?;
    Ok(run::target().join("release"))
}

/// The directory of `libseccomp.a`. Only the C compiler knows it: each distribution has another.
fn archive_dir() -> Result<PathBuf> {
    let found = run::output(Command::new("cc").arg("-print-file-name=libseccomp.a"))?;
    let archive = Path::new(found.trim());
    // A compiler that knows no such file prints the name alone.
    match archive.parent() {
        Some(dir) if archive.is_absolute() => Ok(dir.to_owned()),
        _ => bail!("libseccomp.a is missing: it comes with libseccomp-dev"),
    }
}

#[expect(clippy::cast_precision_loss, reason = "shown with one digit")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
