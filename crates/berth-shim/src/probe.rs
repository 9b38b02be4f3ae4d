//! The self-test's program, run inside a container: tries what the seccomp filter and the device
//! rules must refuse, and looks for what it must not have. The exit code is a sum of what went wrong.

use std::fs::File;
use std::process::ExitCode;

use berth_sys::fork::{Forked, fork};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

const SYS_ADMIN: u64 = 1 << 21;

/// Runs the probe; for the meaning of the bits see the table below.
pub(crate) fn run() -> ExitCode {
    let seccomp = rustix::fs::mkdir("/tmp/berth-probe", Mode::from_raw_mode(0o700));
    let flags = OFlags::RDWR | OFlags::CLOEXEC;
    let device = rustix::fs::open("/dev/berth-denied", flags, Mode::empty()).map(drop);
    let null = File::options().write(true).open("/dev/null");
    let forked = match fork() {
        Ok(Forked::Child) => return ExitCode::SUCCESS,
        Ok(Forked::Parent { pid }) => berth_sys::process::wait_for(pid).is_ok(),
        Err(_) => false,
    };
    let capabilities = berth_sys::caps::own().unwrap_or_default();
    let everything = capabilities.effective | capabilities.permitted | capabilities.bounding;
    let limited = capabilities.bounding != 0 && everything & SYS_ADMIN == 0;
    #[rustfmt::skip]
    let wrong = [
        (1, seccomp != Err(Errno::PERM)),
        (2, device != Err(Errno::PERM)),
        (4, null.is_err()),
        (8, !forked),
        (16, !limited),
    ];
    ExitCode::from(wrong.iter().filter(|(_, wrong)| *wrong).map(|(bit, _)| bit).sum::<u8>())
}
