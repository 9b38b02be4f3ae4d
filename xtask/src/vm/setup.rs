//! What a machine is to be like.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use rustix::termios::Termios;

/// The exit code by which the command asks to be run once more, in the next boot of the machine on the same
/// disks. This one ends in order: processes are ended, disks unmounted.
pub(crate) const REBOOT: u8 = 90;
/// As [`REBOOT`], but the machine stops where it is: what only its memory has is lost.
pub(crate) const POWER_CUT: u8 = 91;

/// A machine and what it runs.
#[derive(Debug)]
pub(crate) struct Setup {
    pub(crate) command: Vec<String>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) working_dir: PathBuf,
    pub(crate) disks: Vec<Disk>,
    pub(crate) memory_mib: u32,
    pub(crate) cgroup: Cgroup,
    /// A kernel with everything built in, instead of Debian's.
    pub(crate) kernel: Option<PathBuf>,
    /// From the start of the machine, all boots together.
    pub(crate) limit: Duration,
    /// How often it may be booted: its command asks for the next boot by its exit code, [`REBOOT`] or
    /// [`POWER_CUT`]. With one these are exit codes like others.
    pub(crate) boots: u32,
    /// Writable in the machine, at the same path.
    pub(crate) share: Option<PathBuf>,
    pub(crate) console: Option<PathBuf>,
    pub(crate) terminal: Option<Terminal>,
}

/// A disk of the machine: `/dev/vda` and on, in order.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Disk {
    Empty {
        bytes: u64,
    },
    File(PathBuf),
    /// An empty one, each write to which is recorded.
    Recorded {
        bytes: u64,
        log: PathBuf,
    },
}

/// Which control groups the machine has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Cgroup {
    V1,
    V2,
}

/// The terminal that a shell gets.
#[derive(Debug)]
pub(crate) struct Terminal {
    pub(super) rows: u16,
    pub(super) columns: u16,
    pub(super) kind: String,
    pub(super) state: Termios,
}

impl Setup {
    /// A machine as it is without options.
    pub(crate) fn new() -> Result<Self> {
        Ok(Self {
            command: Vec::new(),
            env: Vec::new(),
            working_dir: std::env::current_dir()?,
            disks: Vec::new(),
            memory_mib: 2048,
            cgroup: Cgroup::V2,
            kernel: None,
            limit: Duration::from_mins(10),
            boots: 1,
            share: None,
            console: None,
            terminal: None,
        })
    }
}

impl Terminal {
    pub(super) fn of_this_process() -> Result<Self> {
        let state = rustix::termios::tcgetattr(std::io::stdin()).context("this is no terminal")?;
        let size = rustix::termios::tcgetwinsize(std::io::stdin())?;
        let kind = std::env::var("TERM").unwrap_or_else(|_| "linux".to_owned());
        Ok(Self { rows: size.ws_row, columns: size.ws_col, kind, state })
    }
}
