//! A bundle with busybox in it, a watcher on it, and a check that nothing is left.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use berth_shim_proto::{
    Event, ExecRequest, ExitRecord, Failure, LogTarget, Mount, Ready, Request, Response,
    ShimConfig, Teardown,
};
use berth_types::IdMaps;
use serde_json::{Value, json};

const BUSYBOX: &str = "/bin/busybox";
const PATIENCE: Duration = Duration::from_secs(30);

const CHOWN: u64 = 1;
const DAC_OVERRIDE: u64 = 1 << 1;
const KILL: u64 = 1 << 5;
const SETGID: u64 = 1 << 6;
const SETUID: u64 = 1 << 7;

pub(crate) fn write_text(path: &Path, text: &str) {
    write(path, text.as_bytes());
}

fn write(path: &Path, bytes: &[u8]) {
    File::create(path).unwrap().write_all(bytes).unwrap();
}

/// A container's bundle, and whatever the test wants different.
pub(crate) struct Bundle {
    dir: tempfile::TempDir,
    pub(crate) config: ShimConfig,
    pub(crate) spec: Value,
}

/// A watcher that reported a created container.
pub(crate) struct Watcher {
    pub(crate) bundle: Bundle,
    pub(crate) shim_pid: i32,
    pub(crate) pid: i32,
}

/// `None`, noted as a skip, when the machine lacks what these tests need.
pub(crate) fn bundle(test: &str, args: &[&str]) -> Option<Bundle> {
    if !testkit::is_root() {
        testkit::skip(test, "root");
        return None;
    }
    if fs::metadata(BUSYBOX).is_err() {
        testkit::skip(test, "a static busybox at /bin/busybox");
        return None;
    }
    Some(Bundle::new(args))
}

impl Bundle {
    fn new(args: &[&str]) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let dir = tempfile::tempdir().unwrap();
        let id = format!(
            "{:064x}",
            (u64::from(std::process::id()) << 32) + u64::from(NEXT.fetch_add(1, Ordering::Relaxed))
        );
        let lower = dir.path().join("lower");
        for name in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
            fs::create_dir_all(lower.join(name)).unwrap();
        }
        fs::copy(BUSYBOX, lower.join("bin/busybox")).unwrap();
        for name in [
            "sh", "cat", "echo", "sleep", "true", "env", "id", "tty", "stty", "kill", "head", "dd",
            "mkdir", "pwd", "grep", "tail",
        ] {
            symlink("busybox", lower.join("bin").join(name)).unwrap();
        }
        write_text(
            &lower.join("etc/passwd"),
            "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n",
        );
        for name in ["upper", "work", "bundle"] {
            fs::create_dir(dir.path().join(name)).unwrap();
        }
        let merged = dir.path().join("merged");
        let mounts = vec![Mount {
            fs_type: "overlay".to_owned(),
            source: PathBuf::from("overlay"),
            target: merged.clone(),
            work_dir: Some(dir.path().to_owned()),
            options: ["lowerdir=lower", "upperdir=upper", "workdir=work"]
                .map(str::to_owned)
                .to_vec(),
        }];
        let log = LogTarget::JsonFile {
            path: dir.path().join("log"),
            max_size: None,
            max_file: 1,
            compress: false,
            attrs: BTreeMap::new(),
        };
        let config = ShimConfig {
            id: id.clone(),
            mounts,
            teardown: vec![Teardown::RemoveDir { path: merged.clone() }],
            tty: false,
            console_size: (0, 0),
            open_stdin: false,
            stdin_once: false,
            log,
            oom_score_adj: None,
            capabilities: [CHOWN, DAC_OVERRIDE, KILL, SETGID, SETUID].iter().sum(),
            seccomp: Some(0),
            ids: IdMaps::default(),
        };
        let spec = spec(&id, &merged, args);
        Self { dir, config, spec }
    }

    pub(crate) fn path(&self) -> PathBuf {
        self.dir.path().join("bundle")
    }

    pub(crate) fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Writes the files and starts a watcher as a child of this process, which the caller reaps.
    pub(crate) fn spawn(&self) -> Child {
        let bundle = self.path();
        write_text(&bundle.join("config.json"), &self.spec.to_string());
        write_text(&bundle.join("shim.json"), &serde_json::to_string(&self.config).unwrap());
        write(&bundle.join("seccomp.bpf"), &refuse_mkdir());
        let log = File::options().create(true).append(true).open(bundle.join("shim.log")).unwrap();
        Command::new(env!("CARGO_BIN_EXE_berth-shim"))
            .arg(&bundle)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    fn ready(&self) -> Ready {
        let mut child = self.spawn();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(child.wait().unwrap().success(), "{}", self.notes());
        serde_json::from_str(&line)
            .unwrap_or_else(|error| panic!("{error}: {line:?} {}", self.notes()))
    }

    /// A created container.
    pub(crate) fn create(self) -> Watcher {
        match self.ready() {
            Ready::Created { shim_pid, pid } => Watcher { bundle: self, shim_pid, pid },
            Ready::Failed(failure) => panic!("{failure:?}"),
        }
    }

    /// A container that cannot be created.
    pub(crate) fn create_fails(self) -> Failure {
        match self.ready() {
            Ready::Created { .. } => panic!("created"),
            Ready::Failed(failure) => {
                self.assert_clean();
                failure
            }
        }
    }

    /// What the watcher wrote to its standard error.
    pub(crate) fn notes(&self) -> String {
        fs::read_to_string(self.path().join("shim.log")).unwrap_or_default()
    }

    /// The log's lines: stream and text.
    pub(crate) fn log(&self) -> Vec<(String, String)> {
        let text = fs::read_to_string(self.file("log")).unwrap_or_default();
        let records = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let field =
            |record: &Value, name: &str| record[name].as_str().unwrap_or_default().to_owned();
        records.map(|record| (field(&record, "stream"), field(&record, "log"))).collect()
    }

    /// The log's text of both streams.
    pub(crate) fn text(&self) -> String {
        self.log().into_iter().map(|(_, text)| text).collect()
    }

    /// No mount, no control group, no socket.
    pub(crate) fn assert_clean(&self) {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let here = self.dir.path().to_str().unwrap();
        let left: Vec<_> = mounts.lines().filter(|line| line.contains(here)).collect();
        assert!(left.is_empty(), "{left:?}");
        assert!(fs::metadata(self.file("merged")).is_err(), "the mount point is left");
        let groups = cgroups(&self.config.id);
        assert!(groups.is_empty(), "{groups:?} are left; {}", self.notes());
        for name in ["shim.sock", "console.sock", "state"] {
            assert!(fs::metadata(self.path().join(name)).is_err(), "{name} is left");
        }
        assert_eq!(self.notes(), "");
    }
}

