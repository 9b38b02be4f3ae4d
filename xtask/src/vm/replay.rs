//! `cargo xtask vm replay`: a disk as a power cut may leave it.

use std::fs::File;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use testkit::writelog::WriteLog;

use super::USAGE;
use crate::ui;

pub(super) fn run(args: &[String]) -> Result<()> {
    let (log, rest) = args.split_first().with_context(|| format!("replay takes a log\n{USAGE}"))?;
    let log = WriteLog::open(Path::new(log)).with_context(|| format!("cannot read {log}"))?;
    let (entries, flushes) = log.counts();
    let mut point = entries;
    let mut seed = 1;
    let mut image: Option<PathBuf> = None;
    let mut rest = rest.iter();
    while let Some(flag) = rest.next() {
        let value = rest.next().with_context(|| format!("{flag} needs a value\n{USAGE}"))?;
        match flag.as_str() {
            "--point" => point = value.parse().context("--point")?,
            "--seed" => seed = value.parse().context("--seed")?,
            "--image" => image = Some(value.into()),
            _ => bail!("{flag} is unknown\n{USAGE}"),
        }
    }
    let Some(image) = image else {
        ui::line(&format!("{entries} entries, {flushes} of them flushes"));
        return Ok(());
    };
    let file = File::options().write(true).open(&image);
    let file = file.with_context(|| format!("cannot write {}", image.display()))?;
    // What an earlier replay left must not show through.
    let bytes = file.metadata()?.len();
    file.set_len(0)?;
    file.set_len(bytes)?;
    Ok(log.replay(point, seed, &file)?)
}
