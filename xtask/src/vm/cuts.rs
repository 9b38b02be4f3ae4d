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
const LABS: [&str; 5] =
    ["overlay2/ext4", "overlay2/xfs", "btrfs/btrfs", "devicemapper/ext4", "devicemapper-lvm/ext4"];
/// Points of those for which a machine is needed, where nobody says how many: it is slow.
const FEW_POINTS: u64 = 3;
const BOOT_SECONDS: u64 = 120;
const SECONDS_FOR_A_POINT: u64 = 30;
/// Drivers whose disks are looked at in a machine too: the host's kernel may not know them.
const IN_MACHINE: [&str; 1] = ["devicemapper"];

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
    records.check(&conformance, &options.check)
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

    /// Looks at all of them, and keeps them if anything is wrong. `words` go to `conformance cuts check`.
    pub(crate) fn check(self, conformance: &Path, words: &[String]) -> Result<()> {
        let mut checked = Ok(());
        for mut check in self.checks(conformance, words)? {
            checked = checked.and(run::succeed(&mut check));
        }
        if checked.is_err() {
            self.keep();
        }
        checked
    }

    /// The commands that look at them.
    pub(crate) fn checks(&self, conformance: &Path, words: &[String]) -> Result<Vec<Command>> {
        let labs = self.labs.iter().enumerate();
        let (inside, outside): (Vec<_>, Vec<_>) = labs.partition(|(_, lab)| {
            let driver = lab.split(['/', '-']).next().unwrap_or_default();
            IN_MACHINE.contains(&driver)
        });
        let name =
            |(number, lab): &(usize, &String)| format!("{}={lab}", self.log(*number).display());
        let mut commands = Vec::new();
        if !outside.is_empty() {
            let mut here = Command::new(conformance);
            here.args(["cuts", "check"]).args(words).args(outside.iter().map(name));
            commands.push(here);
        }
        if !inside.is_empty() {
            let mut words = words.to_vec();
            let given = words.iter().position(|word| word == "--points");
            let points = match given.and_then(|at| words.get(at + 1)) {
                Some(points) => points.parse().context("--points")?,
                None => FEW_POINTS,
            };
            if given.is_none() {
                words.extend(["--points".to_owned(), points.to_string()]);
            }
            let limit = BOOT_SECONDS + SECONDS_FOR_A_POINT * points * inside.len() as u64;
            let mut there = Command::new(std::env::current_exe().context("this program's path")?);
            there.args(["vm", "run", "--limit", &limit.to_string(), "--"]).arg(conformance);
            there.args(["cuts", "check"]).args(&words).args(inside.iter().map(name));
            commands.push(there);
        }
        Ok(commands)
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
