//! Memory of engines and watchers: the proportional share (PSS), so that what processes share is
//! counted once.

use crate::processes::{self, Process};

/// An engine's memory in MiB: its process, and the containerd that does part of its work.
pub(super) fn of_daemon(pid: u32) -> Option<f64> {
    let own = processes::read(pid)?;
    let mut total = own.pss()?;
    if own.name == "dockerd" {
        total += containerd_of(&own)?.pss()?;
    }
    Some(mebibytes(total))
}

/// The containerd that dockerd started, or else the one of the machine.
fn containerd_of(dockerd: &Process) -> Option<Process> {
    let mut all: Vec<Process> =
        processes::all().into_iter().filter(|process| process.name == "containerd").collect();
    let own = all.iter().position(|process| process.parent == dockerd.pid);
    let others = all.iter().position(|process| process.parent == 1);
    own.or(others).map(|at| all.swap_remove(at))
}

/// The mean memory of these containers' watchers in MiB.
pub(super) fn of_watchers(containers: &[String]) -> Option<f64> {
    let watches = |process: &&Process| {
        process.is_watcher()
            && process
                .arguments
                .iter()
                .any(|word| containers.iter().any(|container| word.contains(container.as_str())))
    };
    let all = processes::all();
    let shares: Vec<u64> = all.iter().filter(watches).filter_map(Process::pss).collect();
    let count = u64::try_from(shares.len()).ok().filter(|count| *count > 0)?;
    Some(mebibytes(shares.iter().sum()) / mebibytes(count * 1024))
}

#[expect(clippy::cast_precision_loss, reason = "shown with three digits")]
fn mebibytes(kibibytes: u64) -> f64 {
    kibibytes as f64 / 1024.0
}
