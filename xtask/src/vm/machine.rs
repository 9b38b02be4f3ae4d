//! Starting the machine on the host, following it, and ending it.
//!
//! Two kinds of processes: virtiofsd, one for each directory shown to the machine, and qemu. Both
//! are killed by the kernel should this program be killed.

use std::fs::File;
use std::io::{ErrorKind, PipeReader, Read};
use std::os::fd::{AsFd, AsRawFd as _};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use rustix::io::FdFlags;
use rustix::termios::OptionalActions;
use serde_json::json;

use super::kernel::{self, Kernel};
use super::rundir::RunDir;
use super::setup::{Cgroup, POWER_CUT, REBOOT, Setup};
use super::{guest, initramfs, qemu};
use crate::interrupt::Interrupt;
use crate::{run, ui};

const VIRTIOFSD: &str = "/usr/lib/qemu/virtiofsd";
const NAP: Duration = Duration::from_millis(10);
/// What `timeout` of coreutils ends with.
const TIMED_OUT: u8 = 124;
/// A kernel measures timers while it boots, and may misjudge those of a machine that is emulated on
/// a busy one: it gives up, or waits for ever.
const MOST_TRIES: u32 = 3;
const BOOT_LIMIT: Duration = Duration::from_secs(90);

/// Runs the machine, for which [`prepare`](super::prepare) was called, to its end; gives the exit code of its
/// command in the last boot. What the command prints is printed meanwhile.
pub(crate) fn start(setup: &Setup, interrupt: &Interrupt) -> Result<u8> {
    let until = Instant::now() + setup.limit;
    let cache = kernel::cache()?;
    let lock = kernel::lock(&cache)?;
    let kernel = match &setup.kernel {
        Some(image) => Kernel::given(image),
        None => Kernel::ensure(&cache)?,
    };
    let dir = RunDir::create(&cache)?;
    drop(lock);
    let disks = qemu::disks(setup, dir.path())?;
    File::create(console(dir.path(), setup)).context("the file for the kernel's messages")?;
    let mut boot = Boot { setup, kernel: &kernel, dir: &dir, disks: &disks, until, number: 1 };
    loop {
        let code = boot.run(interrupt)?;
        if !boot.is_last() && matches!(code, REBOOT | POWER_CUT) {
            ui::raw_error(format!("the machine boots again (code {code})\n").as_bytes());
            boot.number += 1;
        } else {
            return Ok(code);
        }
    }
}

/// A machine that ended, or was ended, before it could run anything, and why.
struct NotUp(String);

/// One boot of a machine.
struct Boot<'a> {
    setup: &'a Setup,
    kernel: &'a Kernel,
    dir: &'a RunDir,
    disks: &'a [String],
    /// When the machine is ended.
    until: Instant,
    /// From 1.
    number: u32,
}

impl Boot<'_> {
    fn is_last(&self) -> bool {
        self.number >= self.setup.boots
    }

    /// Gives the exit code of the command.
    fn run(&self, interrupt: &Interrupt) -> Result<u8> {
        let mut tries = 1;
        loop {
            match self.run_once(interrupt)? {
                Ok(code) => return Ok(code),
                Err(NotUp(why)) if tries < MOST_TRIES => {
                    ui::error(&format!("{why}\nbooting it again"));
                }
                Err(NotUp(why)) => bail!("{why}"),
            }
            tries += 1;
        }
    }

    fn run_once(&self, interrupt: &Interrupt) -> Result<Result<u8, NotUp>> {
        let Self { setup, kernel, dir, .. } = *self;
        let program = std::env::current_exe().context("the path of this program")?;
        let archive = initramfs::build(kernel, &program, &self.job())?;
        run::write(&dir.path().join("initramfs"), &archive)?;
        let root = Share::start(dir, "root", Path::new("/"), "always")?;
        let share = setup.share.as_deref().map(|path| Share::start(dir, "share", path, "auto"));
        let share = share.transpose()?;
        let shares: Vec<&Share> = [&root].into_iter().chain(&share).collect();
        let mut machine = Machine::boot(setup, kernel, dir, self.disks, &shares)?;
        let ended = machine.follow(self.until, !self.is_last(), interrupt);
        machine.end();
        if let Some(terminal) = &setup.terminal {
            rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, &terminal.state)?;
        }
        // Joins what reads it: only then is it certain whether the machine was up.
        let code = machine.code();
        let logs = || logs(dir.path(), setup);
        let not_up = |what: &str| Ok(Err(NotUp(format!("the machine {what}{}", logs()))));
        match ended? {
            End::NotUp => not_up(&format!("did not come up in {} s", BOOT_LIMIT.as_secs())),
            End::PoweredOff if !machine.is_up() => not_up("ended before it was up"),
            End::PoweredOff => {
                code.map(Ok).with_context(|| format!("the machine gave no exit code{}", logs()))
            }
            End::PowerCut => Ok(Ok(POWER_CUT)),
            End::Limit => {
                ui::error(&format!(
                    "the machine was ended after {} s{}",
                    setup.limit.as_secs(),
                    logs()
                ));
                Ok(Ok(TIMED_OUT))
            }
        }
    }

    /// What process 1 of the machine is told.
    fn job(&self) -> String {
        let setup = self.setup;
        let letters = ('a'..='z').take(self.disks.len());
        let names: Vec<String> = letters.map(|letter| format!("/dev/vd{letter}")).collect();
        json!({
            "command": setup.command,
            "env": setup.env,
            "working_dir": setup.working_dir,
            "disks": names.join(":"),
            "limit": self.until.saturating_duration_since(Instant::now()).as_secs(),
            "boot": self.number,
            "is_last_boot": self.is_last(),
            "cgroup": if setup.cgroup == Cgroup::V1 { 1 } else { 2 },
            "share": setup.share,
            "terminal": setup.terminal.as_ref().map(|terminal| json!({
                "rows": terminal.rows, "columns": terminal.columns, "kind": terminal.kind,
            })),
        })
        .to_string()
    }
}