/// A test that failed leaves nothing either.
impl Drop for Bundle {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let mut cleanup = Command::new(env!("CARGO_BIN_EXE_berth-shim"));
            let status = cleanup.arg("--cleanup").arg(self.path()).status();
            assert!(status.is_ok(), "cannot clean up");
        }
    }
}

/// The control groups of a container that exist.
pub(crate) fn cgroups(id: &str) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let points = mounts.lines().filter(|line| line.contains(" - cgroup"));
    let dirs = points
        .map(|line| Path::new(line.split(' ').nth(4).unwrap()).join("berth-shim-test").join(id));
    dirs.filter(|dir| fs::metadata(dir).is_ok()).collect()
}

/// A filter that refuses to make directories, and nothing else.
fn refuse_mkdir() -> Vec<u8> {
    const LOAD: u16 = 0x20;
    const JUMP_IF_EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    const ALLOW: u32 = 0x7fff_0000;
    const REFUSE: u32 = 0x0005_0000 | 1;
    let calls = [libc::SYS_mkdirat, libc::SYS_mkdir].map(|number| u32::try_from(number).unwrap());
    let instruction = |code: u16, yes: u8, no: u8, operand: u32| {
        [&code.to_ne_bytes()[..], &[yes, no], &operand.to_ne_bytes()].concat()
    };
    [
        instruction(LOAD, 0, 0, 0),
        instruction(JUMP_IF_EQUAL, 2, 0, calls[0]),
        instruction(JUMP_IF_EQUAL, 1, 0, calls[1]),
        instruction(RETURN, 0, 0, ALLOW),
        instruction(RETURN, 0, 0, REFUSE),
    ]
    .concat()
}

fn spec(id: &str, root: &Path, args: &[&str]) -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": process(args),
        "root": { "path": root, "readonly": false },
        "hostname": "box",
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "strictatime", "mode=755", "size=65536k"] },
            { "destination": "/dev/pts", "type": "devpts", "source": "devpts", "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"] },
        ],
        "linux": {
            "cgroupsPath": format!("/berth-shim-test/{id}"),
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "ipc" }, { "type": "uts" }, { "type": "network" },
            ],
        },
    })
}

