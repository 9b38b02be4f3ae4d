//! How a fork that sets up a process tells the watcher what became of it.
//!
//! One line of JSON on a pipe: the pid, or a failure. The set-up process holds the pipe until it
//! executes its program, so for an exec the end of the pipe means that the program runs.

use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::rc::Rc;

use berth_shim_proto::Failure;
use serde_json::{Value, json};

/// The writing side; clones share it, across forks too.
#[derive(Debug, Clone)]
pub(crate) struct Report {
    pipe: Rc<File>,
}

impl Report {
    pub(crate) fn new(pipe: OwnedFd) -> Self {
        Self { pipe: Rc::new(File::from(pipe)) }
    }

    /// The pipe.
    pub(crate) fn as_fd(&self) -> BorrowedFd<'_> {
        self.pipe.as_fd()
    }

    pub(crate) fn pid(&self, pid: i32) {
        self.line(&json!({ "pid": pid }));
    }

    pub(crate) fn failure(&self, failure: &Failure) {
        let Failure { exit_code, message } = failure;
        self.line(&json!({ "code": exit_code, "message": message }));
    }

    /// One write, which a pipe keeps whole: the texts are short. When the watcher is gone there is
    /// nobody to tell.
    fn line(&self, value: &Value) {
        drop((&*self.pipe).write_all(format!("{value}\n").as_bytes()));
    }
}

/// What was heard so far.
#[derive(Debug, Default)]
pub(crate) struct Heard {
    text: Vec<u8>,
}

/// What became of a process that was set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// It has this pid.
    Pid(i32),
    /// The first failure that was told.
    Failed(Failure),
}

impl Heard {
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        self.text.extend_from_slice(bytes);
    }

    /// The outcome so far: a failure outweighs a pid, for it may come after it.
    pub(crate) fn outcome(&self) -> Option<Outcome> {
        let mut pid = None;
        for line in self.text.split_inclusive(|byte| *byte == b'\n') {
            let Ok(value) = serde_json::from_slice::<Value>(line) else { continue };
            if let Some(message) = value["message"].as_str() {
                let code = value["code"].as_i64().and_then(|code| i32::try_from(code).ok());
                let exit_code = code.unwrap_or(128);
                return Some(Outcome::Failed(Failure { exit_code, message: message.to_owned() }));
            }
            pid = value["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).or(pid);
        }
        pid.map(Outcome::Pid)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_outweighs_a_pid() {
        let mut heard = Heard::default();
        assert_eq!(heard.outcome(), None);
        heard.add(b"{\"pid\":7}\n{\"code\":12");
        assert_eq!(heard.outcome(), Some(Outcome::Pid(7)));
        heard.add(b"7,\"message\":\"no\"}\n");
        let failure = Failure { exit_code: 127, message: "no".to_owned() };
        assert_eq!(heard.outcome(), Some(Outcome::Failed(failure)));
    }
}
