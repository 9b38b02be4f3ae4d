//! Signals read from a descriptor instead of interrupting the program.

use std::io;
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd, FromRawFd as _, OwnedFd};

/// A signal that arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Received {
    /// Its number.
    pub signal: i32,
    /// Who sent it, or the child it is about; 0 when the kernel did.
    pub pid: i32,
}

/// Gives the signals it was made for, which are blocked in the thread that made it.
///
/// Made before any other thread starts, it is the only place where the process sees them.
#[derive(Debug)]
pub struct SignalFd {
    fd: OwnedFd,
}

fn set_of(signals: &[i32]) -> io::Result<libc::sigset_t> {
    let mut set = std::mem::MaybeUninit::<libc::sigset_t>::uninit();
    // SAFETY: sigemptyset writes the whole set behind a pointer that is valid for that, so it is
    // initialised afterwards; it cannot fail on a valid pointer.
    let mut set = unsafe {
        libc::sigemptyset(set.as_mut_ptr());
        set.assume_init()
    };
    for &signal in signals {
        // SAFETY: `set` is initialised (above) and exclusively borrowed; a number that is no
        // signal makes the call fail without touching it.
        if unsafe { libc::sigaddset(&raw mut set, signal) } != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(set)
}

fn change_mask(how: libc::c_int, set: &libc::sigset_t) -> io::Result<()> {
    // SAFETY: `set` is a reference to an initialised set that the call only reads; the old mask is
    // not asked for (null). Only the calling thread's mask changes.
    match unsafe { libc::pthread_sigmask(how, &raw const *set, std::ptr::null_mut()) } {
        0 => Ok(()),
        errno => Err(io::Error::from_raw_os_error(errno)),
    }
}

/// Lets every signal through to this thread again, as a program that will be executed expects.
pub fn unblock_all() -> io::Result<()> {
    change_mask(libc::SIG_SETMASK, &set_of(&[])?)
}

/// Blocks these signals for the calling thread and those it starts later.
pub fn block(signals: &[i32]) -> io::Result<()> {
    change_mask(libc::SIG_BLOCK, &set_of(signals)?)
}

impl SignalFd {
    /// Blocks `signals` and gives a descriptor to read them from (non-blocking, closed on exec).
    pub fn new(signals: &[i32]) -> io::Result<Self> {
        let set = set_of(signals)?;
        change_mask(libc::SIG_BLOCK, &set)?;
        // SAFETY: `set` is initialised and only read; -1 asks for a new descriptor.
        let raw =
            unsafe { libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) };
        if raw == -1 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the kernel just made this descriptor for us and nobody else knows it.
        Ok(Self { fd: unsafe { OwnedFd::from_raw_fd(raw) } })
    }

    /// The next signal that is waiting, if one is.
    pub fn next(&self) -> io::Result<Option<Received>> {
        const SIZE: usize = std::mem::size_of::<libc::signalfd_siginfo>();
        let mut raw = [0_u8; SIZE];
        let count = match rustix::io::read(&self.fd, &mut raw) {
            Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => return Ok(None),
            other => other?,
        };
        if count != SIZE {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        // signalfd_siginfo: signo, errno and code are the first three 32-bit words, pid the fourth.
        let word = |at: usize| {
            let mut bytes = [0; 4];
            bytes.copy_from_slice(&raw[at * 4..at * 4 + 4]);
            i32::from_ne_bytes(bytes)
        };
        Ok(Some(Received { signal: word(0), pid: word(3) }))
    }

    /// The raw number, for a poll set.
    pub fn as_raw(&self) -> i32 {
        self.fd.as_raw_fd()
    }
}

impl AsFd for SignalFd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blocked_signal_comes_through_the_descriptor() {
        std::thread::spawn(|| {
            let signals = SignalFd::new(&[libc::SIGUSR1]).unwrap();
            assert_eq!(signals.next().unwrap(), None);
            // SAFETY: the signal goes to this thread, which blocks it: nothing is interrupted.
            assert_eq!(unsafe { libc::pthread_kill(libc::pthread_self(), libc::SIGUSR1) }, 0);
            let own = i32::try_from(std::process::id()).unwrap();
            let expected = Received { signal: libc::SIGUSR1, pid: own };
            assert_eq!(signals.next().unwrap(), Some(expected));
            assert_eq!(signals.next().unwrap(), None);
        })
        .join()
        .unwrap();
    }

    #[test]
    fn a_number_that_is_no_signal_is_refused() {
        assert!(SignalFd::new(&[4000]).is_err());
    }
}
