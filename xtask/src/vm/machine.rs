//! Starting the machine on the host, following it, and ending it.
//!
//! Two kinds of processes: virtiofsd, one for each directory shown to the machine, and qemu. Both
//! are killed by the kernel should this program be killed.

use std::fs::File;
use std::io::{PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use rustix::io::FdFlags;
use rustix::termios::OptionalActions;
use serde_json::json;

use super::kernel::{self, Kernel};
use super::rundir::RunDir;
use super::setup::{Cgroup, Disk, Setup};
use super::{guest, initramfs};
use crate::interrupt::Interrupt;
use crate::{run, ui};

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";
const NAP: Duration = Duration::from_millis(10);
/// What `timeout` of coreutils ends with.
const TIMED_OUT: u8 = 124;
/// More processors than this bring nothing to emulation.
const PROCESSORS: usize = 4;
/// A disk's log of writes has room for so many times its size.
const LOG_TIMES: u64 = 16;
/// apparmor=0: with it, engines look for its parser. The mitigations only cost time here.
const KERNEL_WORDS: &str = "console=ttyS0 panic=-1 quiet loglevel=4 mitigations=off apparmor=0";

/// Runs the machine, for which [`prepare`](super::prepare) was called, to its end; gives the exit code of its command. What the command prints is
/// printed meanwhile.
pub(crate) fn start(setup: &Setup, interrupt: &Interrupt) -> Result<u8> {
    let cache = kernel::cache()?;
    let lock = kernel::lock(&cache)?;
    let kernel = Kernel::ensure(&cache)?;
    let dir = RunDir::create(&cache)?;
    drop(lock);
    let disks = disks(setup, dir.path())?;
    let program = std::env::current_exe().context("the path of this program")?;
    let archive = initramfs::build(&kernel, &program, &job(setup, disks.len()))?;
    run::write(&dir.path().join("initramfs"), &archive)?;
    let root = Share::start(&dir, "root", Path::new("/"), "always")?;
    let share = setup.share.as_deref().map(|path| Share::start(&dir, "share", path, "auto"));
    let share = share.transpose()?;
    let shares: Vec<&Share> = [&root].into_iter().chain(&share).collect();
    let mut machine = Machine::boot(setup, &kernel, &dir, &disks, &shares)?;
    let ended = machine.follow(setup.limit, interrupt);
    machine.end();
    if let Some(terminal) = &setup.terminal {
        rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &terminal.state)?;
    }
    match ended? {
        End::Limit => {
            ui::error(&format!("the machine was ended after {} s", setup.limit.as_secs()));
            Ok(TIMED_OUT)
        }
        End::PoweredOff => machine.code().with_context(|| explain(dir.path(), setup)),
    }
}

/// Why a machine may have ended without a word from it.
fn explain(dir: &Path, setup: &Setup) -> String {
    let mut text = "the machine gave no exit code".to_owned();
    let console = console(dir, setup);
    for log in ["qemu.log".as_ref(), "root.log".as_ref(), "share.log".as_ref(), console.as_path()] {
        let content = std::fs::read(dir.join(log)).unwrap_or_default();
        let content = String::from_utf8_lossy(&content);
        let lines: Vec<&str> = content.lines().collect();
        for line in &lines[lines.len().saturating_sub(20)..] {
            text.push_str("\n  ");
            text.push_str(line);
        }
    }
    text
}

fn console(dir: &Path, setup: &Setup) -> PathBuf {
    let own = || dir.join("console.log");
    // qemu runs in another directory.
    setup.console.as_deref().map_or_else(own, |path| setup.working_dir.join(path))
}

/// What process 1 of the machine is told.
fn job(setup: &Setup, disks: usize) -> String {
    let letters = ('a'..='z').take(disks);
    let names: Vec<String> = letters.map(|letter| format!("/dev/vd{letter}")).collect();
    json!({
        "command": setup.command,
        "env": setup.env,
        "working_dir": setup.working_dir,
        "disks": names.join(":"),
        "cgroup": if setup.cgroup == Cgroup::V1 { 1 } else { 2 },
        "share": setup.share,
        "terminal": setup.terminal.as_ref().map(|terminal| json!({
            "rows": terminal.rows, "columns": terminal.columns, "kind": terminal.kind,
        })),
    })
    .to_string()
}

/// The machine's disks in qemu's words.
fn disks(setup: &Setup, dir: &Path) -> Result<Vec<String>> {
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

/// A program that ends when this one does, in a process group of its own: Ctrl-C is for this one,
/// which then ends it in order.
fn dependent(program: &str, dir: &RunDir, log: &str) -> Result<Command> {
    let log = File::create(dir.path().join(log))?;
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL", program]).current_dir(dir.path());
    command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).process_group(0);
    Ok(command)
}

/// The child gets this descriptor under the same number.
fn keep_open(fd: impl AsFd) -> Result<i32> {
    rustix::io::fcntl_setfd(&fd, FdFlags::empty())?;
    Ok(fd.as_fd().as_raw_fd())
}

