//! The wire between the daemon and a container's watcher, `berth-shim`.
//!
//! # Files
//!
//! ```text
//! <exec-root>/containers/<id>/      the bundle; on a tmpfs, gone after a reboot
//!   config.json                     OCI spec, written by the daemon; without the capabilities and
//!                                   the seccomp filter, which the watcher puts on by itself
//!   shim.json                       ShimConfig, written by the daemon
//!   devices.bpf                     device program, written by the daemon where only version 2
//!                                   control groups are mounted; without it nothing is run there
//!   seccomp.bpf                     compiled filter, written by the daemon where there is one
//!   shim.sock                       where the watcher listens, from before it reports ready
//!   shim.pid                        the watcher's pid, decimal
//!   pid                             the container's init, decimal, once created
//!   exit.json                       ExitRecord, written (temp + rename) when init has ended
//!   shim.log                        the watcher's standard error; empty unless something is wrong
//!   state/, console.sock            the watcher's own, gone when it ends
//! ```
//!
//! # Conversation
//!
//! The daemon starts `berth-shim <bundle dir>` with a pipe as stdout. The watcher detaches from
//! its parent (double fork, setsid), mounts the root, creates the container, binds the
//! socket, and writes one line of JSON, a [`Ready`], to the pipe; then it closes the pipe.
//!
//! Afterwards each connection to `shim.sock` carries one [`Request`] as a line of JSON. The watcher
//! answers with one [`Response`] as a line of JSON. After `attach` and `exec` (when attached) the
//! same connection becomes the byte stream: towards the daemon Docker's frames (8-byte header
//! `[stream,0,0,0,len BE]`) without a terminal, raw bytes with one; towards the watcher raw stdin
//! until the daemon shuts its writing side down. After `subscribe` (answered with `ok`) it carries
//! [`Event`]s, one JSON line each.
//!
//! # Streams
//!
//! * A client that does not read holds up the stream it is attached to, and so in the end the
//!   container, once 256 KiB wait for it; as with Docker, no output is lost. It stops doing so when it
//!   reads on or its connection ends.
//! * When a client that gives input shuts its writing side down: an exec's input, and a container's
//!   with `stdin_once`, is closed and output goes on; otherwise, and with a terminal, the
//!   connection ends and input stays open.
//! * `ExecExited` is told before the exec's connection ends, `Exited` before those of the container.
//! * Clients that are behind when the container ends still get everything; `Exited` does not wait for
//!   them. Output that others hold open is awaited for 3 seconds (2 for an exec).
//!
//! # After a watcher's death
//!
//! When the watcher itself was killed, `berth-shim --cleanup <bundle dir>` kills what is left of the
//! container and removes its control groups, mounts and mount points; it may be run again.

#![forbid(unsafe_code)]

use std::collections::BTreeMap;
use std::path::PathBuf;

use berth_types::IdMaps;
use serde::{Deserialize, Serialize};

/// What the watcher needs to know, in `shim.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ShimConfig {
    /// The container's full id.
    pub id: String,
    /// Mounts to make in the host's mount namespace before the container is created, in order, and
    /// to undo in reverse after it ended.
    pub mounts: Vec<Mount>,
    /// What to undo after unmounting, in order.
    #[serde(default)]
    pub teardown: Vec<Teardown>,
    /// Whether the container has a terminal.
    pub tty: bool,
    /// Initial terminal size `(height, width)`, zero for the kernel's default.
    pub console_size: (u16, u16),
    /// Whether stdin is kept open (`-i`); otherwise it is `/dev/null`.
    pub open_stdin: bool,
    /// Whether stdin closes when the first client that attached to it leaves.
    pub stdin_once: bool,
    /// Where and how to log.
    pub log: LogTarget,
    /// `oom_score_adj` for the container.
    pub oom_score_adj: Option<i32>,
    /// What the container's init may do at most; bit n is capability number n.
    pub capabilities: u64,
    /// The container has a filter, in `seccomp.bpf`, and nothing runs without it; the value is its
    /// `SECCOMP_FILTER_FLAG_…` bits.
    pub seccomp: Option<u32>,
    /// What ids of the container are on the host, when it has a user namespace of its own; OCI's
    /// `process` and the like have ids of the container.
    #[serde(default, skip_serializing_if = "IdMaps::is_identity")]
    pub ids: IdMaps,
}

/// A mount as plain data; mirrors the storage layer's plan.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// File system type; `bind` for a bind mount; `fuse.PROGRAM` for one that this program makes
    /// and serves (`PROGRAM -o OPTIONS TARGET`). It ends when it is unmounted.
    pub fs_type: String,
    /// Device or directory.
    pub source: PathBuf,
    /// Mount point, created if missing.
    pub target: PathBuf,
    /// Where relative paths in the options start.
    pub work_dir: Option<PathBuf>,
    /// Options as `mount -o` takes them.
    pub options: Vec<String>,
}

