//! The procedures of Docker's guide to devicemapper, command by command, on a virtual machine that is
//! rebooted and loses its power between them; their listings are compared with the guide's.
//!
//! What lasts from one boot to the next is on the machine's disks, and nowhere else.

mod direct_lvm;
mod host;
mod loop_lvm;
mod transcript;

use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use crate::kill::fixture;
use crate::{needs, ui};
use host::Host;

/// A step of a procedure, and its name in the report.
type Step = (&'static str, fn(&mut Host) -> Result<()>);

/// The exit codes by which a virtual machine is asked for its next boot.
const REBOOT: u8 = 90;
const POWER_CUT: u8 = 91;

/// What is done in a boot, and how it ends.
fn boot(number: u32) -> Result<(Vec<Step>, Option<u8>)> {
    Ok(match number {
        1 => (loop_lvm::STEPS.to_vec(), Some(POWER_CUT)),
        2 => ([loop_lvm::AFTER_POWER_CUT, direct_lvm::STEPS].concat(), Some(REBOOT)),
        3 => (direct_lvm::AFTER_REBOOT.to_vec(), None),
        _ => bail!("there is no boot {number}"),
    })
}

/// Runs `conformance guide`: the steps of this boot.
pub(crate) fn run() -> Result<ExitCode> {
    if let Some(need) = missing() {
        ui::line(&format!("skipped guide: {need}"));
        return Ok(ExitCode::SUCCESS);
    }
    let number = std::env::var("BERTH_VM_BOOT").unwrap_or_else(|_| "1".to_owned());
    let number = number.parse().context("BERTH_VM_BOOT")?;
    let (steps, end) = boot(number)?;
    let mut host = Host::new(number, &std::env::var("BERTH_VM_DISKS").unwrap_or_default())?;
    for (at, (name, step)) in steps.iter().enumerate() {
        if let Err(error) = step(&mut host) {
            let why = format!("{error:#}");
            ui::line(&format!("FAILED guide {name}: {}", why.lines().next().unwrap_or_default()));
            ui::detail(&why);
            // Each step goes on from where the last one ended.
            bail!("boot {number} ended there, before {} steps", steps.len() - at - 1);
        }
        ui::line(&format!("ok guide {name}"));
    }
    let Some(code) = end else { return Ok(ExitCode::SUCCESS) };
    host.leave();
    Ok(ExitCode::from(code))
}

fn missing() -> Option<&'static str> {
    if std::env::var_os("BERTH_VM").is_none() {
        return Some("a virtual machine (cargo xtask test --only vm)");
    }
    if !fixture::has_busybox() {
        return Some("busybox-static");
    }
    let programs = [
        ("docker", "the docker CLI"),
        ("lvcreate", "lvm2"),
        ("thin_check", "thin-provisioning-tools"),
        ("dmsetup", "dmsetup"),
        ("dmeventd", "dmeventd"),
    ];
    programs.into_iter().find(|(program, _)| !needs::on_path(program)).map(|(_, need)| need)
}
