//! The watcher's loop: one thread, one poll set.

use std::collections::BTreeMap;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use berth_logs::{Stream, Writer};
use berth_shim_proto::{Event, ExitRecord, Response, ShimConfig};
use berth_sys::process::{Exit, reap};
use berth_sys::signals::SignalFd;
use berth_types::Timestamp;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::thread::ThreadNameSpaceType;

use crate::cgroups::Cgroups;
use crate::conn::{CLIENT_LIMIT, Conn, Mode};
use crate::error::ShimError;
use crate::process::Process;
use crate::queue::Sink;
use crate::say;
use crate::status::Outcome;

/// Init's key among the processes.
pub(crate) const INIT: u32 = 0;
/// How long output is awaited after a process ended: others may hold its pipes for ever.
const DRAIN: Duration = Duration::from_secs(3);
const DRAIN_EXEC: Duration = Duration::from_secs(2);
const CHUNK: usize = 32 * 1024;
const KILL: i32 = 9;

/// Everything that the loop works on.
#[derive(Debug)]
pub(crate) struct Shim {
    pub(crate) bundle: PathBuf,
    pub(crate) config: ShimConfig,
    pub(crate) cgroups: Cgroups,
    /// What an exec joins.
    pub(crate) namespaces: ThreadNameSpaceType,
    pub(crate) signals: SignalFd,
    pub(crate) listener: Option<UnixListener>,
    pub(crate) processes: BTreeMap<u32, Process>,
    pub(crate) conns: BTreeMap<u64, Conn>,
    pub(crate) log: Option<Writer>,
    pub(crate) oom_fd: Option<OwnedFd>,
    pub(crate) oom: bool,
    pub(crate) started: bool,
    pub(crate) paused: bool,
    pub(crate) next_key: u64,
    /// Ends of processes whose pid is not known yet, while an exec is being set up.
    pub(crate) unclaimed: BTreeMap<i32, Exit>,
    /// A fork that compresses a rotated log.
    pub(crate) compressor: Option<i32>,
    pub(crate) buffer: Vec<u8>,
}

/// What a descriptor of the poll set is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Token {
    Setup(u32),
    Output(u32, usize),
    Input(u32),
    Conn(u64),
    Oom,
    Listener,
    Signals,
}

impl Shim {
    /// Until init has ended, its output is drained and all execs are gone.
    pub(crate) fn watch(&mut self) -> Result<ExitRecord, ShimError> {
        loop {
            self.turn()?;
            let now = Instant::now();
            self.finish_execs(now);
            let Some(init) = self.processes.get(&INIT) else { continue };
            let late = init.drain_until.is_some_and(|until| now >= until);
            if let Some(exit) = &init.exit
                && init.is_over(now)
                && (self.processes.len() == 1 || late)
            {
                return Ok(exit.clone());
            }
        }
    }

    /// Until all that was queued for clients is sent or they are gone.
    pub(crate) fn linger(&mut self) -> Result<(), ShimError> {
        for conn in self.conns.values_mut() {
            conn.mode = Mode::Closing;
            conn.flush();
        }
        self.conns.retain(|_, conn| !conn.out.is_empty());
        while !self.conns.is_empty() {
            self.turn()?;
            self.conns.retain(|_, conn| !conn.out.is_empty());
        }
        Ok(())
    }

    fn turn(&mut self) -> Result<(), ShimError> {
        let timeout = self.timeout();
        let mut tokens = Vec::with_capacity(8);
        let mut fds = Vec::with_capacity(8);
        self.poll_set(&mut |token, fd, flags| {
            tokens.push(token);
            fds.push(PollFd::from_borrowed_fd(fd, flags));
        });
        match poll(&mut fds, timeout.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(()),
            Err(errno) => return Err(ShimError::system("poll")(errno.into())),
        }
        let ready = tokens.into_iter().zip(fds.iter().map(PollFd::revents));
        let mut ready: Vec<_> = ready.filter(|(_, flags)| !flags.is_empty()).collect();
        drop(fds);
        // Set-ups before signals, so that a pid is known when its end is.
        ready.sort_by_key(|(token, _)| *token);
        for (token, flags) in ready {
            self.handle(token, flags);
        }
        Ok(())
    }

    fn timeout(&self) -> Option<Timespec> {
        let deadlines = self.processes.values().filter_map(|process| process.drain_until);
        let left = deadlines.min()?.saturating_duration_since(Instant::now());
        Timespec::try_from(left + Duration::from_millis(1)).ok()
    }

