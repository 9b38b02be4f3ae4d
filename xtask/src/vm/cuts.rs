//! `cargo xtask vm cuts`: a daemon's disks at points where the power may be cut.
//!
//! One machine records the work of a daemon for each lab; the disks are made and looked at here.
//! `docs/design/0013-power-cuts-are-replayed.md` says why.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail, ensure};

use super::{Disk, Setup, USAGE, prepare, start};
use crate::interrupt::Interrupt;
use crate::{host, run, ui};

/// What conformance expects of a disk.
const DISK_BYTES: u64 = 512 << 20;
/// By driver and file system.
const LABS: [&str; 3] = ["overlay2/ext4", "overlay2/xfs", "btrfs/btrfs"];

/// The records of one run. Dropped: they are gone.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    labs: Vec<String>,
}

/// What is to be recorded and looked at.
#[derive(Debug, Default)]
struct Options {
    labs: Vec<String>,
    without: Option<String>,
    /// Words for `conformance cuts check`.
    check: Vec<String>,
}

pub(super) fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    prepare(None)?;
    host::ensure(host::VM_TEST)?;
    host::ensure(host::CUTS)?;
    ui::step("building the release binaries");
    let built = run::build_release()?;
    run::succeed(run::cargo().args(["build", "--release", "-p", "conformance"]))?;
    let conformance = built.join("conformance");
    let labs: Vec<&str> = options.labs.iter().map(String::as_str).collect();
    let labs = if labs.is_empty() { &LABS[..] } else { &labs };
    let records = Records::make(&conformance, labs, options.without.as_deref())?;
    let mut check = records.check(&conformance);
    let checked = run::succeed(check.args(&options.check));
    if checked.is_err() {
        records.keep();
    }
    checked
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let value = args.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--points" | "--seed" => options.check.extend([flag.clone(), value.clone()]),
                "--without" => options.without = Some(value.clone()),
                "--lab" => options.labs.push(value.clone()),
                _ => bail!("{flag} is unknown\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

impl Records {
    /// Records all labs, for which [`prepare`] was called.
    pub(crate) fn make_all(conformance: &Path) -> Result<Self> {
        Self::make(conformance, &LABS, None)
    }

    fn make(conformance: &Path, labs: &[&str], without: Option<&str>) -> Result<Self> {
        let dir = run::target().join(format!("cuts-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let records = Self { dir, labs: labs.iter().map(|&lab| lab.to_owned()).collect() };
        let mut words = vec![conformance.display().to_string(), "cuts".into(), "record".into()];
        if let Some(sync) = without {
            words.extend(["--without".to_owned(), sync.to_owned()]);
        }
        let letters = 'a'..='z';
        words
            .extend(labs.iter().zip(letters).map(|(lab, letter)| format!("/dev/vd{letter}={lab}")));
        let logs = (0..labs.len()).map(|number| records.log(number));
        let setup = Setup {
            command: words,
            disks: logs.map(|log| Disk::Recorded { bytes: DISK_BYTES, log }).collect(),
            console: Some(run::target().join("vm-console.log")),
            ..Setup::new()?
        };
        ui::step(&format!("recording the disks of {}", labs.join(", ")));
        let code = start(&setup, &Interrupt::watch()?)?;
        ensure!(code == 0, "the machine ended with code {code}");
        Ok(records)
    }

    /// The command that looks at them, which takes further words.
    pub(crate) fn check(&self, conformance: &Path) -> Command {
        let mut command = Command::new(conformance);
        command.args(["cuts", "check"]);
        for (number, lab) in self.labs.iter().enumerate() {
            command.arg(format!("{}={lab}", self.log(number).display()));
        }
        command
    }

    /// Leaves them where they are, and says where.
    pub(crate) fn keep(mut self) {
        ui::line(&format!("the records are kept: {}", self.dir.display()));
        self.labs.clear();
    }

    fn log(&self, number: usize) -> PathBuf {
        self.dir.join(format!("log{number}"))
    }
}

impl Drop for Records {
    fn drop(&mut self) {
        if self.labs.is_empty() {
            // They are kept.
            return;
        }
        if let Err(error) = std::fs::remove_dir_all(&self.dir) {
            ui::error(&format!("cannot remove {}: {error}", self.dir.display()));
        }
    }
}
