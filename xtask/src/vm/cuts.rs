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
/// Points of those for which a machine is needed, where nobody says how many: it is slow.
const FEW_POINTS: u64 = 3;
const BOOT_SECONDS: u64 = 120;
const SECONDS_FOR_A_POINT: u64 = 30;

/// At how many points the power is cut of each lab.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Points {
    /// Of those whose disks are looked at here.
    pub(crate) here: Option<u64>,
    /// Of those whose disks are looked at in a machine.
    pub(crate) in_machine: Option<u64>,
}

impl Points {
    /// As many of each.
    pub(crate) fn of_each(points: u64) -> Self {
        Self { here: Some(points), in_machine: Some(points) }
    }
}

/// A driver on a file system.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Lab {
    name: String,
    /// Whether its disks are looked at in a machine too: this one's kernel may not know them.
    in_machine: bool,
}

/// The records of one run. Dropped: they are gone.
#[derive(Debug)]
pub(crate) struct Records {
    dir: PathBuf,
    labs: Vec<Lab>,
}

/// What is to be recorded and looked at.
#[derive(Debug, Default)]
struct Options {
    labs: Vec<String>,
    without: Option<String>,
    points: Points,
    seed: Option<String>,
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
    let labs = ask_for_labs(&conformance, &options.labs)?;
    let records = Records::make(&conformance, labs, options.without.as_deref())?;
    records.check(&conformance, options.points, options.seed.as_deref())
}

/// These labs, or those that are usually recorded.
fn ask_for_labs(conformance: &Path, names: &[String]) -> Result<Vec<Lab>> {
    let said = run::output(Command::new(conformance).args(["cuts", "labs"]).args(names))?;
    let labs = said.lines().map(|line| {
        let (name, place) = line.split_once(' ').with_context(|| format!("a lab: {line:?}"))?;
        Ok(Lab { name: name.to_owned(), in_machine: place == "machine" })
    });
    labs.collect()
}

impl Options {
    fn parse(args: &[String]) -> Result<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(flag) = args.next() {
            let value = args.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
            match flag.as_str() {
                "--points" => {
                    options.points = Points::of_each(value.parse().context("--points")?);
                }
                "--seed" => options.seed = Some(value.clone()),
                "--without" => options.without = Some(value.clone()),
                "--lab" => options.labs.push(value.clone()),
                _ => bail!("{flag} is unknown\n{USAGE}"),
            }
        }
        Ok(options)
    }
}

impl Records {
    /// Records the labs that usually are, for which [`prepare`] was called.
    pub(crate) fn make_all(conformance: &Path) -> Result<Self> {
        Self::make(conformance, ask_for_labs(conformance, &[])?, None)
    }

    fn make(conformance: &Path, labs: Vec<Lab>, without: Option<&str>) -> Result<Self> {
        let dir = run::target().join(format!("cuts-{}", std::process::id()));
        std::fs::create_dir_all(&dir)?;
        let records = Self { dir, labs };
        let names: Vec<&str> = records.labs.iter().map(|lab| lab.name.as_str()).collect();
        let mut words = vec![conformance.display().to_string(), "cuts".into(), "record".into()];
        if let Some(sync) = without {
            words.extend(["--without".to_owned(), sync.to_owned()]);
        }
        let letters = 'a'..='z';
        words.extend(
            names.iter().zip(letters).map(|(lab, letter)| format!("/dev/vd{letter}={lab}")),
        );
        let logs = (0..names.len()).map(|number| records.log(number));
        let setup = Setup {
            command: words,
            disks: logs.map(|log| Disk::Recorded { bytes: DISK_BYTES, log }).collect(),
            console: Some(run::target().join("vm-console.log")),
            ..Setup::new()?
        };
        ui::step(&format!("recording the disks of {}", names.join(", ")));
        let code = start(&setup, &Interrupt::watch()?)?;
        ensure!(code == 0, "the machine ended with code {code}");
        Ok(records)
    }

    /// Looks at all of them, and keeps them if anything is wrong.
    pub(crate) fn check(
        self,
        conformance: &Path,
        points: Points,
        seed: Option<&str>,
    ) -> Result<()> {
        let mut checked = Ok(());
        for mut check in self.checks(conformance, points, seed)? {
            checked = checked.and(run::succeed(&mut check));
        }
        if checked.is_err() {
            self.keep();
        }
        checked
    }

    /// The commands that look at them.
    pub(crate) fn checks(
        &self,
        conformance: &Path,
        points: Points,
        seed: Option<&str>,
    ) -> Result<Vec<Command>> {
        let labs = self.labs.iter().enumerate();
        let (inside, outside): (Vec<_>, Vec<_>) = labs.partition(|(_, lab)| lab.in_machine);
        let words = |points: Option<u64>, labs: &[(usize, &Lab)]| {
            let mut words = vec!["cuts".to_owned(), "check".to_owned()];
            words.extend(points.into_iter().flat_map(|n| ["--points".to_owned(), n.to_string()]));
            words.extend(seed.into_iter().flat_map(|s| ["--seed".to_owned(), s.to_owned()]));
            let name = |(number, lab): &(usize, &Lab)| {
                format!("{}={}", self.log(*number).display(), lab.name)
            };
            words.extend(labs.iter().map(name));
            words
        };
        let mut commands = Vec::new();
        if !outside.is_empty() {
            let mut here = Command::new(conformance);
            here.args(words(points.here, &outside));
            commands.push(here);
        }
        if !inside.is_empty() {
            let points = points.in_machine.unwrap_or(FEW_POINTS);
            let limit = BOOT_SECONDS + SECONDS_FOR_A_POINT * points * inside.len() as u64;
            let mut there = Command::new(std::env::current_exe().context("this program's path")?);
            there.args(["vm", "run", "--limit", &limit.to_string(), "--"]).arg(conformance);
            there.args(words(Some(points), &inside));
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