fn process(args: &[&str]) -> Value {
    json!({
        "terminal": false,
        "user": { "uid": 0, "gid": 0 },
        "args": args,
        "env": ["PATH=/bin", "ZED=1", "ALPHA=2"],
        "cwd": "/",
    })
}

/// An exec of `args` whose streams are all attached.
pub(crate) fn exec_request(id: &str, args: &[&str]) -> ExecRequest {
    ExecRequest {
        id: id.to_owned(),
        process: process(args),
        capabilities: KILL,
        tty: false,
        console_size: (0, 0),
        attach: [false, true, true],
    }
}

impl Watcher {
    /// A connection with the request sent and the answer read.
    pub(crate) fn ask(&self, request: &Request) -> (Response, UnixStream) {
        let dir = File::open(self.bundle.path()).unwrap();
        let address = format!("/proc/self/fd/{}/shim.sock", dir.as_raw_fd());
        let mut stream = UnixStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut line = serde_json::to_vec(request).unwrap();
        line.push(b'\n');
        stream.write_all(&line).unwrap();
        let mut answer = Vec::new();
        let mut byte = [0];
        while byte != *b"\n" {
            stream.read_exact(&mut byte).unwrap();
            answer.push(byte[0]);
        }
        (serde_json::from_slice(&answer).unwrap(), stream)
    }

    pub(crate) fn order(&self, request: &Request) {
        assert_eq!(self.ask(request).0, Response::Ok, "{request:?}");
    }

    pub(crate) fn subscribe(&self) -> Events {
        let (response, stream) = self.ask(&Request::Subscribe);
        assert_eq!(response, Response::Ok);
        Events { lines: BufReader::new(stream) }
    }

    pub(crate) fn attach(&self, stdin: bool) -> UnixStream {
        let request = Request::Attach { stdin, stdout: true, stderr: true };
        let (response, stream) = self.ask(&request);
        assert_eq!(response, Response::Ok);
        stream
    }

    /// Starts it, waits for its end and checks that nothing is left.
    pub(crate) fn run(self) -> (Bundle, ExitRecord) {
        let events = self.subscribe();
        self.order(&Request::Start);
        self.end(events)
    }

    /// Waits for the end and checks that nothing is left.
    pub(crate) fn end(self, mut events: Events) -> (Bundle, ExitRecord) {
        let exit = events.exit();
        let recorded = fs::read(self.bundle.path().join("exit.json")).unwrap();
        assert_eq!(serde_json::from_slice::<ExitRecord>(&recorded).unwrap(), exit);
        self.bundle.assert_clean();
        wait_until("the watcher ends", || !alive(self.shim_pid));
        assert!(!alive(self.pid));
        (self.bundle, exit)
    }
}

/// What a subscriber hears.
pub(crate) struct Events {
    lines: BufReader<UnixStream>,
}

impl Events {
    pub(crate) fn next(&mut self) -> Event {
        let mut line = String::new();
        self.lines.read_line(&mut line).unwrap();
        serde_json::from_str(&line).unwrap_or_else(|error| panic!("{error}: {line:?}"))
    }

    /// The last event; others before it are passed over.
    pub(crate) fn exit(&mut self) -> ExitRecord {
        loop {
            if let Event::Exited(exit) = self.next() {
                return exit;
            }
        }
    }
}

pub(crate) fn alive(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit(')').next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with(" Z"))
}

pub(crate) fn wait_until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < deadline, "waited too long until {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Splits Docker's frames; gives what came on stdout and on stderr.
pub(crate) fn unframe(bytes: &[u8]) -> (String, String) {
    let mut texts = [String::new(), String::new()];
    let mut rest = bytes;
    while let Some((header, tail)) = rest.split_first_chunk::<8>() {
        let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
        assert!(header[1..4] == [0, 0, 0] && tail.len() >= length, "a frame is cut");
        texts[usize::from(header[0]) - 1].push_str(&String::from_utf8_lossy(&tail[..length]));
        rest = &tail[length..];
    }
    assert!(rest.is_empty());
    let [stdout, stderr] = texts;
    (stdout, stderr)
}

pub(crate) fn read_all(mut stream: &UnixStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}
