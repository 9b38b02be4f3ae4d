//! A process of the container as the watcher sees it: its init or an exec.

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::time::Instant;

use berth_shim_proto::{ExecRequest, ExitRecord, ShimConfig};
use berth_sys::fork::{Forked, fork};

use crate::conn::INPUT_LIMIT;
use crate::error::ShimError;
use crate::exec::{self, Home};
use crate::io::{self, Ends};
use crate::queue::{Queue, Sink};
use crate::status::{Heard, Report};

/// A process of the container.
#[derive(Debug)]
pub(crate) struct Process {
    /// The exec's id; `None` for init.
    pub(crate) exec: Option<String>,
    /// Its pid once it is known.
    pub(crate) pid: i32,
    /// Stays bound to it when the pid is used again.
    pub(crate) pidfd: Option<OwnedFd>,
    pub(crate) tty: bool,
    pub(crate) ends: Ends,
    /// Whether input ends with the first client that gave some.
    pub(crate) input_once: bool,
    pending: Queue,
    close_input: bool,
    pub(crate) exit: Option<ExitRecord>,
    /// When output that does not end is given up, after the exit.
    pub(crate) drain_until: Option<Instant>,
    pub(crate) starting: Option<Starting>,
}

/// An exec that is being set up.
#[derive(Debug)]
pub(crate) struct Starting {
    pub(crate) pipe: OwnedFd,
    pub(crate) heard: Heard,
    pub(crate) conn: u64,
    pub(crate) attach: [bool; 3],
    /// Where its terminal comes from.
    console: Option<UnixStream>,
}

impl Process {
    pub(crate) fn init(config: &ShimConfig, pid: i32, ends: Ends) -> Result<Self, ShimError> {
        let pidfd = berth_sys::process::pidfd_open(pid)
            .map_err(ShimError::system("open the container's init"))?;
        Ok(Self {
            exec: None,
            pid,
            pidfd: Some(pidfd),
            tty: config.tty,
            ends,
            input_once: config.stdin_once,
            pending: Queue::default(),
            close_input: false,
            exit: None,
            drain_until: None,
            starting: None,
        })
    }

    /// Forks off the set-up of an exec.
    pub(crate) fn exec(
        home: Home<'_>,
        request: &ExecRequest,
        conn: u64,
    ) -> Result<Self, ShimError> {
        let uid = request.process["user"]["uid"].as_u64().and_then(|uid| u32::try_from(uid).ok());
        let uid = host_uid(home.config, uid.unwrap_or(0))?;
        let prepare = ShimError::system("prepare an exec");
        let streams = || -> std::io::Result<_> {
            let (ends, inside) = if request.tty {
                (Ends::default(), io::nothing()?)
            } else {
                io::pipes(request.attach[0], uid)?
            };
            let console = if request.tty { Some(UnixStream::pair()?) } else { None };
            Ok((ends, inside, console, std::io::pipe()?))
        };
        let (ends, inside, console, (reader, writer)) = streams().map_err(prepare)?;
        let side = fork().map_err(ShimError::system("fork"))?;
        if side == Forked::Child {
            let report = Report::new(writer.into());
            let result = in_fork(inside).and_then(|()| {
                exec::join(home, request, console.as_ref().map(|(_, theirs)| theirs), &report)
            });
            end_fork(result, &report, exec::NOT_STARTED);
        }
        Ok(Self {
            exec: Some(request.id.clone()),
            pid: 0,
            pidfd: None,
            tty: request.tty,
            ends,
            input_once: true,
            pending: Queue::default(),
            close_input: false,
            exit: None,
            drain_until: None,
            starting: Some(Starting {
                pipe: reader.into(),
                heard: Heard::default(),
                conn,
                attach: request.attach,
                console: console.map(|(ours, _)| ours),
            }),
        })
    }

    /// The exec runs: takes its terminal.
    pub(crate) fn take_terminal(&mut self, starting: &Starting) -> Result<(), ShimError> {
        if let Some(console) = &starting.console {
            let take = || receive(console).and_then(io::terminal);
            self.ends = take().map_err(ShimError::system("take the terminal"))?;
        }
        Ok(())
    }

    /// Whether a client's input is read now.
    pub(crate) fn has_room(&self) -> bool {
        !self.takes_input() || self.pending.len() < INPUT_LIMIT
    }

    fn takes_input(&self) -> bool {
        self.ends.input.is_some() && !self.close_input
    }

    /// Takes a client's input; it is lost when the process takes none.
    pub(crate) fn input(&mut self, bytes: &[u8]) {
        if self.takes_input() {
            self.pending.push(bytes);
            self.flush_input();
        }
    }

    /// Closes input as soon as all that came was taken.
    pub(crate) fn end_input(&mut self) {
        self.close_input = true;
        self.flush_input();
    }

    pub(crate) fn flush_input(&mut self) {
        let Some(input) = &self.ends.input else { return };
        let gone = self.pending.flush(input) == Sink::Gone;
        if gone || (self.close_input && self.pending.is_empty()) {
            self.ends.input = None;
        }
    }

    /// Whether input waits for the process to read it.
    pub(crate) fn is_behind(&self) -> bool {
        self.ends.input.is_some() && !self.pending.is_empty()
    }

    /// Whether it ended and its output was read to the end, or for long enough.
    pub(crate) fn is_over(&self, now: Instant) -> bool {
        let drained = self.ends.output.iter().all(Option::is_none)
            || self.drain_until.is_some_and(|until| now >= until);
        self.exit.is_some() && drained && self.starting.is_none()
    }
}

/// Who a user of the container is on the host.
pub(crate) fn host_uid(config: &ShimConfig, uid: u32) -> Result<u32, ShimError> {
    let mapped = config.ids.uids.to_host(uid.into());
    mapped.map_err(|error| ShimError::Runtime { text: error.to_string() })
}

/// Takes the terminal that libcontainer sends, and makes it ready.
pub(crate) fn receive_terminal(
    console: &UnixStream,
    uid: u32,
    size: (u16, u16),
) -> Result<OwnedFd, ShimError> {
    let take = || -> std::io::Result<_> {
        let master = receive(console)?;
        io::prepare_terminal(&master, uid, size)?;
        Ok(master)
    };
    take().map_err(ShimError::system("take the terminal"))
}

fn receive(console: &UnixStream) -> std::io::Result<OwnedFd> {
    console.set_read_timeout(Some(std::time::Duration::from_secs(5)))?;
    let mut text = [0; 256];
    let (_, master) = berth_sys::socket::recv_fd(console, &mut text)?;
    Ok(master.ok_or(std::io::ErrorKind::UnexpectedEof)?)
}

/// The first steps of a fork that becomes, or makes, a process of the container.
pub(crate) fn in_fork(inside: io::Inside) -> Result<(), ShimError> {
    let prepare = || {
        berth_sys::signals::unblock_all()?;
        inside.put_on()
    };
    prepare().map_err(ShimError::system("prepare a process"))
}

/// Ends such a fork.
#[expect(clippy::exit, reason = "a fork must never go on as if it were the watcher")]
pub(crate) fn end_fork(result: Result<(), ShimError>, report: &Report, otherwise: i32) -> ! {
    if let Err(error) = result {
        report.failure(&error.failure(otherwise));
        std::process::exit(1)
    }
    std::process::exit(0)
}
