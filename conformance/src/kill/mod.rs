//! The daemon killed with SIGKILL in the middle of operations, again and again, on the same directories.
//!
//! An engine with an image, a container that has ended and two that run is made once. Then, for each point:
//! an operation is asked for, the daemon is killed while it works (at a random moment, or at a named
//! step that is stretched for this), and started again. It must come up; what was acknowledged must be
//! there, byte for byte; the operation must be there in whole or not at all; the containers
//! that ran must not have noticed; and the directories must hold nothing that the engine does not
//! know. A table at the end says where the kills fell. A seed repeats the random moments.

mod cases;
pub(super) mod disk;
pub(super) mod fixture;
mod full;
pub(super) mod lab;
pub(super) mod random;
mod strike;
mod table;
mod trial;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::ui;
use lab::Lab;
use random::Random;
use strike::{Aim, Place, strike};
use table::Table;
use trial::{Op, Trial};

const USAGE: &str = "\
usage: conformance kill [--points N] [--seed S] [--op OP]

  --points N  so many kills of each operation between request and answer, and N/6 (at least 1, and 5
              from 30 on) in each of its named steps; without it 36 kills in all
  --seed S    repeats the random moments of an earlier run (default 1)
  --op OP     only load, create, start, rm, commit, rmi, pull, build, push or cases";

/// The named steps of each operation.
const STEPS: [&str; 4] = ["staged", "renamed", "before-record", "after-record"];
/// How many failed points are looked into before the run is given up.
const FAILURES: u32 = 6;
/// How many runs without a kill tell how long an operation takes.
const MEASURED: u32 = 3;

/// Runs `conformance kill`.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let options = Options::parse(args)?;
    let Some(options) = options else {
        ui::line(USAGE);
        return Ok(());
    };
    if !rustix::process::geteuid().is_root() {
        ui::line("skipped kill: root");
        return Ok(());
    }
    if !fixture::has_busybox() {
        ui::line("skipped kill: busybox-static");
        return Ok(());
    }
    let begun = Instant::now();
    let mut report = Report::default();
    if options.only.is_none_or(|only| only == Only::Cases) {
        for case in cases::ALL {
            report.take(case.name, (case.run)(options.seed));
        }
    }
    if options.only != Some(Only::Cases) {
        for op in Op::ALL {
            if let Some(need) = op.lacks() {
                ui::line(&format!("skipped kill {}: {need}", op.name()));
            }
        }
        kill_all(&options, &mut report)?;
    }
    let seconds = begun.elapsed().as_secs();
    ui::detail(&format!("seed {}, {seconds} s", options.seed));
    if report.failed > 0 {
        bail!("{} failed", report.failed);
    }
    Ok(())
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    Op(Op),
    Cases,
}

#[derive(Debug)]
struct Options {
    points: Option<u32>,
    seed: u64,
    only: Option<Only>,
}

impl Options {
    /// `None` when only help was asked for.
    fn parse(args: &[String]) -> Result<Option<Self>> {
        let mut options = Self { points: None, seed: 1, only: None };
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if arg == "--help" {
                return Ok(None);
            }
            let value = args.next().with_context(|| format!("{arg} needs a value\n{USAGE}"))?;
            match arg.as_str() {
                "--points" => options.points = Some(value.parse().context("--points")?),
                "--seed" => options.seed = value.parse().context("--seed")?,
                "--op" if value == "cases" => options.only = Some(Only::Cases),
                "--op" => {
                    let op = Op::ALL.into_iter().find(|op| op.name() == value);
                    options.only = Some(Only::Op(op.with_context(|| format!("no {value}"))?));
                }
                _ => bail!("{arg} is unknown\n{USAGE}"),
            }
        }
        Ok(Some(options))
    }

    fn ops(&self) -> Vec<Op> {
        let wanted =
            |op: &Op| self.only.is_none_or(|only| only == Only::Op(*op)) && op.lacks().is_none();
        Op::ALL.into_iter().filter(wanted).collect()
    }

    /// What to aim at, operation by operation.
    fn plan(&self) -> Vec<(Op, Vec<Target>)> {
        let plan_of = |(index, op): (usize, Op)| {
            if !op.has_steps() {
                let count = self.points.unwrap_or(4);
                return (op, vec![Target { step: None, count }]);
            }
            let (in_flight, steps): (u32, Vec<(&'static str, u32)>) = match self.points {
                None => {
                    // Two steps of each operation, so that each step has its turn with several.
                    let first = index + usize::try_from(self.seed % 4).unwrap_or(0);
                    (2, [first, first + 2].map(|at| (STEPS[at % 4], 1)).to_vec())
                }
                Some(points) => {
                    let each = (points / 6).clamp(1, 5);
                    (points, STEPS.map(|step| (step, each)).to_vec())
                }
            };
            let mut targets = vec![Target { step: None, count: in_flight }];
            targets
                .extend(steps.into_iter().map(|(step, count)| Target { step: Some(step), count }));
            (op, targets)
        };
        self.ops().into_iter().enumerate().map(plan_of).collect()
    }
}

/// So many kills at this step, or anywhere between request and answer.
#[derive(Debug, Clone, Copy)]
struct Target {
    step: Option<&'static str>,
    count: u32,
}

#[derive(Debug, Default)]
struct Report {
    failed: u32,
}

impl Report {
    fn take(&mut self, name: &str, result: Result<()>) {
        match result {
            Ok(()) => ui::line(&format!("ok {name}")),
            Err(error) => {
                let why = format!("{error:#}");
                ui::line(&format!("FAILED {name}: {}", why.lines().next().unwrap_or_default()));
                ui::detail(&why);
                self.failed += 1;
            }
        }
    }
}