    fn poll_set<'a>(&'a self, add: &mut impl FnMut(Token, BorrowedFd<'a>, PollFlags)) {
        add(Token::Signals, self.signals.as_fd(), PollFlags::IN);
        if let Some(listener) = &self.listener {
            add(Token::Listener, listener.as_fd(), PollFlags::IN);
        }
        if let Some(fd) = &self.oom_fd {
            add(Token::Oom, fd.as_fd(), PollFlags::IN);
        }
        for (&key, process) in &self.processes {
            if let Some(starting) = &process.starting {
                add(Token::Setup(key), starting.pipe.as_fd(), PollFlags::IN);
                continue;
            }
            for (stream, end) in process.ends.output.iter().enumerate() {
                if let Some(fd) = end
                    && (process.exit.is_some() || !self.is_held_up(key, stream))
                {
                    add(Token::Output(key, stream), fd.as_fd(), PollFlags::IN);
                }
            }
            if let Some(fd) = &process.ends.input
                && process.is_behind()
            {
                add(Token::Input(key), fd.as_fd(), PollFlags::OUT);
            }
        }
        for (&id, conn) in &self.conns {
            let room = self.has_room(conn);
            let flags = conn.interest(room);
            // Without room, the end of a connection would be reported again and again.
            if room || !flags.is_empty() {
                add(Token::Conn(id), conn.stream.as_fd(), flags);
            }
        }
    }

    fn has_room(&self, conn: &Conn) -> bool {
        match conn.mode {
            Mode::Stream { process, input: true, .. } if !conn.ended => {
                self.processes.get(&process).is_none_or(Process::has_room)
            }
            _ => true,
        }
    }

    /// Whether a client of this stream has not taken what it got so far.
    fn is_held_up(&self, key: u32, stream: usize) -> bool {
        self.conns.values().any(|conn| {
            let listens = matches!(conn.mode, Mode::Stream { process, output, .. }
                if process == key && output[stream]);
            listens && conn.out.len() >= CLIENT_LIMIT
        })
    }

    fn handle(&mut self, token: Token, flags: PollFlags) {
        match token {
            Token::Setup(key) => self.hear_setup(key),
            Token::Output(key, stream) => self.read_output(key, stream),
            Token::Input(key) => {
                if let Some(process) = self.processes.get_mut(&key) {
                    process.flush_input();
                }
            }
            Token::Conn(id) => self.handle_conn(id, flags),
            Token::Oom => self.hear_oom(),
            Token::Listener => self.accept(),
            Token::Signals => self.reap_all(),
        }
    }

    fn accept(&mut self) {
        let Some(listener) = &self.listener else { return };
        // A client that went away in between is no trouble.
        if let Ok((stream, _)) = listener.accept()
            && stream.set_nonblocking(true).is_ok()
        {
            self.next_key += 1;
            self.conns.insert(self.next_key, Conn::new(stream));
        }
    }

