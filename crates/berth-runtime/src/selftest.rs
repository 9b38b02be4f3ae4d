//! Proof that device rules, the seccomp filter and the lack of capabilities bite.
//!
//! All of them would fail silently: on version 2 control groups libcontainer ignores device rules,
//! and the watcher installs filter and capabilities behind its back. So a container is run whose
//! program, the watcher's own binary as `berth-shim --probe`, tries what must be refused. Its exit
//! code is a sum:
//!
//! | | |
//! |---|---|
//! | 1 | `mkdir("/tmp/berth-probe")` did anything but fail with `EPERM` |
//! | 2 | opening `/dev/berth-denied` (a node of fuse) did anything but fail with `EPERM` |
//! | 4 | `/dev/null` could not be opened for writing |
//! | 8 | it could not fork |
//! | 16 | it has a capability, or could get one, that no container has by default (`CAP_SYS_ADMIN`) |

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use berth_api::container::{ContainerConfig, HostConfig};
use berth_shim_proto::{Event, LogTarget, ShimConfig};
use berth_types::{HexId, IdMaps};
use serde_json::{Value, json};

use crate::error::RuntimeError;
use crate::host::{Host, is_there};
use crate::mounts::{Access, ResolvedMount};
use crate::seccomp;
use crate::shim::{Bundle, Program, ShimHandle, Target, create};
use crate::spec::{Built, EtcFiles, Network, SpecInput, build};
use crate::user::Accounts;
use crate::validate::fill_defaults;

/// What the probe found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SelfTest {
    /// The seccomp filter refuses what it should.
    pub seccomp: bool,
    /// The device rules refuse what they should.
    pub devices: bool,
    /// Capabilities that a container shall not have are gone.
    pub capabilities: bool,
    /// Ordinary work goes on under both.
    pub work: bool,
}

impl SelfTest {
    /// From the probe's exit code; `None` when the probe itself was not run.
    pub fn from_exit_code(code: i32) -> Option<Self> {
        (0..32).contains(&code).then_some(Self {
            seccomp: code & 1 == 0,
            devices: code & 2 == 0,
            capabilities: code & 16 == 0,
            work: code & (4 | 8) == 0,
        })
    }

    /// The warnings for `/info` and the log.
    pub fn warnings(self) -> Vec<String> {
        #[rustfmt::skip]
        let table = [
            (self.seccomp, "WARNING: the seccomp filter of containers has no effect on this machine"),
            (self.devices, "WARNING: the device rules of containers have no effect on this machine"),
            (self.capabilities, "WARNING: containers keep capabilities that they should not have on this machine"),
            (self.work,    "WARNING: the seccomp filter or the device rules refuse ordinary work on this machine"),
        ];
        table.into_iter().filter(|(fine, _)| !fine).map(|(_, text)| text.to_owned()).collect()
    }
}

const TIMEOUT: Duration = Duration::from_secs(30);
const PROGRAM: &str = "/berth-probe";
const DENIED: &str = "/dev/berth-denied";
/// Fuse's node: opening it has no effect and needs no capability, and no rule allows it.
const DENIED_NUMBER: (u32, u32) = (10, 229);

/// Where the probe's bundle and root are, below the exec root.
pub fn scratch(exec_root: &Path) -> PathBuf {
    exec_root.join("selftest")
}

/// Runs the probe. Takes tens of milliseconds; leaves nothing behind.
pub fn self_test(shim: &Program, exec_root: &Path, host: &Host) -> Result<SelfTest, RuntimeError> {
    let id = HexId::random();
    let scratch = scratch(exec_root);
    let bundle = Bundle::new(&scratch, id.as_str());
    let root = scratch.join("root").join(id.as_str());
    let result = make_root(&root).and_then(|()| run(shim, &bundle, &root, host));
    let cleaned = bundle.remove().and_then(|()| remove_root(&root));
    match (result, cleaned) {
        (Ok(found), Ok(())) => Ok(found),
        (Ok(found), Err(error)) => {
            tracing::warn!(error = %berth_types::kind::chain(&error), "the self-test left files behind");
            Ok(found)
        }
        (Err(error), _) => Err(error),
    }
}

fn make_root(root: &Path) -> Result<(), RuntimeError> {
    let tmp = root.join("tmp");
    fs::create_dir_all(&tmp).map_err(|source| RuntimeError::Write { path: tmp, source })
}

/// Only what is empty: mount points and the directories made above.
fn remove_root(root: &Path) -> Result<(), RuntimeError> {
    fn remove(dir: &Path) -> io::Result<()> {
        for entry in fs::read_dir(dir)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                remove(&entry.path())?;
            } else if kind.is_symlink() || entry.metadata()?.len() == 0 {
                fs::remove_file(entry.path())?;
            }
        }
        fs::remove_dir(dir)
    }
    remove(root).map_err(|source| RuntimeError::Write { path: root.to_owned(), source })
}

