//! Sockets handed over by a service manager (`LISTEN_FDS`).

use std::io;
use std::os::fd::{FromRawFd as _, OwnedFd, RawFd};
use std::sync::atomic::{AtomicBool, Ordering};

/// A socket that was handed over.
#[derive(Debug)]
pub struct ListenFd {
    /// The socket, owned and closed on exec.
    pub fd: OwnedFd,
    /// Its name in `LISTEN_FDNAMES`, if any.
    pub name: Option<String>,
}

const FIRST: RawFd = 3;

static TAKEN: AtomicBool = AtomicBool::new(false);

/// Takes the sockets that the service manager passed to this process. Later calls give none.
pub fn take() -> io::Result<Vec<ListenFd>> {
    let pid = std::env::var("LISTEN_PID").ok();
    let count = std::env::var("LISTEN_FDS").ok();
    let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
    let Some(count) = announced(pid.as_deref(), count.as_deref(), std::process::id())? else {
        return Ok(Vec::new());
    };
    if TAKEN.swap(true, Ordering::SeqCst) {
        return Ok(Vec::new());
    }
    let mut names = names.split(':').filter(|_| !names.is_empty());
    let mut fds = Vec::new();
    for raw in FIRST..FIRST.saturating_add(count) {
        // SAFETY: fcntl with F_GETFD reads one integer and touches no memory, whatever `raw` is.
        if unsafe { libc::fcntl(raw, libc::F_GETFD) } == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the protocol of LISTEN_FDS gives this process the descriptors from 3 on, and
        // `LISTEN_PID` confirmed that it is meant; the line above saw that this one is open, and
        // `TAKEN` makes sure that nobody else becomes its owner through this function. std never
        // opens or closes descriptors that it was not asked to, so nothing else owns it.
        let fd = unsafe { OwnedFd::from_raw_fd(raw) };
        rustix::io::fcntl_setfd(&fd, rustix::io::FdFlags::CLOEXEC)?;
        fds.push(ListenFd { fd, name: names.next().map(str::to_owned) });
    }
    Ok(fds)
}

/// How many descriptors were passed, `None` when none or they are another process's.
fn announced(pid: Option<&str>, count: Option<&str>, own: u32) -> io::Result<Option<RawFd>> {
    let (Some(pid), Some(count)) = (pid, count) else { return Ok(None) };
    let bad =
        |_| io::Error::new(io::ErrorKind::InvalidInput, "LISTEN_PID or LISTEN_FDS is not a number");
    if pid.parse::<u32>().map_err(bad)? != own {
        return Ok(None);
    }
    let count: RawFd = count.parse().map_err(bad)?;
    if !(0..=1024).contains(&count) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "LISTEN_FDS is out of range"));
    }
    Ok((count > 0).then_some(count))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_is_meant_takes_sockets() {
        type Row = (Option<&'static str>, Option<&'static str>, Result<Option<RawFd>, ()>);
        #[rustfmt::skip]
        let table: &[Row] = &[
            (None,       None,         Ok(None)),
            (Some("7"),  Some("2"),    Ok(Some(2))),
            (Some("8"),  Some("2"),    Ok(None)),
            (Some("7"),  Some("0"),    Ok(None)),
            (Some("7"),  Some("-1"),   Err(())),
            (Some("7"),  Some("9999"), Err(())),
            (Some("x"),  Some("1"),    Err(())),
        ];
        for (pid, count, expected) in table {
            let got = announced(*pid, *count, 7).map_err(|_| ());
            assert_eq!(&got, expected, "{pid:?} {count:?}");
        }
    }
}
