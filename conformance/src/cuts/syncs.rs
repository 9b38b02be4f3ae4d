//! The syncs that a promise rests on, and a daemon without one of them.
//!
//! The kernel call is answered with success and not made, by strace; where a command is asked, one
//! that does nothing answers. The daemon is the one that people run.

use std::fs::{File, Permissions};
use std::io::{ErrorKind, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

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
    /// The pool of thin devices or of ZFS.
    Pool,
}

#[rustfmt::skip]
pub(super) const ALL: &[Sync] = &[
    Sync { name: "wal",     what: "the database's log, at each commit",           call: "fsync",  of: Of::File("berth.db-wal") },
    Sync { name: "db",      what: "the database, when its log is copied into it", call: "fsync",  of: Of::File("berth.db") },
    Sync { name: "layers",  what: "the file system, when layers are complete",    call: "syncfs", of: Of::Any },
    Sync { name: "names",   what: "layers/, when layers have their names there",  call: "fsync",  of: Of::File("layers") },
    Sync { name: "removal", what: "the driver's directory: before content is deleted, and with each change of a thin device", call: "fsync", of: Of::Home },
    Sync { name: "pool",    what: "the pool of thin devices or of ZFS, when layers are complete", call: "fsync", of: Of::Pool },
];

/// As `zpool`, before it on the path; a line in the file `left-out` says that it was asked.
const NO_SYNC: &str = r#"#!/bin/sh
if [ "$1" = sync ]; then echo "$* (INJECTED)" >>"${0%/*}/../left-out"; exit 0; fi
exec /sbin/zpool "$@"
"#;
/// Below the daemon's runtime directory, a line for each call that was not made.
const LEFT_OUT: &str = "left-out";

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
    if sync.of == Of::Pool && lab.has_zpool() {
        // The driver asks the command for it.
        let dir = daemon.exec_root().join("bin");
        std::fs::create_dir_all(&dir)?;
        let program = dir.join("zpool");
        let mut file = File::create_new(&program)?;
        file.write_all(NO_SYNC.as_bytes())?;
        file.set_permissions(Permissions::from_mode(0o755))?;
        let path = std::env::var("PATH").unwrap_or_default();
        daemon.set_env(&[("PATH", &format!("{}:{path}", dir.display()))]);
        return Ok(());
    }
    let root = daemon.data_root();
    let of = match sync.of {
        Of::Any => None,
        Of::File(name) => Some(root.join(name)),
        Of::Home => Some(root.join(lab.home())),
        Of::Pool => {
            ensure!(lab.has_devices(), "{} has no pool", lab.name());
            // Its name is known once it was there.
            daemon.restart()?;
            let pool = attached.thin_pool()?;
            daemon.stop()?;
            Some(pool)
        }
    };
    let mut words = strace(sync.call, of.as_deref(), &daemon.exec_root().join(LEFT_OUT));
    words.extend([berth_program()?.display().to_string(), "daemon".to_owned()]);
    daemon.set_program(&words.iter().map(String::as_str).collect::<Vec<_>>());
    Ok(())
}

/// How many calls were left out: of a sync that is never made nothing is shown.
pub(super) fn count(daemon: &BerthDaemon) -> Result<usize> {
    let path = daemon.exec_root().join(LEFT_OUT);
    let text = match std::fs::read(&path) {
        Err(error) if error.kind() == ErrorKind::NotFound => Vec::new(),
        other => other.with_context(|| path.display().to_string())?,
    };
    Ok(String::from_utf8_lossy(&text).lines().filter(|line| line.contains("(INJECTED)")).count())
}

/// What answers a call with success and does not make it; the daemon's own words follow.
fn strace(call: &str, of: Option<&Path>, log: &Path) -> Vec<String> {
    let inject = format!("inject={call}:retval=0");
    let trace = format!("trace={call}");
    // The daemon is strace's parent, not its child, so signals reach it.
    let mut words: Vec<String> =
        ["strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-A"].map(str::to_owned).to_vec();
    words.extend(["-o".to_owned(), log.display().to_string()]);
    words.extend(["-e".to_owned(), trace, "-e".to_owned(), inject]);
    words.extend(of.into_iter().flat_map(|of| ["-P".to_owned(), of.display().to_string()]));
    words
}
