//! Other processes: signals by pidfd, reaping, and how this one is treated by its parent.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::process::{DumpableBehavior, Pid, PidfdFlags, WaitOptions, WaitStatus};

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// It called `exit` with this status.
    Code(i32),
    /// This signal killed it.
    Signal(i32),
}

impl Exit {
    /// The status as shells and Docker show it: 128 and the signal's number for a killed process.
    pub fn code(self) -> i32 {
        match self {
            Self::Code(code) => code,
            Self::Signal(signal) => 128 + signal,
        }
    }

    fn of(status: WaitStatus) -> Option<Self> {
        status.exit_status().map(Self::Code).or(status.terminating_signal().map(Self::Signal))
    }
}

/// A child that ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Reaped {
    /// Its process id, free for others now.
    pub pid: i32,
    /// How it ended.
    pub exit: Exit,
}

fn pid_of(pid: i32) -> io::Result<Pid> {
    (pid > 0)
        .then(|| Pid::from_raw(pid))
        .flatten()
        .ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "not a process id"))
}

/// A descriptor that stays bound to this very process, whoever gets its number later.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    Ok(rustix::process::pidfd_open(pid_of(pid)?, PidfdFlags::empty())?)
}

/// Sends any signal, real-time ones included; 0 only checks that the process is there.
pub fn pidfd_send_signal(pidfd: impl AsFd, signal: i32) -> io::Result<()> {
    let fd = pidfd.as_fd();
    // SAFETY: the call reads two integers and two null arguments (no siginfo, no flags), so the
    // kernel touches no memory of ours; `fd` is borrowed and therefore open during the call, and
    // the kernel checks that it is a pidfd and that the signal's number exists.
    let result = unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            fd.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0_u32,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Waits until the process behind `pidfd` has ended or the time is over; says whether it ended.
/// It need not be a child. No limit waits for ever.
pub fn pidfd_wait(pidfd: impl AsFd, limit: Option<std::time::Duration>) -> io::Result<bool> {
    use rustix::event::{PollFd, PollFlags, Timespec, poll};
    let deadline = limit.and_then(|limit| std::time::Instant::now().checked_add(limit));
    loop {
        let timeout = deadline
            .map(|at| at.saturating_duration_since(std::time::Instant::now()))
            .map(|left| Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput))
            .transpose()?;
        match poll(&mut [PollFd::new(&pidfd, PollFlags::IN)], timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => {}
            other => return Ok(other? > 0),
        }
    }
}

/// Reaps one child that has ended, any child. `None` when none has ended or there are none.
pub fn reap() -> io::Result<Option<Reaped>> {
    loop {
        return match rustix::process::wait(WaitOptions::NOHANG) {
            Err(rustix::io::Errno::INTR) => continue,
            Err(rustix::io::Errno::CHILD) | Ok(None) => Ok(None),
            Err(error) => Err(error.into()),
            Ok(Some((pid, status))) => match Exit::of(status) {
                Some(exit) => Ok(Some(Reaped { pid: pid.as_raw_nonzero().get(), exit })),
                None => continue,
            },
        };
    }
}

/// Waits for one particular child to end, and reaps it.
pub fn wait_for(pid: i32) -> io::Result<Exit> {
    let pid = pid_of(pid)?;
    loop {
        match rustix::process::waitpid(Some(pid), WaitOptions::empty()) {
            Err(rustix::io::Errno::INTR) | Ok(None) => {}
            Err(error) => return Err(error.into()),
            Ok(Some((_, status))) => {
                if let Some(exit) = Exit::of(status) {
                    return Ok(exit);
                }
            }
        }
    }
}

/// Makes orphaned descendants of this process its children, so that it can reap them.
pub fn become_subreaper() -> io::Result<()> {
    Ok(rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?)
}

/// Asks for `signal` when the thread that made this process ends; `None` asks for nothing.
pub fn set_parent_death_signal(signal: Option<i32>) -> io::Result<()> {
    let signal = match signal {
        None => None,
        Some(raw) => Some(
            rustix::process::Signal::from_named_raw(raw)
                .ok_or(io::Error::from(io::ErrorKind::InvalidInput))?,
        ),
    };
    Ok(rustix::process::set_parent_process_death_signal(signal)?)
}

/// Whether this process may be traced and leaves core files (`PR_GET_DUMPABLE` is 1).
pub fn is_dumpable() -> io::Result<bool> {
    Ok(rustix::process::dumpable_behavior()? == DumpableBehavior::Dumpable)
}

/// Sets what [`is_dumpable`] says.
pub fn set_dumpable(yes: bool) -> io::Result<()> {
    let behavior = if yes { DumpableBehavior::Dumpable } else { DumpableBehavior::NotDumpable };
    Ok(rustix::process::set_dumpable_behavior(behavior)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;
    use std::time::Duration;

    #[test]
    fn exits_are_shown_as_docker_shows_them() {
        assert_eq!(Exit::Code(7).code(), 7);
        assert_eq!(Exit::Signal(9).code(), 137);
    }

    #[test]
    fn a_child_is_signalled_and_waited_for_by_pidfd() {
        #[expect(clippy::zombie_processes, reason = "wait_for reaps it")]
        let child = Command::new("sleep").arg("60").spawn().unwrap();
        let pid = i32::try_from(child.id()).unwrap();
        let pidfd = pidfd_open(pid).unwrap();
        assert!(!pidfd_wait(&pidfd, Some(Duration::ZERO)).unwrap());
        pidfd_send_signal(&pidfd, 0).unwrap();
        pidfd_send_signal(&pidfd, libc::SIGRTMIN()).unwrap();
        assert!(pidfd_wait(&pidfd, Some(Duration::from_secs(10))).unwrap());
        assert_eq!(wait_for(pid).unwrap(), Exit::Signal(libc::SIGRTMIN()));
        assert!(pidfd_send_signal(&pidfd, 0).is_err());
    }

    #[test]
    fn nonsense_is_refused() {
        assert!(pidfd_open(0).is_err());
        assert!(pidfd_open(-1).is_err());
        assert!(wait_for(0).is_err());
    }
}