/// A step of undoing; mirrors the storage layer's.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "step", rename_all = "snake_case")]
pub enum Teardown {
    /// Remove a directory, if it is empty.
    RemoveDir {
        /// The directory.
        path: PathBuf,
    },
    /// Remove a file or link that stands for something activated.
    RemoveFile {
        /// The file.
        path: PathBuf,
    },
}

impl Teardown {
    /// Takes the step. What is gone already is fine.
    pub fn take(&self) -> std::io::Result<()> {
        let removed = match self {
            Self::RemoveDir { path } => std::fs::remove_dir(path),
            Self::RemoveFile { path } => std::fs::remove_file(path),
        };
        match removed {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            other => other,
        }
    }
}

/// Where a container's output goes besides attached clients.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "driver", rename_all = "kebab-case")]
pub enum LogTarget {
    /// Nowhere.
    None,
    /// Docker's json-file.
    JsonFile {
        /// The live file; rotated ones are `path.1`, `path.2` …
        path: PathBuf,
        /// Rotate when the file would grow beyond this many bytes.
        max_size: Option<u64>,
        /// How many files there are at most, the live one included.
        max_file: u32,
        /// Gzip rotated files.
        compress: bool,
        /// Attributes for every line (`labels`, `env`, `tag` options).
        attrs: BTreeMap<String, String>,
    },
}

/// The watcher's first and only line on its stdout.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Ready {
    /// The container is created and waits for [`Request::Start`].
    Created {
        /// The watcher's pid.
        shim_pid: i32,
        /// The container's init, in the host's pid namespace.
        pid: i32,
    },
    /// It could not be created; everything is undone and the watcher has ended.
    Failed(Failure),
}

/// Why a container or an exec could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// The exit code that Docker gives it: 127 not found, 126 not executable, 128 otherwise.
    pub exit_code: i32,
    /// The text, as runc would say it: `exec: "x": executable file not found in $PATH`.
    pub message: String,
}

/// What the daemon asks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "op", rename_all = "kebab-case")]
pub enum Request {
    /// Let the created container run.
    Start,
    /// Send a signal to init, or to an exec's process.
    Signal {
        /// Signal number.
        signal: i32,
        /// The exec, or init.
        exec: Option<String>,
        /// All processes of the container's cgroup instead of one.
        all: bool,
    },
    /// Set the terminal's size.
    Resize {
        /// The exec, or init.
        exec: Option<String>,
        /// Rows.
        height: u16,
        /// Columns.
        width: u16,
    },
    /// Join the container's streams; the connection becomes the byte stream.
    Attach {
        /// Send stdin.
        stdin: bool,
        /// Receive stdout.
        stdout: bool,
        /// Receive stderr.
        stderr: bool,
    },
    /// Run one more process in the container; the connection becomes its byte stream.
    Exec(ExecRequest),
    /// Freeze or thaw all processes.
    Pause {
        /// Freeze, or thaw.
        freeze: bool,
    },
    /// Receive [`Event`]s from now on; the first ones repeat the present state.
    Subscribe,
    /// State now.
    State,
}

/// One more process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecRequest {
    /// The exec's full id.
    pub id: String,
    /// The process in OCI form (`args`, `env`, `cwd`, `user` …), without `capabilities`.
    pub process: serde_json::Value,
    /// What it may do at most; bit n is capability number n.
    pub capabilities: u64,
    /// With a terminal of its own.
    pub tty: bool,
    /// Initial terminal size `(height, width)`.
    pub console_size: (u16, u16),
    /// Streams of this connection: stdin, stdout, stderr. All false: run detached.
    pub attach: [bool; 3],
}

/// What the watcher answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "result", rename_all = "kebab-case")]
pub enum Response {
    /// Done.
    Ok,
    /// The exec runs with this pid in the host's namespace.
    ExecStarted {
        /// The process.
        pid: i32,
    },
    /// The state asked for.
    State(State),
    /// Not done.
    Failed(Failure),
}

/// What the watcher knows.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// Init's pid in the host's namespace.
    pub pid: i32,
    /// Whether `Start` was carried out.
    pub started: bool,
    /// Whether it is frozen.
    pub paused: bool,
    /// The exit, when init has ended.
    pub exit: Option<ExitRecord>,
    /// The execs that run.
    pub execs: Vec<String>,
}

/// How init, or an exec's process, ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExitRecord {
    /// 0–255; 128+n for signal n.
    pub exit_code: i32,
    /// Whether the kernel killed something in the container for lack of memory.
    pub oom_killed: bool,
    /// Nanoseconds since 1970.
    pub at_unix_nanos: i64,
}

/// What a subscriber hears.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum Event {
    /// An exec's process ended; all its output was delivered.
    ExecExited {
        /// The exec.
        exec: String,
        /// How.
        exit: ExitRecord,
    },
    /// The kernel killed a process of the container for lack of memory.
    Oom,
    /// Init ended, its output is logged and delivered, `exit.json` is written, the root is unmounted.
    /// The last event: the watcher ends.
    Exited(ExitRecord),
}
