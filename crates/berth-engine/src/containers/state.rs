//! The life of a container as a pure state machine: changes in, effects out.
//!
//! Nothing here does anything; the callers carry out the effects in order.

use std::time::Duration;

use berth_api::container::RestartPolicy;
use berth_types::Timestamp;
use serde::{Deserialize, Serialize};

/// Where a container stands in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Made, never started.
    #[default]
    Created,
    /// Its init runs.
    Running,
    /// Its init runs but is frozen.
    Paused,
    /// Ended, and about to be started again by its restart policy.
    Restarting,
    /// Ended.
    Exited,
    /// Being removed.
    Removing,
    /// Its removal failed; only another removal is possible.
    Dead,
}

impl Status {
    /// Docker's word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Removing => "removing",
            Self::Dead => "dead",
        }
    }
}

/// The part of a container's record that changes while it lives.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct State {
    /// Where it stands.
    pub status: Status,
    /// Init's pid on the host; zero when it does not run.
    pub pid: i32,
    /// The last exit code.
    pub exit_code: i32,
    /// Why the last start or removal failed; empty when it did not.
    pub error: String,
    /// Whether the kernel killed a process for lack of memory during the last run.
    pub oom_killed: bool,
    /// When init was last started.
    pub started_at: Timestamp,
    /// When init last ended.
    pub finished_at: Timestamp,
    /// How often the restart policy started it since the last start by hand.
    pub restart_count: u32,
    /// Whether somebody stopped it by hand since it was last started.
    pub stopped_by_hand: bool,
    /// How often it has been started; tells one run from the next.
    pub run: u64,
    /// How long the next restart by policy waits, in milliseconds.
    pub backoff_ms: u64,
}

/// What happened to a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Its init runs.
    Started {
        /// Init's pid.
        pid: i32,
        /// When.
        at: Timestamp,
        /// By its restart policy, not by hand.
        by_policy: bool,
    },
    /// It could not be started.
    StartFailed {
        /// Docker's exit code for it.
        exit_code: i32,
        /// Why.
        error: String,
    },
    /// Frozen.
    Paused,
    /// Thawed.
    Unpaused,
    /// Somebody asks for its end.
    StopAsked,
    /// Its init ended.
    Exited {
        /// The exit code.
        exit_code: i32,
        /// Killed for lack of memory.
        oom_killed: bool,
        /// When.
        at: Timestamp,
    },
    /// The wait before a restart by policy was called off.
    RestartCalledOff,
    /// Its removal began.
    RemovalBegun,
    /// Its removal failed.
    RemovalFailed {
        /// Why.
        error: String,
    },
}

/// What must follow a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Effect {
    /// Start it again after this long.
    RestartAfter(Duration),
    /// Remove it, because it was made with `--rm`.
    Remove,
}

/// How a container wants to be treated when it ends.
#[derive(Debug, Clone, Copy)]
pub struct Policy<'a> {
    /// `--restart`.
    pub restart: &'a RestartPolicy,
    /// `--rm`.
    pub auto_remove: bool,
}

/// The first wait before a restart by policy, and the longest, as in Docker.
const FIRST_BACKOFF: u64 = 100;
const LONGEST_BACKOFF: u64 = 60_000;
/// A run this long makes the next restart wait the first backoff again.
const STEADY: Duration = Duration::from_secs(10);

impl State {
    /// Whether init exists, frozen or not.
    pub fn is_running(&self) -> bool {
        matches!(self.status, Status::Running | Status::Paused)
    }

    /// Takes in what happened and says what must follow.
    pub fn apply(&mut self, change: Change, policy: Policy<'_>) -> Option<Effect> {
        match change {
            Change::Started { pid, at, by_policy } => {
                if by_policy {
                    self.restart_count += 1;
                } else {
                    self.restart_count = 0;
                    self.backoff_ms = 0;
                }
                self.status = Status::Running;
                self.pid = pid;
                self.exit_code = 0;
                self.error.clear();
                self.oom_killed = false;
                self.started_at = at;
                self.stopped_by_hand = false;
                self.run += 1;
                None
            }
            Change::StartFailed { exit_code, error } => {
                // Docker leaves a container that never ran as "created".
                if self.status != Status::Created {
                    self.status = Status::Exited;
                }
                self.pid = 0;
                self.exit_code = exit_code;
                self.error = error;
                policy.auto_remove.then_some(Effect::Remove)
            }
            Change::Paused => {
                self.status = Status::Paused;
                None
            }
            Change::Unpaused => {
                self.status = Status::Running;
                None
            }
            Change::StopAsked => {
                self.stopped_by_hand = true;
                None
            }
            Change::Exited { exit_code, oom_killed, at } => {
                self.exit_code = exit_code;
                self.oom_killed = oom_killed;
                self.finished_at = at;
                self.pid = 0;
                self.after_exit(policy)
            }
            Change::RestartCalledOff => {
                self.status = Status::Exited;
                policy.auto_remove.then_some(Effect::Remove)
            }
            Change::RemovalBegun => {
                self.status = Status::Removing;
                None
            }
            Change::RemovalFailed { error } => {
                self.status = Status::Dead;
                self.error = error;
                None
            }
        }
    }