/// Everything that is carried from one point to the next.
#[derive(Debug)]
struct Run {
    lab: Lab,
    random: Random,
    table: Table,
    durations: BTreeMap<Op, Duration>,
    /// Numbers the trials, so that each has names of its own.
    number: u32,
    steps: PathBuf,
}

fn kill_all(options: &Options, report: &mut Report) -> Result<()> {
    let mut run = Run::new(options)?;
    for (op, targets) in options.plan() {
        for target in targets {
            let name = match target.step {
                None => format!("kill {} in flight", op.name()),
                Some(step) => format!("kill {}.{step}", op.name()),
            };
            let result = run.aim_at(op, target);
            let has_failed = result.is_err();
            if has_failed {
                ui::detail(&format!("the daemon's last words:\n{}", run.lab.daemon.end_of_log()));
            }
            report.take(&name, result);
            if has_failed {
                if report.failed >= FAILURES {
                    bail!("given up after {FAILURES} failures");
                }
                run.renew(options)?;
            }
        }
    }
    for line in run.table.lines(&run.lab.starts) {
        ui::line(&line);
    }
    Ok(())
}

impl Run {
    fn new(options: &Options) -> Result<Self> {
        let lab = Lab::new("berth-kill", options.seed)?;
        let steps = lab.daemon.exec_root().join("steps");
        let mut run = Self {
            lab,
            random: Random::new(options.seed ^ 0x6b69_6c6c),
            table: Table::default(),
            durations: BTreeMap::new(),
            number: 0,
            steps,
        };
        for op in options.ops() {
            run.measure(op)?;
        }
        Ok(run)
    }

    /// A failure may leave anything behind: the next point begins with a new engine.
    fn renew(&mut self, options: &Options) -> Result<()> {
        let name = format!("berth-kill{}", self.number);
        let starts = std::mem::take(&mut self.lab.starts);
        self.lab = Lab::new(&name, options.seed)?;
        self.lab.starts = starts;
        self.steps = self.lab.daemon.exec_root().join("steps");
        Ok(())
    }

    /// How long the operation takes when nobody is killed.
    fn measure(&mut self, op: Op) -> Result<()> {
        let mut all = Vec::new();
        for _ in 0..MEASURED {
            self.number += 1;
            let trial = Trial::prepare(&mut self.lab, op, self.number)?;
            let begun = Instant::now();
            self.lab.api.expect(&trial.request)?;
            all.push(begun.elapsed());
            trial
                .settle(&self.lab, true)
                .with_context(|| format!("{} without a kill", op.name()))?;
        }
        all.sort();
        self.durations.insert(op, all[all.len() / 2]);
        self.lab.check().with_context(|| format!("{} without a kill", op.name()))
    }

    /// Kills until so many kills fell where they should. Kills beside it are checked all the same.
    fn aim_at(&mut self, op: Op, target: Target) -> Result<()> {
        let (mut hits, mut shots) = (0, 0);
        let steps = self.steps.display().to_string();
        self.lab.restart(target.step.map(|_| (steps.as_str(), strike::PAUSE)))?;
        while hits < target.count {
            shots += 1;
            if shots > 4 * target.count + 8 {
                bail!("only {hits} of {shots} kills fell where they should");
            }
            let place = self.shoot(op, target.step)?;
            let is_hit = match target.step {
                None => place == Place::InFlight,
                Some(_) => place == Place::AtStep,
            };
            hits += u32::from(is_hit);
        }
        Ok(())
    }

    fn shoot(&mut self, op: Op, step: Option<&'static str>) -> Result<Place> {
        self.number += 1;
        let trial = Trial::prepare(&mut self.lab, op, self.number).context("before the kill")?;
        let aim = match step {
            None => Aim::After(self.random.before(self.durations[&op])),
            Some(step) => {
                let name = format!("{}.{step}", op.name());
                Aim::Step { file: self.steps.clone(), name }
            }
        };
        let follower = follow(&self.lab)?;
        let daemon = self.lab.daemon.pid().context("the daemon is not there")?;
        let blow = strike(&self.lab.api, daemon, &trial.request, &aim)?;
        self.table.note(op, step, &blow);
        let offset = blow.offset.as_secs_f64() * 1000.0;
        let told = if blow.is_acknowledged() { "acknowledged" } else { "not acknowledged" };
        let place = match blow.place {
            Place::InFlight => "in flight".to_owned(),
            Place::AtStep => format!("at {}", step.unwrap_or_default()),
            Place::AfterAnswer => "after the answer".to_owned(),
        };
        let at = format!("trial {}: killed {offset:.1} ms in, {place}, {told}", self.number);
        if let Some(answer) = blow.answer.as_ref().filter(|answer| !answer.is_success()) {
            bail!("{at}: answered {} {}", answer.status, answer.text());
        }
        let check = || -> Result<()> {
            let steps = self.steps.display().to_string();
            self.lab.restart(step.map(|_| (steps.as_str(), strike::PAUSE)))?;
            let text = follower.join().map_err(|_panic| anyhow::anyhow!("the follower died"))?;
            lab::in_sequence(&text).context("what a follower saw before the kill")?;
            self.lab.check_disk().context("right after the start")?;
            trial.settle(&self.lab, blow.is_acknowledged())?;
            self.lab.check()
        };
        check().with_context(|| at)?;
        Ok(blow.place)
    }
}

/// Follows the counter's log on another thread until the daemon is gone.
fn follow(lab: &Lab) -> Result<std::thread::JoinHandle<Vec<u8>>> {
    let mut stream = lab.follow_counter()?;
    Ok(std::thread::spawn(move || stream.read_until(|_| false)))
}
