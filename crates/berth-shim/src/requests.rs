//! What the daemon asks.

use std::os::unix::net::UnixStream;

use berth_shim_proto::{Event, Failure, Request, Response, State};
use berth_sys::process::pidfd_send_signal;

use crate::conn::Mode;
use crate::error::{ShimError, failure};
use crate::exec::Home;
use crate::process::Process;
use crate::queue::Sink;
use crate::shim::{INIT, Shim};
use crate::state;

/// A request longer than this is nonsense; an exec's environment may be long.
const LONGEST: usize = 8 << 20;
const KILL: i32 = 9;
const SEARCHED: i32 = 3;

impl Shim {
    /// Bytes of a request, and perhaps of the input right behind it.
    pub(crate) fn request_bytes(&mut self, id: u64, bytes: &[u8]) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.early.extend_from_slice(bytes);
        let Some(end) = conn.early.iter().position(|byte| *byte == b'\n') else {
            if conn.early.len() > LONGEST {
                self.conns.remove(&id);
            }
            return;
        };
        let rest = conn.early.split_off(end + 1);
        let line = std::mem::replace(&mut conn.early, rest);
        match serde_json::from_slice(&line) {
            Ok(request) => self.carry_out(id, request),
            Err(error) => {
                let message = format!("not a request: {error}");
                self.answer(id, &Response::Failed(failure(message, 128)), Mode::Closing);
            }
        }
    }

    fn carry_out(&mut self, id: u64, request: Request) {
        let result = match request {
            Request::Start => self.start(),
            Request::Signal { signal, exec, all } => self.signal(signal, exec.as_deref(), all),
            Request::Resize { exec, height, width } => self.resize(exec.as_deref(), height, width),
            Request::Pause { freeze } => self.pause(freeze),
            Request::Attach { stdin, stdout, stderr } => {
                self.attach(id, stdin, [stdout, stderr]);
                return;
            }
            Request::Exec(request) => {
                let Err(refused) = self.exec(id, &request) else { return };
                Err(refused)
            }
            Request::Subscribe => {
                self.answer(id, &Response::Ok, Mode::Subscriber);
                if self.oom
                    && let Some(conn) = self.conns.get_mut(&id)
                {
                    conn.line(&Event::Oom);
                    conn.flush();
                }
                return;
            }
            Request::State => {
                let state = self.state();
                self.answer(id, &Response::State(state), Mode::Closing);
                return;
            }
        };
        let response = result.map_or_else(Response::Failed, |()| Response::Ok);
        self.answer(id, &response, Mode::Closing);
    }

    fn answer(&mut self, id: u64, response: &Response, then: Mode) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        conn.line(response);
        conn.mode = then;
        if conn.flush() == Sink::Gone {
            self.conns.remove(&id);
        }
    }

    fn state(&self) -> State {
        let init = self.processes.get(&INIT);
        State {
            pid: init.map_or(0, |init| init.pid),
            started: self.started,
            paused: self.paused,
            exit: init.and_then(|init| init.exit.clone()),
            execs: self.processes.values().filter_map(|process| process.exec.clone()).collect(),
        }
    }

    fn start(&mut self) -> Result<(), Failure> {
        if self.started {
            return Err(failure("container is already started".to_owned(), 128));
        }
        let dir = self.bundle.join(state::STATE_DIR).join(&self.config.id);
        // The socket's path is too long for an address; this process has one thread.
        let notify = || -> std::io::Result<()> {
            use std::io::Write as _;
            rustix::process::chdir(&dir)?;
            let stream = UnixStream::connect("notify.sock");
            rustix::process::chdir("/")?;
            stream?.write_all(b"start container")
        };
        notify().map_err(|error| ShimError::system("start the container")(error).failure(128))?;
        self.started = true;
        Ok(())
    }

    /// Init, or an exec by its id.
    fn find(&self, exec: Option<&str>) -> Result<&Process, Failure> {
        let mut processes = self.processes.values();
        processes.find(|process| process.exec.as_deref() == exec).ok_or_else(|| {
            failure(format!("No such exec instance: {}", exec.unwrap_or_default()), 128)
        })
    }

    fn signal(&mut self, signal: i32, exec: Option<&str>, all: bool) -> Result<(), Failure> {
        let gone = || failure("os: process already finished".to_owned(), 128);
        if all {
            if !self.cgroups.signal_all(signal) {
                return Err(gone());
            }
        } else {
            let process = self.find(exec)?;
            let pidfd = process.pidfd.as_ref().filter(|_| process.exit.is_none());
            match pidfd_send_signal(pidfd.ok_or_else(gone)?, signal) {
                Err(error) if error.raw_os_error() == Some(SEARCHED) => return Err(gone()),
                other => other
                    .map_err(|error| ShimError::system("send the signal")(error).failure(128))?,
            }
        }
        // With version 1 control groups a frozen process does not even die.
        if signal == KILL && self.paused {
            self.pause(false)?;
        }
        Ok(())
    }

    fn resize(&self, exec: Option<&str>, height: u16, width: u16) -> Result<(), Failure> {
        let process = self.find(exec)?;
        let Some(master) = process.ends.output[0].as_ref().filter(|_| process.tty) else {
            return Ok(());
        };
        berth_sys::tty::set_size(master, height, width)
            .map_err(|error| ShimError::system("resize the terminal")(error).failure(128))
    }

    fn pause(&mut self, freeze: bool) -> Result<(), Failure> {
        let what = if freeze { "pause the container" } else { "unpause the container" };
        self.cgroups.freeze(freeze).map_err(|error| ShimError::system(what)(error).failure(128))?;
        self.paused = freeze;
        Ok(())
    }

    fn attach(&mut self, id: u64, input: bool, output: [bool; 2]) {
        let Some(process) = self.processes.get_mut(&INIT) else { return };
        // A terminal has one stream, whichever was asked for.
        let output = if process.tty { [output[0] || output[1], false] } else { output };
        if let Some(conn) = self.conns.get_mut(&id)
            && input
        {
            process.input(&std::mem::take(&mut conn.early));
        }
        self.answer(id, &Response::Ok, Mode::Stream { process: INIT, input, output });
    }

    fn exec(&mut self, id: u64, request: &berth_shim_proto::ExecRequest) -> Result<(), Failure> {
        let init = self.find(None)?;
        if init.exit.is_some() || !self.started {
            let text = format!("container {} is not running", self.config.id);
            return Err(failure(text, 126));
        }
        if self.paused {
            let text = format!(
                "Container {} is paused, unpause the container before exec",
                self.config.id
            );
            return Err(failure(text, 126));
        }
        if self.find(Some(&request.id)).is_ok() {
            let text = format!("exec command {} is already running", request.id);
            return Err(failure(text, 126));
        }
        let home = Home {
            bundle: &self.bundle,
            config: &self.config,
            cgroups: &self.cgroups,
            namespaces: self.namespaces,
            init: init.pid,
        };
        let process = Process::exec(home, request, id).map_err(|error| error.failure(126))?;
        let mut key = u32::try_from(self.next_key & 0xffff_ffff).unwrap_or(1).max(1);
        while self.processes.contains_key(&key) {
            key = key.wrapping_add(1).max(1);
        }
        self.processes.insert(key, process);
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.mode = Mode::Waiting;
        }
        Ok(())
    }
}
