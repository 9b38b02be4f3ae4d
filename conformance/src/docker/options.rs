//! The flags of `conformance docker`.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};

pub(super) const USAGE: &str = "\
usage: conformance docker [flags]

Drives the docker CLI on the path against berth (the program beside this one, or BERTH_BIN) and
compares exit codes and output with what dockerd answers.

  --socket PATH     compare with the dockerd on this socket instead of the recorded goldens;
                    the cases prune, so it must be an engine that holds nothing
  --record          record goldens from dockerd: from --socket, or one started here
  --only TEXT       only cases whose name contains this (may repeat)
  --driver NAME     only this storage driver's pass: overlay2, btrfs, fuse-overlayfs,
                    overlay or vfs; or userns, the one with remapped users, or experimental
  --accept          take berth's answers as expected for the cases that differences.txt names
  --jobs N          cases at the same time (default: 3)
  --list            names of the cases

BERTH_KEEP=1 leaves the engine running and its directories in place.";

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Mode {
    /// Compare berth with dockerd.
    Compare,
    /// Write down what dockerd answers.
    Record,
}

/// The flags, parsed.
#[derive(Debug)]
pub(super) struct Options {
    pub(super) mode: Mode,
    pub(super) socket: Option<PathBuf>,
    pub(super) accept: bool,
    pub(super) list: bool,
    pub(super) jobs: usize,
    only: Vec<String>,
    driver: Option<String>,
}

impl Options {
    /// `None` when help was asked for.
    pub(super) fn parse(args: &[String]) -> Result<Option<Self>> {
        let mut options = Self {
            mode: Mode::Compare,
            socket: None,
            accept: false,
            list: false,
            jobs: 3,
            only: Vec::new(),
            driver: None,
        };
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let mut value = || args.next().with_context(|| format!("{flag} needs a value"));
            match flag.as_str() {
                "--socket" => options.socket = Some(value()?.into()),
                "--only" => options.only.push(value()?.clone()),
                "--driver" => options.driver = Some(value()?.clone()),
                "--jobs" => options.jobs = value()?.parse().context("--jobs")?,
                "--record" => options.mode = Mode::Record,
                "--accept" => options.accept = true,
                "--list" => options.list = true,
                "--help" | "-h" => return Ok(None),
                _ => bail!("unknown flag {flag}\n{USAGE}"),
            }
        }
        Ok(Some(options))
    }

    pub(super) fn wants(&self, case: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|part| case.contains(part.as_str()))
    }

    pub(super) fn wants_driver(&self, driver: Option<&str>) -> bool {
        self.driver.as_deref().is_none_or(|only| only == driver.unwrap_or("overlay2"))
    }

    /// Whether every case runs.
    pub(super) fn is_whole(&self) -> bool {
        self.only.is_empty()
    }
}