fn end(child: &mut Child, what: &str) {
    if let Err(error) = child.kill().and_then(|()| child.wait()) {
        ui::error(&format!("{what} does not end: {error}"));
    }
}

/// A virtiofsd, which shows a directory under a name.
#[derive(Debug)]
struct Share {
    name: &'static str,
    daemon: Child,
}

impl Share {
    fn start(dir: &RunDir, name: &'static str, source: &Path, caching: &str) -> Result<Self> {
        let listener = UnixListener::bind(dir.short_path().join(format!("{name}.sock")))?;
        let mut command = dependent(VIRTIOFSD, dir, &format!("{name}.log"))?;
        // A socket by its path would leave a file in /run. The sandbox of its own namespaces
        // cannot have the whole of / as its root.
        command.arg(format!("--fd={}", keep_open(&listener)?));
        command.args(["--thread-pool-size=4", "-o", "sandbox=chroot", "-o", "log_level=err"]);
        command.arg("-o").arg(format!("cache={caching}"));
        command.arg("-o").arg(format!("source={}", source.display()));
        let daemon = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        Ok(Self { name, daemon })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        end(&mut self.daemon, "virtiofsd");
    }
}

/// How a machine ended.
enum End {
    PoweredOff,
    Limit,
}

/// A running qemu, and the ends of the machine's ports.
#[derive(Debug)]
struct Machine {
    qemu: Child,
    begun: Instant,
    code: Option<JoinHandle<Vec<u8>>>,
    outputs: Vec<JoinHandle<()>>,
}

impl Machine {
    fn boot(
        setup: &Setup,
        kernel: &Kernel,
        dir: &RunDir,
        disks: &[String],
        shares: &[&Share],
    ) -> Result<Self> {
        let mut command = qemu(setup, kernel, dir, disks, shares)?;
        let mut readers = Vec::new();
        let mut writers = Vec::new();
        for (number, port) in guest::PORTS.iter().enumerate() {
            let (reader, writer) = std::io::pipe()?;
            let set = number + 1;
            // Without append qemu would truncate the pipe, which fails.
            command.arg("-add-fd").arg(format!("fd={},set={set}", keep_open(&writer)?));
            command.arg("-chardev").arg(format!("file,id={port},path=/dev/fdset/{set},append=on"));
            command.arg("-device").arg(format!("virtserialport,chardev={port},name={port}"));
            readers.push(reader);
            writers.push(writer);
        }
        let qemu = command.spawn().with_context(|| format!("cannot start {command:?}"))?;
        drop(writers);
        let [out, err, code]: [PipeReader; 3] = readers.try_into().ok().context("three ports")?;
        let outputs = vec![copy(out, ui::raw), copy(err, ui::raw_error)];
        let code = std::thread::spawn(move || read_all(code));
        Ok(Self { qemu, begun: Instant::now(), code: Some(code), outputs })
    }

    fn follow(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<End> {
        loop {
            if self.qemu.try_wait()?.is_some() {
                return Ok(End::PoweredOff);
            }
            interrupt.check()?;
            if self.begun.elapsed() > limit {
                return Ok(End::Limit);
            }
            std::thread::sleep(NAP);
        }
    }

    /// Ends qemu if it has not, and waits for the rest of the output.
    fn end(&mut self) {
        end(&mut self.qemu, "qemu");
        for output in self.outputs.drain(..) {
            output.join().expect("copying does not panic");
        }
    }

    fn code(&mut self) -> Option<u8> {
        let text = self.code.take()?.join().ok()?;
        String::from_utf8(text).ok()?.trim().parse().ok()
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
}

/// qemu and its words, without those of the ports.
fn qemu(
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
    // A processor with wider registers takes longer to emulate than they save.
    command.args(["-cpu", "Nehalem", "-smp", &processors.to_string()]);
    command.args(["-display", "none", "-no-reboot", "-nodefaults", "-nic", "none"]);
    // virtiofsd reads and writes the machine's memory.
    command.args(["-m", &memory.to_string(), "-machine", "memory-backend=memory"]);
    command.arg("-object");
    command.arg(format!("memory-backend-memfd,id=memory,size={memory}M,share=on"));
    command.arg("-kernel").arg(&kernel.image);
    command.args(["-initrd", "initramfs", "-append", KERNEL_WORDS]);
    command.arg("-serial").arg(format!("file:{}", console(dir.path(), setup).display()));
    command.args(["-device", "virtio-rng-pci", "-device", "virtio-serial-pci"]);
    for share in shares {
        let name = share.name;
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

fn copy(mut from: PipeReader, to: fn(&[u8])) -> JoinHandle<()> {
    std::thread::spawn(move || {
        let mut buffer = [0; 1 << 14];
        while let Ok(read) = from.read(&mut buffer) {
            if read == 0 {
                return;
            }
            to(&buffer[..read]);
        }
    })
}

fn read_all(mut from: PipeReader) -> Vec<u8> {
    let mut bytes = Vec::new();
    // An error is like no answer.
    if from.read_to_end(&mut bytes).is_err() {
        bytes.clear();
    }
    bytes
}
