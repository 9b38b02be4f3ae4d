//! The commands `zfs` and `zpool`: how they are run, and what they say.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::fs::FlockOperation;

use super::error::ZfsError;
use crate::StorageError;
use crate::error::io_at;

/// Runs commands for one home directory.
#[derive(Debug)]
pub(super) struct Runner {
    /// Locked, and given to every command: the kernel finishes what a command asked for though the
    /// process that ran it was killed, and the next process must not look at the datasets before.
    lock: File,
}

impl Runner {
    /// Waits until no command of an earlier process runs.
    pub(super) fn open(home: &Path) -> Result<Self, StorageError> {
        let lock = File::open(home).map_err(io_at("open", home))?;
        rustix::fs::flock(&lock, FlockOperation::LockExclusive).map_err(io_at("lock", home))?;
        Ok(Self { lock })
    }

    pub(super) fn zfs(&self, args: &[&str]) -> Result<String, ZfsError> {
        self.run("zfs", args)
    }

    pub(super) fn zpool(&self, args: &[&str]) -> Result<String, ZfsError> {
        self.run("zpool", args)
    }

    fn run(&self, program: &'static str, args: &[&str]) -> Result<String, ZfsError> {
        let failed = |source| ZfsError::Program { program, source };
        let lock = self.lock.try_clone().map_err(failed)?;
        run(program, args, Stdio::from(lock))
    }
}

/// Runs a command that changes nothing in a home.
pub(super) fn once(program: &'static str, args: &[&str]) -> Result<String, ZfsError> {
    run(program, args, Stdio::null())
}

fn run(program: &'static str, args: &[&str], stdin: Stdio) -> Result<String, ZfsError> {
    let mut command = Command::new(program);
    // What it says is understood in one language.
    command.args(args).env("LC_ALL", "C").stdin(stdin);
    let output = command.output().map_err(|source| ZfsError::Program { program, source })?;
    tracing::trace!(?args, status = %output.status, program, "ran");
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let said = match text.trim() {
        "" => output.status.to_string(),
        // The lines below the first are advice for somebody at a terminal.
        text => text.lines().next().unwrap_or_default().trim().to_owned(),
    };
    let verb = args.first().copied().unwrap_or_default();
    tracing::debug!(?args, said, program, "failed");
    Err(ZfsError::Command { command: format!("{program} {verb}"), said })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_process_waits_for_the_commands_of_the_last() {
        let dir = tempfile::tempdir().unwrap();
        let runner = Runner::open(dir.path()).unwrap();
        let lock = runner.lock.try_clone().unwrap();
        let mut command = Command::new("sleep").arg("1000").stdin(lock).spawn().unwrap();
        // As when the process ends and what it ran does not.
        drop(runner);
        let next = File::open(dir.path()).unwrap();
        let is_free = || rustix::fs::flock(&next, FlockOperation::NonBlockingLockExclusive).is_ok();
        assert!(!is_free());
        command.kill().unwrap();
        command.wait().unwrap();
        assert!(is_free());
    }

    #[test]
    fn what_a_command_says_is_its_first_line() {
        let error = once("ls", &["/nonexistent"]).unwrap_err().to_string();
        assert_eq!(
            error,
            "ls /nonexistent: ls: cannot access '/nonexistent': No such file or directory"
        );
        let error = once("false", &[]).unwrap_err().to_string();
        assert_eq!(error, "false : exit status: 1");
        let error = once("no-such-program", &[]).unwrap_err().to_string();
        assert_eq!(error, "cannot run no-such-program");
    }
}
