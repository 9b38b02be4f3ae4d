//! Killing the daemon in the middle of a request.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result};
use rustix::process::{Pid, Signal, kill_process};

use crate::client::{Answer, Client, Request};

/// How long a named step is stretched, so that the kill falls into it.
pub(super) const PAUSE: Duration = Duration::from_millis(80);
/// How often the steps' file is looked at.
const GLANCE: Duration = Duration::from_micros(300);
/// A step that has not come by then does not come.
const NO_STEP: Duration = Duration::from_secs(10);

/// When the daemon is to be killed.
#[derive(Debug, Clone)]
pub(super) enum Aim {
    /// So long after the request was begun to be sent.
    After(Duration),
    /// As soon as the daemon says, in this file, that it has reached this step.
    Step { file: PathBuf, name: String },
}

/// Where a kill fell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// Between the request and the answer, at no named step.
    InFlight,
    /// At the step that was aimed at.
    AtStep,
    /// When the client had the whole answer.
    AfterAnswer,
}

/// What came of it.
#[derive(Debug)]
pub(super) struct Blow {
    pub(super) place: Place,
    /// From the request to the kill.
    pub(super) offset: Duration,
    /// The answer, if the client got all of it.
    pub(super) answer: Option<Answer>,
}

impl Blow {
    /// Whether the client was told that it is done.
    pub(super) fn is_acknowledged(&self) -> bool {
        self.answer.as_ref().is_some_and(Answer::is_success)
    }
}

/// Sends the request and kills the daemon as aimed.
pub(super) fn strike(api: &Client, daemon: Pid, request: &Request, aim: &Aim) -> Result<Blow> {
    if let Aim::Step { file, .. } = aim {
        // Steps of what was done to prepare.
        fs::File::create(file).with_context(|| file.display().to_string())?;
    }
    let (begin, begun) = mpsc::channel::<Instant>();
    std::thread::scope(|scope| {
        let killer = scope.spawn(move || -> Result<(Instant, bool)> {
            let begun = begun.recv().context("the request was never sent")?;
            let step = match aim {
                Aim::After(delay) => {
                    wait_until(begun + *delay);
                    None
                }
                Aim::Step { file, name } => wait_for_step(file, name, begun),
            };
            let at = Instant::now();
            kill_process(daemon, Signal::KILL)?;
            // A machine that is busy elsewhere may be so late that the step is over.
            let is_in_step =
                step.is_some_and(|since| since.elapsed().is_ok_and(|in_it| in_it < PAUSE));
            Ok((at, is_in_step))
        });
        let begun = Instant::now();
        begin.send(begun)?;
        let answer = api.send(request).ok();
        let answered = Instant::now();
        let (killed, reached) = match killer.join() {
            Ok(result) => result?,
            Err(panic) => std::panic::resume_unwind(panic),
        };
        let place = if answer.is_some() && answered <= killed {
            Place::AfterAnswer
        } else if reached {
            Place::AtStep
        } else {
            Place::InFlight
        };
        Ok(Blow { place, offset: killed.saturating_duration_since(begun), answer })
    })
}

/// Sleeps until shortly before, then spins: a sleep alone is late by more than an operation takes.
fn wait_until(at: Instant) {
    const SPIN: Duration = Duration::from_micros(200);
    if let Some(left) = at.checked_duration_since(Instant::now() + SPIN) {
        std::thread::sleep(left);
    }
    while Instant::now() < at {
        std::hint::spin_loop();
    }
}

/// Waits for the step and gives when the daemon reached it.
fn wait_for_step(file: &Path, name: &str, begun: Instant) -> Option<SystemTime> {
    while begun.elapsed() < NO_STEP {
        let text = fs::read_to_string(file).unwrap_or_default();
        let time_of = |line: &str| {
            let (step, nanos) = line.split_once(' ')?;
            let nanos = nanos.parse().ok()?;
            (step == name).then(|| UNIX_EPOCH + Duration::from_nanos(nanos))
        };
        // Only whole lines: the last may be on its way.
        let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
        if let Some(time) = whole.lines().find_map(time_of) {
            return Some(time);
        }
        std::thread::sleep(GLANCE);
    }
    None
}
