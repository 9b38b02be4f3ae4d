//! Forking, for programs that have one thread.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd as _, BorrowedFd};

/// Which side of a fork this is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Forked {
    /// The process that asked; the new one has this id.
    Parent {
        /// The new process.
        pid: i32,
    },
    /// The new process.
    Child,
}

/// How many threads this process has.
pub fn thread_count() -> io::Result<usize> {
    Ok(std::fs::read_dir("/proc/self/task")?.count())
}

/// Makes a copy of this process. Refused with an error when it has more than one thread.
pub fn fork() -> io::Result<Forked> {
    if thread_count()? != 1 {
        return Err(io::Error::other("a process with several threads cannot be forked safely"));
    }
    // SAFETY: the danger of fork is that locks held by other threads (the allocator's above all)
    // stay locked for ever in the child. It was just found that this thread is the only one, and
    // only a running thread can start another; so no lock is held by anybody but the caller, and
    // the child may go on like any program.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent { pid }),
    }
}

/// As [`fork`], with the new process in the version 2 control group whose directory this is, from
/// its first instant. Moving a process there later makes it wait for everybody else on the machine
/// (an RCU grace period, tens of milliseconds). Needs Linux 5.7.
pub fn fork_into(cgroup: BorrowedFd<'_>) -> io::Result<Forked> {
    if thread_count()? != 1 {
        return Err(io::Error::other("a process with several threads cannot be forked safely"));
    }
    let args = CloneArgs {
        flags: CLONE_INTO_CGROUP,
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        cgroup: u64::from(cgroup.as_raw_fd().cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: as with fork above, this thread is the only one, so nothing is locked by others in
    // the child. Without CLONE_VM the child has its own copy of the memory, and with a zero stack
    // it goes on on its copy of this one. `args` outlives the call, and its size is given.
    let result = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>())
    };
    match result {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Forked::Child),
        pid => Ok(Forked::Parent { pid: i32::try_from(pid).map_err(io::Error::other)? }),
    }
}

const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// `struct clone_args` of the kernel, up to `cgroup`.
#[repr(C)]
#[derive(Default)]
pub(crate) struct CloneArgs {
    pub(crate) flags: u64,
    pub(crate) pidfd: u64,
    pub(crate) child_tid: u64,
    pub(crate) parent_tid: u64,
    pub(crate) exit_signal: u64,
    pub(crate) stack: u64,
    pub(crate) stack_size: u64,
    pub(crate) tls: u64,
    pub(crate) set_tid: u64,
    pub(crate) set_tid_size: u64,
    pub(crate) cgroup: u64,
}

/// Ends this process at once: no destructors, no buffers flushed. For the middle of a double fork.
fn exit_now(code: i32) -> ! {
    // SAFETY: `_exit` only ends the process; it runs no handlers and touches no memory.
    unsafe { libc::_exit(code) }
}

/// Forks twice, so that the new process is a child of init (or of the nearest subreaper) and
/// leads a session of its own, without a terminal. The parent learns the final process id.
pub fn daemonize() -> io::Result<Forked> {
    let (mut reader, writer) = io::pipe()?;
    match fork()? {
        Forked::Parent { pid: middle } => {
            drop(writer);
            let mut raw = [0; 4];
            let told = reader.read_exact(&mut raw);
            let exit = crate::process::wait_for(middle)?;
            match told {
                Ok(()) => Ok(Forked::Parent { pid: i32::from_ne_bytes(raw) }),
                Err(_) => Err(match exit {
                    crate::process::Exit::Code(errno) if errno > 0 => {
                        io::Error::from_raw_os_error(errno)
                    }
                    _ => io::Error::other("the process between two forks was killed"),
                }),
            }
        }
        Forked::Child => {
            drop(reader);
            match split_off(writer.into()) {
                Ok(Forked::Child) => Ok(Forked::Child),
                Ok(Forked::Parent { .. }) => exit_now(0),
                Err(error) => exit_now(error.raw_os_error().unwrap_or(libc::EIO)),
            }
        }
    }
}

fn split_off(writer: std::os::fd::OwnedFd) -> io::Result<Forked> {
    rustix::process::setsid()?;
    let side = fork()?;
    if let Forked::Parent { pid } = side {
        File::from(writer).write_all(&pid.to_ne_bytes())?;
    }
    Ok(side)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_with_threads_is_not_forked() {
        // The test runner's main thread exists beside the one that runs this.
        assert!(thread_count().unwrap() > 1);
        assert!(fork().is_err());
        let dir = File::open("/").unwrap();
        assert!(fork_into(std::os::fd::AsFd::as_fd(&dir)).is_err());
    }
}