fn run(
    shim: &Program,
    bundle: &Bundle,
    root: &Path,
    host: &Host,
) -> Result<SelfTest, RuntimeError> {
    let built = probe_spec(shim.path(), bundle.id(), root, host)?;
    let config = ShimConfig {
        id: bundle.id().to_owned(),
        mounts: Vec::new(),
        teardown: Vec::new(),
        tty: false,
        console_size: (0, 0),
        open_stdin: false,
        stdin_once: false,
        log: LogTarget::None,
        oom_score_adj: None,
        capabilities: built.caps.bits(),
        seccomp: built.filter.as_ref().map(|filter| filter.flags),
        ids: IdMaps::default(),
    };
    bundle.write(&built, &config, host)?;
    let (handle, _) = create(shim, bundle, TIMEOUT)?;
    let code = exit_code(&handle).inspect_err(|_| end(&handle))?;
    SelfTest::from_exit_code(code).ok_or_else(|| RuntimeError::Protocol {
        id: bundle.id().to_owned(),
        text: format!("the probe ended with exit code {code}"),
    })
}

fn exit_code(handle: &ShimHandle) -> Result<i32, RuntimeError> {
    let late = || RuntimeError::Timeout { id: handle.id().to_owned(), after: TIMEOUT };
    let events = handle.subscribe()?;
    events
        .set_timeout(Some(TIMEOUT))
        .map_err(|source| RuntimeError::Unreachable { id: handle.id().to_owned(), source })?;
    handle.start()?;
    let deadline = Instant::now() + TIMEOUT;
    for event in events {
        if let Event::Exited(exit) = event? {
            return Ok(exit.exit_code);
        }
        if Instant::now() > deadline {
            return Err(late());
        }
    }
    Err(RuntimeError::WatcherEnded { id: handle.id().to_owned(), stderr: String::new() })
}

fn end(handle: &ShimHandle) {
    if let Err(error) = handle.signal(9, Target::Init) {
        tracing::warn!(%error, "cannot end the self-test's container");
    }
}

/// An ordinary container, but for a filter that also refuses `mkdir`.
fn probe_spec(shim: &Path, id: &str, root: &Path, host: &Host) -> Result<Built, RuntimeError> {
    let config = ContainerConfig {
        cmd: vec![PROGRAM.to_owned(), "--probe".to_owned()].into(),
        ..ContainerConfig::default()
    };
    let mut host_config = HostConfig::default();
    fill_defaults(&mut host_config, host);
    let mut built = build(&SpecInput {
        id,
        config: &config,
        host_config: &host_config,
        root,
        mounts: &program_mounts(shim),
        hostname: "probe",
        network: Network::New,
        users: None,
        join_ipc: None,
        join_pid: None,
        shm: None,
        etc: EtcFiles::default(),
        accounts: &Accounts::default(),
        link_env: &[],
        cgroup_parent: "",
        default_init: false,
        init_binary: None,
        default_seccomp: None,
        default_no_new_privileges: false,
        host,
    })?;
    if let Some(filter) = &built.filter {
        let mut oci = filter.oci.clone();
        refuse_mkdir(&mut oci);
        built.filter = Some(Arc::new(seccomp::compile(oci)?));
    }
    let (major, minor) = DENIED_NUMBER;
    built.spec["linux"]["devices"] = json!([{
        "path": DENIED, "type": "c", "major": major, "minor": minor,
        "fileMode": 0o666, "uid": 0, "gid": 0,
    }]);
    Ok(built)
}

fn refuse_mkdir(filter: &mut Value) {
    let rules = filter["syscalls"].as_array_mut();
    for rule in rules.into_iter().flatten() {
        if let Some(names) = rule["names"].as_array_mut() {
            names.retain(|name| name != "mkdir" && name != "mkdirat");
        }
    }
}

/// The watcher's binary, and the libraries it may need, at the places they have on the host.
fn program_mounts(shim: &Path) -> Vec<ResolvedMount> {
    const LIBRARIES: [&str; 5] = ["/lib", "/lib32", "/lib64", "/usr/lib", "/usr/lib64"];
    let libraries = LIBRARIES.into_iter().map(PathBuf::from).filter(|place| is_there(place));
    let mut mounts: Vec<ResolvedMount> = libraries
        .map(|place| {
            let destination = place.to_string_lossy().into_owned();
            ResolvedMount::bind(place, destination)
        })
        .collect();
    mounts.push(ResolvedMount::bind(shim, PROGRAM));
    for mount in &mut mounts {
        mount.access = Access::ReadOnly;
    }
    mounts
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_of_the_probe() {
        let found = |seccomp, devices, capabilities, work| {
            Some(SelfTest { seccomp, devices, capabilities, work })
        };
        #[rustfmt::skip]
        let table = [
            (0,     found(true, true, true, true)),
            (1,     found(false, true, true, true)),
            (2,     found(true, false, true, true)),
            (4,     found(true, true, true, false)),
            (16,    found(true, true, false, true)),
            (11,    found(false, false, true, false)),
            (127,   None),
            (-1,    None),
        ];
        for (code, expected) in table {
            assert_eq!(SelfTest::from_exit_code(code), expected, "{code}");
        }
        assert_eq!(SelfTest::from_exit_code(0).unwrap().warnings(), Vec::<String>::new());
        assert_eq!(SelfTest::from_exit_code(3).unwrap().warnings().len(), 2);
    }

    #[test]
    fn the_probes_filter_refuses_mkdir_and_allows_the_rest() {
        let host = Host::full();
        let built = probe_spec(Path::new("/shim"), "id", Path::new("/root"), &host).unwrap();
        let text = built.filter.unwrap().oci.to_string();
        assert!(!text.contains("\"mkdir\"") && !text.contains("\"mkdirat\""));
        assert!(text.contains("\"write\"") && text.contains("\"clone\""));
    }
}
