//! The syncs that a promise rests on, and a daemon without one of them.
//!
//! The kernel call is answered with success and not made, by strace; the daemon is the one that
//! people run.

use std::path::Path;

use anyhow::{Context as _, Result};

/// One sync.
#[derive(Debug)]
pub(super) struct Sync {
    pub(super) name: &'static str,
    pub(super) what: &'static str,
    call: &'static str,
    /// Of which file or directory, below the data root; `None` for any.
    of: Option<&'static str>,
}

/// The driver's directory.
const HOME: &str = "";

#[rustfmt::skip]
pub(super) const ALL: &[Sync] = &[
    Sync { name: "wal",     what: "the database's log, at each commit",          call: "fsync",  of: Some("berth.db-wal") },
    Sync { name: "db",      what: "the database, when its log is copied into it", call: "fsync",  of: Some("berth.db") },
    Sync { name: "layers",  what: "the file system, when layers are complete",   call: "syncfs", of: None },
    Sync { name: "names",   what: "layers/, when layers have their names there", call: "fsync",  of: Some("layers") },
    Sync { name: "removal", what: "the driver's directory, before content is deleted", call: "fsync",  of: Some(HOME) },
];

pub(super) fn find(name: &str) -> Result<&'static Sync> {
    let found = ALL.iter().find(|sync| sync.name == name);
    found.with_context(|| format!("no sync {name:?}: see conformance cuts syncs"))
}

/// What runs the daemon without `sync`; the daemon's own words follow.
pub(super) fn without(sync: &Sync, data_root: &Path, home: &str) -> Vec<String> {
    let inject = format!("inject={}:retval=0", sync.call);
    let trace = format!("trace={}", sync.call);
    // The daemon is strace's parent, not its child, so signals reach it.
    let mut words: Vec<String> =
        ["strace", "-D", "-f", "--seccomp-bpf", "-qqq", "-o", "/dev/null", "-e"]
            .map(str::to_owned)
            .to_vec();
    words.extend([trace, "-e".to_owned(), inject]);
    if let Some(of) = sync.of {
        let of = if of == HOME { home } else { of };
        words.extend(["-P".to_owned(), data_root.join(of).display().to_string()]);
    }
    words
}
