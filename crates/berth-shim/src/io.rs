//! A process's standard streams: pipes, or a terminal.

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags, Uid};
use rustix::pty::OpenptFlags;

/// The watcher's ends.
#[derive(Debug, Default)]
pub(crate) struct Ends {
    /// Standard input, while it is open.
    pub(crate) input: Option<OwnedFd>,
    /// Standard output (a terminal's both) and standard error, until their ends.
    pub(crate) output: [Option<OwnedFd>; 2],
}

/// The process's ends.
#[derive(Debug)]
pub(crate) struct Inside {
    stdin: OwnedFd,
    stdout: OwnedFd,
    stderr: OwnedFd,
}

pub(crate) fn dev_null() -> io::Result<OwnedFd> {
    Ok(rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())?)
}

/// Closes every descriptor but the standard ones and these.
pub(crate) fn close_others(keep: &[i32]) -> io::Result<()> {
    let open: Vec<i32> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .collect();
    for fd in open.into_iter().filter(|fd| *fd > 2 && !keep.contains(fd)) {
        match nix::unistd::close(fd) {
            // The one that the list was read from.
            Ok(()) | Err(nix::errno::Errno::EBADF) => {}
            Err(errno) => return Err(errno.into()),
        }
    }
    Ok(())
}

/// Pipes; standard input only when it is wanted. They belong to `uid`, so that the process may
/// open `/dev/stdout`. Output never goes to `/dev/null` directly: libcontainer would make that
/// read-only.
pub(crate) fn pipes(with_input: bool, uid: u32) -> io::Result<(Ends, Inside)> {
    let owner = Some(Uid::from_raw(uid));
    let mut ends = Ends::default();
    let stdin = if with_input {
        let (inside, outside) = io::pipe()?;
        rustix::fs::fchown(&inside, owner, None)?;
        ends.input = Some(non_blocking(outside.into())?);
        inside.into()
    } else {
        dev_null()?
    };
    let output = || -> io::Result<(OwnedFd, OwnedFd)> {
        let (outside, inside) = io::pipe()?;
        rustix::fs::fchown(&inside, owner, None)?;
        Ok((non_blocking(outside.into())?, inside.into()))
    };
    let (stdout_end, stdout) = output()?;
    let (stderr_end, stderr) = output()?;
    ends.output = [Some(stdout_end), Some(stderr_end)];
    Ok((ends, Inside { stdin, stdout, stderr }))
}

/// What a process gets until libcontainer gives it a terminal.
pub(crate) fn nothing() -> io::Result<Inside> {
    Ok(Inside { stdin: dev_null()?, stdout: dev_null()?, stderr: dev_null()? })
}

/// Gives a terminal its size and its other side to `uid`. To be done before its program runs.
pub(crate) fn prepare_terminal(
    master: impl AsFd,
    uid: u32,
    (rows, columns): (u16, u16),
) -> io::Result<()> {
    if uid != 0 {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::fs::fchown(&slave, Some(Uid::from_raw(uid)), None)?;
    }
    if (rows, columns) != (0, 0) {
        berth_sys::tty::set_size(&master, rows, columns)?;
    }
    Ok(())
}

/// The watcher's ends of a terminal.
pub(crate) fn terminal(master: OwnedFd) -> io::Result<Ends> {
    let master = non_blocking(master)?;
    let input = Some(master.try_clone()?);
    Ok(Ends { input, output: [Some(master), None] })
}

fn non_blocking(fd: OwnedFd) -> io::Result<OwnedFd> {
    let flags = rustix::fs::fcntl_getfl(fd.as_fd())?;
    rustix::fs::fcntl_setfl(fd.as_fd(), flags | OFlags::NONBLOCK)?;
    Ok(fd)
}

impl Inside {
    /// Makes them this process's own, for a fork that becomes the process.
    pub(crate) fn put_on(self) -> io::Result<()> {
        rustix::stdio::dup2_stdin(&self.stdin)?;
        rustix::stdio::dup2_stdout(&self.stdout)?;
        rustix::stdio::dup2_stderr(&self.stderr)?;
        Ok(())
    }
}
