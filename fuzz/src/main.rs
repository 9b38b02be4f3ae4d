//! Fuzzing of berth's parsers on the stable toolchain.
//!
//! `berth-fuzz TARGET [--seconds N] [--seed S] [--executions N]` mutates the committed corpus
//! and checks what must hold for every input. A seed gives the same inputs again. Inputs that
//! break a promise are saved under `fuzz/failures/`; `berth-fuzz TARGET FILE…` runs files.

#![forbid(unsafe_code)]

mod dockerfile;
mod manifest;
mod mutate;
mod random;
mod reference;
mod tar;

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use crate::random::Random;

/// One thing that can be fuzzed.
trait Target {
    /// Mutated inputs are made of these.
    fn corpus(&self) -> anyhow::Result<Vec<Vec<u8>>>;
    /// Changes an input in place.
    fn mutate(&self, random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]);
    /// Runs an input; an error is a broken promise. Says whether the input was accepted.
    fn run(&mut self, input: &[u8], round: u64) -> anyhow::Result<bool>;
}

/// So many failures are one bug, or a broken machine; each is a file.
const ENOUGH: u64 = 50;

struct Options {
    target: String,
    seconds: u64,
    executions: u64,
    seed: u64,
    files: Vec<PathBuf>,
}

fn options() -> anyhow::Result<Options> {
    let mut arguments = std::env::args().skip(1);
    let target = arguments
        .next()
        .context("usage: berth-fuzz tar|dockerfile|reference|manifest [--seconds N] [--seed S]")?;
    let mut options =
        Options { target, seconds: 10, executions: u64::MAX, seed: 1, files: Vec::new() };
    while let Some(argument) = arguments.next() {
        let mut number = || -> anyhow::Result<u64> {
            let value = arguments.next().with_context(|| format!("{argument} needs a number"))?;
            value.parse().with_context(|| format!("{argument} {value}"))
        };
        match argument.as_str() {
            "--seconds" => options.seconds = number()?,
            "--seed" => options.seed = number()?,
            "--executions" => options.executions = number()?,
            file if !file.starts_with('-') => options.files.push(file.into()),
            other => bail!("unknown option {other}"),
        }
    }
    Ok(options)
}

fn say(text: &str) -> anyhow::Result<()> {
    writeln!(std::io::stdout(), "{text}").context("cannot write to stdout")
}

fn home() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The files of a target's corpus, in the order of their names.
fn files(target: &str) -> anyhow::Result<Vec<Vec<u8>>> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(home().join("corpus").join(target))? {
        files.push(entry?.path());
    }
    files.sort();
    files.into_iter().map(|file| Ok(std::fs::read(file)?)).collect()
}

/// Runs one input; a panic is a broken promise like any other.
fn check(target: &mut dyn Target, input: &[u8], round: u64) -> anyhow::Result<bool> {
    match catch_unwind(AssertUnwindSafe(|| target.run(input, round))) {
        Ok(result) => result,
        Err(_) => bail!("a panic"),
    }
}

fn main() -> anyhow::Result<()> {
    let options = options()?;
    let mut target: Box<dyn Target> = match options.target.as_str() {
        "dockerfile" => Box::new(dockerfile::Text),
        "reference" => Box::new(reference::Name),
        "manifest" => Box::new(manifest::Document),
        "tar" => Box::new(tar::Tar::new()?),
        other => bail!("unknown target {other}"),
    };
    if !options.files.is_empty() {
        for file in &options.files {
            let input = std::fs::read(file).with_context(|| file.display().to_string())?;
            for round in 0..tar::STYLES {
                check(&mut *target, &input, round).with_context(|| file.display().to_string())?;
            }
        }
        return say(&format!("{} executions, 0 failures", options.files.len()));
    }
    fuzz(&options, &mut *target)
}

fn fuzz(options: &Options, target: &mut dyn Target) -> anyhow::Result<()> {
    let corpus = target.corpus()?;
    ensure!(!corpus.is_empty(), "the corpus is empty");
    let end = Instant::now() + Duration::from_secs(options.seconds);
    let mut random = Random::new(options.seed);
    let (mut executions, mut accepted, mut failures) = (0_u64, 0_u64, 0_u64);
    while executions < options.executions && Instant::now() < end {
        let mut input = random.pick(&corpus).clone();
        // The corpus itself comes first, unchanged.
        if let Some(seed) = usize::try_from(executions).ok().and_then(|at| corpus.get(at)) {
            input.clone_from(seed);
        } else {
            for _ in 0..=random.below(6) {
                target.mutate(&mut random, &mut input, &corpus);
            }
        }
        match check(target, &input, executions) {
            Ok(yes) => accepted += u64::from(yes),
            Err(error) => {
                failures += 1;
                save(options, executions, &input, &error)?;
                ensure!(failures < ENOUGH, "{failures} inputs broke a promise: given up");
            }
        }
        executions += 1;
    }
    say(&format!("{}: seed {}, {accepted} inputs accepted", options.target, options.seed))?;
    say(&format!("{executions} executions, {failures} failures"))?;
    ensure!(failures == 0, "{failures} inputs broke a promise");
    Ok(())
}

fn save(
    options: &Options,
    execution: u64,
    input: &[u8],
    error: &anyhow::Error,
) -> anyhow::Result<()> {
    let dir = home().join("failures");
    std::fs::create_dir_all(&dir)?;
    let path = dir.join(format!("{}-{}-{execution}", options.target, options.seed));
    berth_fs::atomic::write(&path, input)?;
    say(&format!("failure: {error:#}: {}", path.display()))
}
