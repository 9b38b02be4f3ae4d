//! What depends on the kernel's configuration, tried where the kernel is known: in the virtual
//! machine of `cargo xtask vm`, whose control groups are of version 2 alone.
//!
//! One daemon on a scratch disk serves all cases. Each looks at the kernel's own files, or at what
//! a container could and could not do, never only at what berth says.

mod aufs;
mod cgroups;
mod devicemapper;
mod engine;
mod layers;
mod refusals;
mod zfs;

use anyhow::{Context as _, Result, bail};

use crate::kill::fixture;
use crate::ui;
use engine::Engine;

/// A case and its name in the report.
type Case = (&'static str, fn(&Engine) -> Result<()>);

/// Runs `conformance vm`; with words, those cases whose name contains one of them.
pub(crate) fn run(words: &[String]) -> Result<()> {
    if std::env::var_os("BERTH_VM").is_none() {
        ui::line("skipped vm: a virtual machine (cargo xtask test --only vm)");
        return Ok(());
    }
    if !fixture::has_busybox() {
        ui::line("skipped vm: busybox-static");
        return Ok(());
    }
    let wanted = |name: &str| words.is_empty() || words.iter().any(|word| name.contains(word));
    let mut failed = 0;
    let cases: Vec<_> = cgroups::CASES.iter().filter(|(name, _)| wanted(name)).collect();
    if !cases.is_empty() {
        failed += pass(&[], |engine, report| {
            for (name, case) in cases {
                report(name, case(engine));
            }
        })?;
    }
    let cases: Vec<_> = devicemapper::CASES.iter().filter(|(name, _)| wanted(name)).collect();
    if !cases.is_empty() {
        failed += pass(devicemapper::FLAGS, |engine, report| {
            for (name, case) in cases {
                report(name, case(engine));
            }
        })?;
    }
    let cases: Vec<_> = aufs::CASES.iter().filter(|(name, _)| wanted(name)).collect();
    if !cases.is_empty() && !crate::needs::has_aufs() {
        ui::line("skipped vm aufs: a kernel with aufs (--kernel)");
    } else if !cases.is_empty() {
        failed += pass(aufs::FLAGS, |engine, report| {
            for (name, case) in cases {
                report(name, case(engine));
            }
        })?;
    }
    let cases: Vec<_> = zfs::CASES.iter().filter(|(name, _)| wanted(name)).collect();
    if let Some(need) = crate::needs::zfs().filter(|_| !cases.is_empty()) {
        ui::line(&format!("skipped vm zfs: {need}"));
    } else if !cases.is_empty() {
        let _pool = zfs::Pool::create()?;
        failed += pass(zfs::FLAGS, |engine, report| {
            for (name, case) in cases {
                report(name, case(engine));
            }
        })?;
    }
    if failed > 0 {
        bail!("{failed} failed");
    }
    Ok(())
}

/// Takes the outcome of a case.
type Report<'a> = &'a mut dyn FnMut(&str, Result<()>);

/// Runs cases over one daemon with these flags; gives how many failed.
fn pass(flags: &[&str], cases: impl FnOnce(&mut Engine, Report<'_>)) -> Result<usize> {
    let mut engine = Engine::start(flags).context("the engine does not start")?;
    let mut failed = 0;
    cases(&mut engine, &mut |name, done| match done {
        Ok(()) => ui::line(&format!("ok vm {name}")),
        Err(error) => {
            failed += 1;
            let why = format!("{error:#}");
            ui::line(&format!("FAILED vm {name}: {}", why.lines().next().unwrap_or_default()));
            ui::detail(&why);
        }
    });
    if failed > 0 {
        ui::detail(&format!("the daemon's last words:\n{}", engine.end_of_log()));
    }
    Ok(failed)
}
