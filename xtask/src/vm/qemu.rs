//! What qemu is told of a machine.

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Result, ensure};

use super::kernel::Kernel;
use super::machine::{Share, console, dependent};
use super::rundir::RunDir;
use super::setup::{Disk, Setup};

/// More processors than this bring nothing to emulation.
const PROCESSORS: usize = 4;
/// One with wider registers takes longer to emulate than they save. With the extension for SHA, as
/// those that are sold have it, where qemu emulates that: from 8.2 on; older ones warn in their log.
const PROCESSOR: &str = "Nehalem,+sha-ni";
/// A disk's log of writes has room for so many times its size.
const LOG_TIMES: u64 = 16;
/// apparmor=0: with it, engines look for its parser. The mitigations only cost time here.
/// `no_timer_check`: what is measured of an emulated timer on a busy machine proves nothing.
/// `softlockup_panic`: a kernel that turns in circles for twice the threshold (in seconds) says where,
/// and ends; a busy host must not make it look so.
const KERNEL_WORDS: &str = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off apparmor=0 \
                            no_timer_check watchdog_thresh=60 softlockup_panic=1";

/// The machine's disks in qemu's words.
pub(super) fn disks(setup: &Setup, dir: &Path) -> Result<Vec<String>> {
    let mut disks = Vec::new();
    for (number, disk) in setup.disks.iter().enumerate() {
        let empty = dir.join(format!("disk{number}"));
        let plain = |file: &Path| {
            let node = format!("node-name=disk{number},driver=raw,discard=unmap,cache.no-flush=on");
            Ok::<_, anyhow::Error>(format!("{node},{}", file_node("file", file)?))
        };
        disks.push(match disk {
            Disk::File(path) => plain(path)?,
            Disk::Empty { bytes } => {
                File::create_new(&empty)?.set_len(*bytes)?;
                plain(&empty)?
            }
            Disk::Recorded { bytes, log } => {
                File::create_new(&empty)?.set_len(*bytes)?;
                // It is sparse, and never made longer.
                File::create(log)?.set_len(bytes.saturating_mul(LOG_TIMES))?;
                let node =
                    format!("node-name=disk{number},driver=blklogwrites,log-sector-size=512");
                let data = format!("file.driver=raw,{}", file_node("file.file", &empty)?);
                format!("{node},{data},log.driver=raw,{}", file_node("log.file", log)?)
            }
        });
    }
    Ok(disks)
}

fn file_node(prefix: &str, path: &Path) -> Result<String> {
    let path = path.display().to_string();
    ensure!(!path.contains(','), "qemu cannot use {path}: there is a comma in it");
    Ok(format!("{prefix}.driver=file,{prefix}.filename={path}"))
}

/// qemu and its words, without those of the ports.
pub(super) fn command(
    setup: &Setup,
    kernel: &Kernel,
    dir: &RunDir,
    disks: &[String],
    shares: &[&Share],
) -> Result<Command> {
    let mut command = dependent("qemu-system-x86_64", dir, "qemu.log")?;
    let processors = std::thread::available_parallelism()?.get().min(PROCESSORS);
    let memory = setup.memory_mib;
    command.args(["-accel", "tcg,thread=multi,tb-size=512"]);
    command.args(["-cpu", PROCESSOR, "-smp", &processors.to_string()]);
    command.args(["-display", "none", "-no-reboot", "-nodefaults", "-nic", "none"]);
    // virtiofsd reads and writes the machine's memory.
    command.args(["-m", &memory.to_string(), "-machine", "memory-backend=memory"]);
    command.arg("-object");
    command.arg(format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
    command.arg("-kernel").arg(&kernel.image);
    command.args(["-initrd", "initramfs", "-append", KERNEL_WORDS]);
    // Each boot adds to it.
    let console = console(dir.path(), setup);
    command.arg("-chardev").arg(format!("file,id=console,path={},append=on", console.display()));
    command.args(["-serial", "chardev:console"]);
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    for share in shares {
        let name = share.name();
        command.arg("-chardev").arg(format!("socket,id={name},path={name}.sock"));
        command.arg("-device").arg(format!("vhost-user-fs-pci,chardev={name},tag={name}"));
    }
    for (number, disk) in disks.iter().enumerate() {
        command.arg("-blockdev").arg(disk);
        command.arg("-device").arg(format!("virtio-blk-pci,drive=disk{number}"));
    }
    if setup.terminal.is_some() {
        command.args(["-chardev", "stdio,id=terminal,signal=off"]);
        command.args(["-device", "virtconsole,chardev=terminal"]);
        command.stdin(Stdio::inherit()).stdout(Stdio::inherit()).process_group(own_group()?);
    }
    Ok(command)
}

/// A terminal is read by the group in its foreground only, which is this program's.
fn own_group() -> Result<i32> {
    Ok(rustix::process::getpgid(None)?.as_raw_nonzero().get())
}