    fn handle_conn(&mut self, id: u64, flags: PollFlags) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if conn.flush() == Sink::Gone {
            self.drop_conn(id);
            return;
        }
        if flags.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR) {
            let reads = match conn.mode {
                Mode::Request | Mode::Subscriber | Mode::Stream { .. } => !conn.ended,
                Mode::Waiting | Mode::Closing => false,
            };
            if reads {
                self.read_conn(id);
            } else if flags.intersects(PollFlags::HUP | PollFlags::ERR) {
                self.drop_conn(id);
                return;
            }
        }
        self.close_if_done(id);
    }

    fn close_if_done(&mut self, id: u64) {
        let done = |conn: &Conn| conn.mode == Mode::Closing && conn.out.is_empty();
        if self.conns.get(&id).is_some_and(done) {
            self.conns.remove(&id);
        }
    }

    fn drop_conn(&mut self, id: u64) {
        let Some(conn) = self.conns.remove(&id) else { return };
        if let Mode::Stream { process, input: true, .. } = conn.mode
            && !conn.ended
            && let Some(process) = self.processes.get_mut(&process)
            && process.input_once
            && !process.tty
        {
            process.end_input();
        }
    }

    fn read_conn(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        let read = rustix::io::read(&conn.stream, &mut buffer);
        match read {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(0) | Err(_) => self.client_ended(id),
            Ok(count) => match conn.mode {
                Mode::Request => self.request_bytes(id, &buffer[..count]),
                Mode::Stream { process, input: true, .. } => {
                    if let Some(process) = self.processes.get_mut(&process) {
                        process.input(&buffer[..count]);
                    }
                }
                _ => {}
            },
        }
        self.buffer = buffer;
    }

    /// The client will send no more. Docker's rules: where input ends with its first client it is
    /// closed and output goes on; otherwise (and for a terminal) the client is done.
    fn client_ended(&mut self, id: u64) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.ended = true;
        match conn.mode {
            Mode::Stream { process, input: true, .. } => {
                let Some(process) = self.processes.get_mut(&process) else { return };
                if process.input_once && !process.tty {
                    process.end_input();
                } else {
                    conn.mode = Mode::Closing;
                }
            }
            Mode::Request | Mode::Subscriber => {
                self.conns.remove(&id);
            }
            _ => {}
        }
    }

    fn read_output(&mut self, key: u32, stream: usize) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(fd) = &process.ends.output[stream] else { return };
        let mut buffer = std::mem::take(&mut self.buffer);
        buffer.resize(CHUNK, 0);
        match rustix::io::read(fd, &mut buffer) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            // A terminal whose other side is closed says EIO.
            Ok(0) | Err(_) => {
                process.ends.output[stream] = None;
                if process.tty {
                    process.ends.input = None;
                }
                if key == INIT {
                    self.log(stream, None);
                }
            }
            Ok(count) => {
                let framed = !process.tty;
                if key == INIT {
                    self.log(stream, Some(&buffer[..count]));
                }
                self.broadcast(key, stream, framed, &buffer[..count]);
            }
        }
        self.buffer = buffer;
    }

    fn broadcast(&mut self, key: u32, stream: usize, framed: bool, bytes: &[u8]) {
        let mut gone = Vec::new();
        for (&id, conn) in &mut self.conns {
            if let Mode::Stream { process, output, .. } = conn.mode
                && process == key
                && output[stream]
            {
                conn.output(stream, framed, bytes);
                if conn.flush() == Sink::Gone {
                    gone.push(id);
                }
            }
        }
        for id in gone {
            self.drop_conn(id);
        }
    }

    /// Logs output, or its end. A log that cannot be written (a full disk) loses lines; the
    /// container goes on.
    fn log(&mut self, stream: usize, bytes: Option<&[u8]>) {
        let Some(log) = &mut self.log else { return };
        let stream = if stream == 0 { Stream::Stdout } else { Stream::Stderr };
        let now = Timestamp::now();
        let result = match bytes {
            Some(bytes) => log.write(stream, bytes, now),
            None => log.finish(stream, now),
        };
        if let Err(error) = result {
            say(&berth_types::kind::chain(&error));
        }
        if let Some(rotated) = log.take_rotated() {
            self.compressor = compress(&rotated);
            log.hold_rotation(self.compressor.is_some());
        }
    }

    fn hear_setup(&mut self, key: u32) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(starting) = &mut process.starting else { return };
        let mut text = [0; 4096];
        match rustix::io::read(&starting.pipe, &mut text) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            Ok(count) if count > 0 => starting.heard.add(&text[..count]),
            Ok(_) | Err(_) => self.set_up(key),
        }
    }

    /// The program of an exec was executed, or will not be.
    fn set_up(&mut self, key: u32) {
        let Some(process) = self.processes.get_mut(&key) else { return };
        let Some(starting) = process.starting.take() else { return };
        let result = match starting.heard.outcome() {
            Some(Outcome::Pid(pid)) => {
                process.pid = pid;
                process.pidfd = berth_sys::process::pidfd_open(pid).ok();
                process.take_terminal(&starting).map_err(|error| error.failure(126))
            }
            Some(Outcome::Failed(failure)) => Err(failure),
            None => Err(crate::error::failure("the exec's set-up was killed".to_owned(), 126)),
        };
        let pid = process.pid;
        let response = match result {
            Ok(()) => Response::ExecStarted { pid },
            Err(failure) => {
                if let Some(fd) = &process.pidfd {
                    drop(berth_sys::process::pidfd_send_signal(fd, KILL));
                }
                self.processes.remove(&key);
                Response::Failed(failure)
            }
        };
        self.answer_exec(key, starting.conn, starting.attach, &response);
        // It may be over already: what has no pid waits in the list until no set-up is left.
        if let Some(exit) = self.unclaimed.remove(&pid) {
            self.note_exit(pid, exit);
        }
        if self.processes.values().all(|process| process.starting.is_none()) {
            self.unclaimed.clear();
        }
    }

    fn answer_exec(&mut self, key: u32, conn: u64, attach: [bool; 3], response: &Response) {
        let Some(conn_ref) = self.conns.get_mut(&conn) else { return };
        conn_ref.line(response);
        let early = std::mem::take(&mut conn_ref.early);
        let [input, stdout, stderr] = attach;
        if matches!(response, Response::ExecStarted { .. }) && (input || stdout || stderr) {
            conn_ref.mode = Mode::Stream { process: key, input, output: [stdout, stderr] };
            if let Some(process) = self.processes.get_mut(&key) {
                if process.tty {
                    // A terminal has one stream, whichever was asked for.
                    let output = [stdout || stderr, false];
                    conn_ref.mode = Mode::Stream { process: key, input, output };
                }
                if input {
                    process.input(&early);
                }
            }
        } else {
            conn_ref.mode = Mode::Closing;
        }
        if conn_ref.flush() == Sink::Gone {
            self.drop_conn(conn);
        }
        self.close_if_done(conn);
    }

    fn reap_all(&mut self) {
        while matches!(self.signals.next(), Ok(Some(_))) {}
        while let Ok(Some(reaped)) = reap() {
            if self.compressor == Some(reaped.pid) {
                self.compressor = None;
                if let Some(log) = &mut self.log {
                    log.hold_rotation(false);
                }
                continue;
            }
            self.note_exit(reaped.pid, reaped.exit);
        }
    }

    fn note_exit(&mut self, pid: i32, exit: Exit) {
        if exit == Exit::Signal(KILL) {
            self.note_oom();
        }
        let starting = self.processes.values().any(|process| process.starting.is_some());
        let mut processes = self.processes.iter_mut();
        let found = processes.find(|(_, process)| process.pid == pid && process.exit.is_none());
        let Some((&key, process)) = found else {
            if starting {
                self.unclaimed.insert(pid, exit);
            }
            return;
        };
        process.exit = Some(ExitRecord {
            exit_code: exit.code(),
            oom_killed: self.oom,
            at_unix_nanos: Timestamp::now().unix_nanos(),
        });
        let drain = if key == INIT { DRAIN } else { DRAIN_EXEC };
        process.drain_until = Some(Instant::now() + drain);
        process.ends.input = None;
        if key == INIT {
            // In a pid namespace of its own nobody is left; in the host's there may be.
            self.cgroups.signal_all(KILL);
        }
    }

    fn hear_oom(&mut self) {
        if let Some(fd) = &self.oom_fd {
            let mut scratch = [0; 512];
            if rustix::io::read(fd, &mut scratch).is_err() {
                self.oom_fd = None;
            }
        }
        self.note_oom();
    }

    fn note_oom(&mut self) {
        if !self.oom && self.cgroups.oom_kills() > 0 {
            self.oom = true;
            self.tell(&Event::Oom);
        }
    }

    /// Tells the subscribers.
    pub(crate) fn tell(&mut self, event: &Event) {
        let mut gone = Vec::new();
        for (&id, conn) in &mut self.conns {
            if conn.mode == Mode::Subscriber {
                conn.line(event);
                if conn.flush() == Sink::Gone {
                    gone.push(id);
                }
            }
        }
        for id in gone {
            self.drop_conn(id);
        }
    }

    fn finish_execs(&mut self, now: Instant) {
        let over = |(key, process): (&u32, &Process)| {
            (*key != INIT && process.is_over(now)).then_some(*key)
        };
        let over: Vec<_> = self.processes.iter().filter_map(over).collect();
        for key in over {
            let Some(process) = self.processes.remove(&key) else { continue };
            if let (Some(exec), Some(exit)) = (process.exec, process.exit) {
                self.tell(&Event::ExecExited { exec, exit });
            }
            self.close_streams(key);
        }
    }

    fn close_streams(&mut self, key: u32) {
        let of_it = |(id, conn): (&u64, &Conn)| {
            matches!(conn.mode, Mode::Stream { process, .. } if process == key).then_some(*id)
        };
        let ids: Vec<_> = self.conns.iter().filter_map(of_it).collect();
        for id in ids {
            if let Some(conn) = self.conns.get_mut(&id) {
                conn.mode = Mode::Closing;
            }
            self.close_if_done(id);
        }
    }
}

/// Compresses in a fork: it can take seconds.
#[expect(clippy::exit, reason = "the fork has no other work")]
fn compress(rotated: &Path) -> Option<i32> {
    use berth_sys::fork::{Forked, fork};
    match fork() {
        Ok(Forked::Parent { pid }) => Some(pid),
        Ok(Forked::Child) => {
            let result = berth_logs::compress(rotated);
            if let Err(error) = &result {
                say(&berth_types::kind::chain(error));
            }
            std::process::exit(i32::from(result.is_err()))
        }
        Err(error) => {
            say(&format!("cannot fork to compress {}: {error}", rotated.display()));
            None
        }
    }
}