    fn after_exit(&mut self, policy: Policy<'_>) -> Option<Effect> {
        if self.wants_restart(policy.restart) {
            let ran = self.finished_at.since(self.started_at);
            self.backoff_ms = match self.backoff_ms {
                0 => FIRST_BACKOFF,
                _ if ran >= STEADY => FIRST_BACKOFF,
                last => (last * 2).min(LONGEST_BACKOFF),
            };
            self.status = Status::Restarting;
            return Some(Effect::RestartAfter(Duration::from_millis(self.backoff_ms)));
        }
        self.status = Status::Exited;
        policy.auto_remove.then_some(Effect::Remove)
    }

    /// Whether the policy starts it again after the exit that was just taken in.
    fn wants_restart(&self, policy: &RestartPolicy) -> bool {
        if self.stopped_by_hand {
            return false;
        }
        match policy.name.as_str() {
            "always" | "unless-stopped" => true,
            "on-failure" => {
                let limit = u32::try_from(policy.maximum_retry_count).unwrap_or(0);
                self.exit_code != 0 && (limit == 0 || self.restart_count < limit)
            }
            _ => false,
        }
    }

    /// Whether a container that the start of the engine finds ended is started again.
    pub fn wants_start_at_boot(&self, policy: &RestartPolicy) -> bool {
        match policy.name.as_str() {
            "always" => !matches!(self.status, Status::Created | Status::Removing | Status::Dead),
            "unless-stopped" => {
                !self.stopped_by_hand
                    && !matches!(self.status, Status::Created | Status::Removing | Status::Dead)
            }
            "on-failure" => self.status == Status::Restarting,
            _ => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(name: &str, retries: i64) -> RestartPolicy {
        RestartPolicy { name: name.to_owned(), maximum_retry_count: retries }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_700_000_000 + seconds, 0).unwrap()
    }

    #[test]
    fn what_follows_an_exit() {
        #[rustfmt::skip]
        let table = [
            // policy           retries  --rm   by hand  code  restarts  → status, effect
            ("no",              0,       false, false,   1,    0,  Status::Exited,     None),
            ("",                0,       true,  false,   0,    0,  Status::Exited,     Some(Effect::Remove)),
            ("always",          0,       false, false,   0,    7,  Status::Restarting, Some(Effect::RestartAfter(Duration::from_millis(100)))),
            ("always",          0,       false, true,    0,    0,  Status::Exited,     None),
            ("unless-stopped",  0,       false, false,   3,    0,  Status::Restarting, Some(Effect::RestartAfter(Duration::from_millis(100)))),
            ("on-failure",      0,       false, false,   0,    0,  Status::Exited,     None),
            ("on-failure",      0,       false, false,   1,    9,  Status::Restarting, Some(Effect::RestartAfter(Duration::from_millis(100)))),
            ("on-failure",      2,       false, false,   1,    1,  Status::Restarting, Some(Effect::RestartAfter(Duration::from_millis(100)))),
            ("on-failure",      2,       false, false,   1,    2,  Status::Exited,     None),
        ];
        for (name, retries, auto_remove, by_hand, exit_code, restarts, status, effect) in table {
            let restart = policy(name, retries);
            let policy = Policy { restart: &restart, auto_remove };
            let mut state = State::default();
            state.apply(Change::Started { pid: 9, at: at(0), by_policy: false }, policy);
            state.restart_count = restarts;
            if by_hand {
                state.apply(Change::StopAsked, policy);
            }
            let exited = Change::Exited { exit_code, oom_killed: false, at: at(1) };
            let got = state.apply(exited, policy);
            assert_eq!((state.status, got), (status, effect), "{name} {retries} {exit_code}");
            assert_eq!((state.pid, state.exit_code), (0, exit_code));
        }
    }

    #[test]
    fn restarts_wait_twice_as_long_each_time_until_a_run_was_steady() {
        let restart = policy("always", 0);
        let policy = Policy { restart: &restart, auto_remove: false };
        let mut state = State::default();
        let mut waits = Vec::new();
        for run_seconds in [1, 1, 1, 11, 1] {
            state.apply(Change::Started { pid: 9, at: at(0), by_policy: true }, policy);
            let exited = Change::Exited { exit_code: 0, oom_killed: false, at: at(run_seconds) };
            state.apply(exited, policy);
            waits.push(state.backoff_ms);
        }
        assert_eq!(waits, [100, 200, 400, 100, 200]);
        assert_eq!(state.restart_count, 5);
    }

    #[test]
    fn a_container_that_never_ran_stays_created_when_its_start_fails() {
        let restart = policy("no", 0);
        let policy = Policy { restart: &restart, auto_remove: false };
        let mut state = State::default();
        let failed = Change::StartFailed { exit_code: 127, error: "no".to_owned() };
        assert_eq!(state.apply(failed, policy), None);
        assert_eq!((state.status, state.exit_code), (Status::Created, 127));
    }
}
