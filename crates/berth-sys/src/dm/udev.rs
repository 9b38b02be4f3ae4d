//! Agreement with udev: who makes the nodes, and when they are there.
//!
//! udev's rules for the device-mapper tell a *cookie* when they are done with an event: the lower
//! half of a number that goes into the ioctl and comes out with the event names a System V
//! semaphore, which they lower. The upper half tells them what to leave alone.

use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::Duration;

/// What makes a number a cookie of the device-mapper's: the upper half of the semaphore's key.
const MAGIC: i32 = 0x0D4D;
/// Only make the link in `/dev/mapper`: do not look into the device, which would hold it open.
pub(super) const LEAVE_ALONE: u16 = DISABLE_SUBSYSTEM | DISABLE_DISK | DISABLE_OTHER;
const DISABLE_SUBSYSTEM: u16 = 0x02;
const DISABLE_DISK: u16 = 0x04;
const DISABLE_OTHER: u16 = 0x08;
/// How long udev may take. Nodes that it has not made by then are made here.
const PATIENCE: Duration = Duration::from_secs(10);

static NEXT: AtomicU16 = AtomicU16::new(0);

/// Whether a udev daemon runs that makes nodes.
pub fn runs() -> bool {
    Path::new("/run/udev/control").symlink_metadata().is_ok()
}

/// Whether udev's work can be waited for: there is none, or there are semaphores.
pub fn can_sync() -> bool {
    !runs() || Cookie::new().is_ok()
}

/// A semaphore that udev lowers from 1 when it is done. Gone when this is dropped.
#[derive(Debug)]
pub(super) struct Cookie {
    semaphore: i32,
    base: u16,
}

impl Cookie {
    pub(super) fn new() -> io::Result<Self> {
        loop {
            #[expect(clippy::cast_possible_truncation, reason = "any number that is free will do")]
            let base = NEXT.fetch_add(1, Ordering::Relaxed).wrapping_add(std::process::id() as u16);
            if base == 0 {
                continue;
            }
            let key = MAGIC << 16 | i32::from(base);
            // SAFETY: semget takes numbers alone.
            let semaphore =
                unsafe { libc::semget(key, 1, libc::IPC_CREAT | libc::IPC_EXCL | 0o600) };
            if semaphore < 0 {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::AlreadyExists {
                    continue;
                }
                return Err(error);
            }
            let this = Self { semaphore, base };
            // SAFETY: SETVAL takes one number, given as a C int.
            if unsafe { libc::semctl(semaphore, 0, libc::SETVAL, 1) } < 0 {
                return Err(io::Error::last_os_error());
            }
            return Ok(this);
        }
    }

    /// The number for an ioctl.
    pub(super) fn event(&self) -> u32 {
        u32::from(LEAVE_ALONE) << 16 | u32::from(self.base)
    }

    /// Waits until udev is done, or patience ends.
    pub(super) fn wait(&self) -> io::Result<()> {
        let zero = libc::sembuf { sem_num: 0, sem_op: 0, sem_flg: 0 };
        let mut left = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        left.tv_sec = PATIENCE.as_secs().try_into().unwrap_or(10);
        // SAFETY: one operation is given, and both structures outlive the call, which only reads
        // them.
        let done = unsafe {
            let mut operation = zero;
            libc::syscall(
                libc::SYS_semtimedop,
                self.semaphore,
                std::ptr::from_mut(&mut operation),
                1_usize,
                std::ptr::from_ref(&left),
            )
        };
        if done == 0 {
            return Ok(());
        }
        match io::Error::last_os_error() {
            error if error.raw_os_error() == Some(libc::EAGAIN) => Ok(()),
            error if error.kind() == io::ErrorKind::Interrupted => Ok(()),
            error => Err(error),
        }
    }
}

impl Drop for Cookie {
    fn drop(&mut self) {
        // SAFETY: IPC_RMID takes no argument. The semaphore is this cookie's own. That it fails
        // means that somebody removed it: nothing is left to do.
        unsafe { libc::semctl(self.semaphore, 0, libc::IPC_RMID) };
    }
}