/// The ends of its logs, which may tell why a machine ended without a word from it.
fn logs(dir: &Path, setup: &Setup) -> String {
    let mut text = String::new();
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

pub(super) fn console(dir: &Path, setup: &Setup) -> PathBuf {
    let own = || dir.join("console.log");
    // qemu runs in another directory.
    setup.console.as_deref().map_or_else(own, |path| setup.working_dir.join(path))
}

/// A program that ends when this one does, in a process group of its own: Ctrl-C is for this one,
/// which then ends it in order.
pub(super) fn dependent(program: &str, dir: &RunDir, log: &str) -> Result<Command> {
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
pub(super) struct Share {
    name: &'static str,
    daemon: Child,
}

impl Share {
    fn start(dir: &RunDir, name: &'static str, source: &Path, caching: &str) -> Result<Self> {
        let socket = format!("{name}.sock");
        match std::fs::remove_file(dir.path().join(&socket)) {
            // Of an earlier boot.
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(error.into()),
        }
        let listener = UnixListener::bind(dir.short_path().join(socket))?;
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

    /// What the machine calls it.
    pub(super) fn name(&self) -> &'static str {
        self.name
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
    /// As its command wished.
    PowerCut,
    Limit,
    NotUp,
}

/// A running qemu, and the ends of the machine's ports.
#[derive(Debug)]
struct Machine {
    qemu: Child,
    begun: Instant,
    /// What came from the port of the exit code so far.
    said: Arc<Mutex<Vec<u8>>>,
    code: Option<JoinHandle<()>>,
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
        let mut command = qemu::command(setup, kernel, dir, disks, shares)?;
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
        let said = Arc::default();
        let heard = Arc::clone(&said);
        let code = std::thread::spawn(move || read_code(code, &heard));
        Ok(Self { qemu, begun: Instant::now(), said, code: Some(code), outputs })
    }

    /// Waits for its end; with `may_cut` its power is cut when its command asks for that.
    fn follow(&mut self, until: Instant, may_cut: bool, interrupt: &Interrupt) -> Result<End> {
        loop {
            if self.qemu.try_wait()?.is_some() {
                return Ok(End::PoweredOff);
            }
            interrupt.check()?;
            if may_cut && self.said_code() == Some(POWER_CUT) {
                return Ok(End::PowerCut);
            }
            if Instant::now() > until {
                return Ok(End::Limit);
            }
            if self.begun.elapsed() > BOOT_LIMIT && !self.is_up() {
                return Ok(End::NotUp);
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

    /// Whether it has come to the command.
    fn is_up(&self) -> bool {
        !self.said().is_empty()
    }

    /// The exit code, once everything was read.
    fn code(&mut self) -> Option<u8> {
        self.code.take()?.join().ok()?;
        self.said_code()
    }

    fn said_code(&self) -> Option<u8> {
        let said = self.said();
        std::str::from_utf8(&said).ok()?.strip_prefix(guest::UP)?.strip_suffix('\n')?.parse().ok()
    }

    fn said(&self) -> MutexGuard<'_, Vec<u8>> {
        self.said.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        self.end();
    }
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

/// Reads what the port of the exit code gives. An error is like no answer.
fn read_code(mut from: PipeReader, into: &Mutex<Vec<u8>>) {
    let mut buffer = [0; 64];
    while let Ok(read @ 1..) = from.read(&mut buffer) {
        into.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(&buffer[..read]);
    }
}
