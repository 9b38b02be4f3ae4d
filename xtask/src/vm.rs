//! `cargo xtask vm`: a machine of its own for a command, under software emulation.
//!
//! The machine's `/` is this machine's, read only, with whatever is written on top kept in its
//! memory; so anything that was built here runs there, with no image to make. Its kernel is
//! Debian's, whatever kernel runs here, or one that is named. `docs/design/0008-a-machine-for-tests.md` says why.

pub(crate) mod cuts;
mod guest;
mod initramfs;
mod kernel;
mod machine;
mod options;
mod qemu;
mod replay;
mod rundir;
mod setup;
mod stuck;
mod zfs;

use std::path::Path;

use anyhow::{Result, bail};

use crate::interrupt::Interrupt;
use crate::{Ended, host};
pub(crate) use machine::start;
pub(crate) use setup::{Disk, POWER_CUT, REBOOT, Setup};

const USAGE: &str = "\
Usage: cargo xtask vm run [OPTIONS] -- COMMAND...
       cargo xtask vm shell [OPTIONS]
       cargo xtask vm replay LOG [--point N --seed N --image FILE]
       cargo xtask vm zfs
       cargo xtask vm cuts [--points N] [--seed N] [--lab DRIVER/FS] [--without SYNC]

Runs COMMAND as root in a machine of its own and ends with its exit code.

  --disk SIZE|FILE   a disk, /dev/vda and on: an empty one (2G, 512M), or a file's content (repeatable)
  --record SIZE=LOG  an empty disk, all writes to which are recorded in LOG (repeatable)
  --limit SECONDS    end the machine after so long, with exit code 124 (default 600)
  --boots N          boot it up to N times (default 1): a command that ends with exit code 90 asks for a
                     reboot, with 91 for a power cut, and runs again with the same disks and the number
                     of the boot in BERTH_VM_BOOT
  --memory MIB       its memory (default 2048)
  --cgroup v1|v2     the control groups' version (default v2)
  --kernel FILE      a kernel (bzImage) with everything built in, instead of Debian's
  --share DIR        a directory that the machine may write to, at the same path
  --env NAME=VALUE   something in the command's environment (repeatable)
  --console FILE     keep the kernel's messages there

zfs builds the modules of ZFS for the machine's kernel, once: tests of the zfs driver need them.

replay says what is in LOG, or makes of FILE, which is as long as the disk, what the disk may hold
if the power is cut after N entries: all that was flushed, and a random half of the rest.

cuts records a daemon at work, for each lab (default overlay2/ext4, overlay2/xfs, btrfs/btrfs,
devicemapper/ext4, devicemapper-lvm/ext4, zfs/ext4), and starts one on its disk as it may be at N points
(default 10, or 3 of those that are looked at in a machine). With --without the one at work leaves out
a sync, and the points should be bad; conformance cuts syncs names them.

BERTH_VM_CACHE names the directory that keeps the kernel between runs (default target/vm-cache).";

/// Carries out `vm run` and `vm shell`, and the part that runs inside.
pub(crate) fn run(args: &[String]) -> Result<()> {
    let (verb, rest) = match args.split_first() {
        Some((verb, rest)) => (verb.as_str(), rest),
        None => bail!("{USAGE}"),
    };
    let setup = match verb {
        "run" => options::parse(rest)?,
        "shell" => options::shell(rest)?,
        "cuts" => return cuts::run(rest),
        "zfs" => return zfs::run(),
        // Process 1 of the machine.
        "init" => return guest::init(),
        "replay" => return replay::run(rest),
        // The tier `vm` in the machine.
        "tests" => return crate::test::inside(rest),
        "--help" | "-h" => {
            crate::ui::line(USAGE);
            return Ok(());
        }
        other => bail!("there is no vm {other}\n{USAGE}"),
    };
    prepare(setup.kernel.as_deref())?;
    match start(&setup, &Interrupt::watch()?)? {
        0 => Ok(()),
        code => Err(Ended(code).into()),
    }
}

/// Installs and downloads what a machine with this kernel, or with Debian's, needs; fails where that is
/// impossible.
pub(crate) fn prepare(kernel: Option<&Path>) -> Result<()> {
    if std::env::consts::ARCH != "x86_64" {
        bail!("a virtual machine needs an x86-64 machine");
    }
    if !host::on_path("apt-get") || !host::on_path("dpkg-deb") {
        bail!("a virtual machine needs Debian 12 or what is like it: its kernel comes by apt-get");
    }
    if !host::is_root() {
        bail!("a virtual machine needs root: every file of this machine is shown to it");
    }
    host::ensure(host::VM)?;
    if kernel.is_some() {
        return Ok(());
    }
    let cache = kernel::cache()?;
    let _lock = kernel::lock(&cache)?;
    kernel::Kernel::ensure(&cache).map(|_| ())
}
