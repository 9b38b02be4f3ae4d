//! The syncs that a promise rests on, and a daemon without one of them.
//!
//! The kernel call is answered with success and not made, by strace; the daemon is the one that
//! people run.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::lab::{Attached, Lab};
use crate::daemon::{BerthDaemon, berth_program};

/// One sync.
#[derive(Debug)]
pub(super) struct Sync {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    call: &'static str,
    of: Of,
}

/// What is synced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Any,
    /// A file or directory below the data root.
    File(&'static str),
    /// The driver's directory.
    Home,
    /// The pool of thin devices.
    Pool,
}

#[rustfmt::skip]
pub(super) const ALL: &[Sync] = &[
    Sync { name: "wal",     what: "the database's log, at each commit",           call: "fsync",  of: Of::File("berth.db-wal") },
    Sync { name: "db",      what: "the database, when its log is copied into it", call: "fsync",  of: Of::File("berth.db") },
    Sync { name: "layers",  what: "the file system, when layers are complete",    call: "syncfs", of: Of::Any },
    Sync { name: "names",   what: "layers/, when layers have their names there",  call: "fsync",  of: Of::File("layers") },
    Sync { name: "removal", what: "the driver's directory: before content is deleted, and with each change of a thin device", call: "fsync", of: Of::Home },
    Sync { name: "pool",    what: "the pool of thin devices, when layers are complete", call: "fsync", of: Of::Pool },
];

pub(super) fn find(name: &str) -> Result<&'static Sync> {
    let found = ALL.iter().find(|sync| sync.name == name);
    found.with_context(|| format!("no sync {name:?}: see conformance cuts syncs"))
}

/// Has the daemon, which does not run yet, work without `sync`.
pub(super) fn leave_out(
    sync: &Sync,
    lab: &Lab,
    attached: &Attached,
    daemon: &mut BerthDaemon,
) -> Result<()> {
    let root = daemon.data_root();
    let of = match sync.of {
        Of::Any => None,
        Of::File(name) => Some(root.join(name)),
        Of::Home => Some(root.join(lab.home())),
        Of::Pool => {
            // Its name is known once it was there.
            daemon.restart()?;
            let pool = attached.thin_pool()?;
            daemon.stop()?;
            Some(pool)
        }
    };
    let mut words = strace(sync.call, of.as_deref());
    words.extend([berth_program()?.display().to_string(), "daemon".to_owned()]);
    daemon.set_program(&words.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

/// What answers a call with success and does not make it; the daemon's own words follow.
fn strace(call: &str, of: Option<&Path>) -> Vec<String> {
    let inject = format!("inject={call}:retval=0");
    let trace = format!("trace={call}");
    // The daemon is strace's parent, not its child, so signals reach it.
    let mut words: Vec<String> =
        ["strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e"]
            .map(str::to_owned)
            .to_vec();
    words.extend([trace, "-e".to_owned(), inject]);
    words.extend(of.into_iter().flat_map(|of| ["-P".to_owned(), of.display().to_string()]));
    words
}
