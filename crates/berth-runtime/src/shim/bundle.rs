//! A container's directory below the exec root.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use berth_shim_proto::{ExitRecord, ShimConfig};
use rustix::fs::{AtFlags, CWD, StatxFlags};
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{ShimHandle, connect};
use crate::cgroup::Mode;
use crate::devices::bpf;
use crate::error::RuntimeError;
use crate::host::Host;
use crate::spec::Built;

pub(super) const CONTAINERS: &str = "containers";
const CONFIG: &str = "config.json";
const SHIM_CONFIG: &str = "shim.json";
const DEVICES: &str = "devices.bpf";
const SECCOMP: &str = "seccomp.bpf";
const SHIM_PID: &str = "shim.pid";
const INIT_PID: &str = "pid";
const EXIT: &str = "exit.json";
const LOG: &str = "shim.log";

/// A container's bundle: see [`berth_shim_proto`] for its files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bundle {
    id: String,
    dir: PathBuf,
}

/// What is left of a container of an earlier life of the daemon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// Its watcher lives and answers.
    Alive(ShimHandle),
    /// It ended, and this is how.
    Ended(ExitRecord),
    /// Its watcher is gone and left no word: it was killed, or the machine was restarted.
    Lost,
}

impl Bundle {
    /// The bundle of container `id`, whether it is there or not.
    pub fn new(exec_root: &Path, id: &str) -> Self {
        Self { id: id.to_owned(), dir: exec_root.join(CONTAINERS).join(id) }
    }

    /// The container's id.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The directory.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Writes what the watcher needs. Files of an earlier run are removed first, so that nothing
    /// old is taken for new. No sync: the exec root is memory, and nobody reads the files before
    /// the watcher is started.
    pub fn write(&self, built: &Built, shim: &ShimConfig, host: &Host) -> Result<(), RuntimeError> {
        let failed = |source| RuntimeError::Write { path: self.dir.clone(), source };
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(failed)?;
        let stale = [super::SOCKET, SHIM_PID, INIT_PID, EXIT, LOG, DEVICES, SECCOMP];
        for old in stale.into_iter().chain([CONFIG, SHIM_CONFIG]) {
            remove_if_there(&self.dir.join(old)).map_err(failed)?;
        }
        let encode = |what| move |source| RuntimeError::Encode { what, source };
        let mut spec = built.spec.clone();
        if let Some(process) = spec["process"].as_object_mut() {
            process.remove("capabilities");
        }
        let config = serde_json::to_vec(&spec).map_err(encode(CONFIG))?;
        let shim = serde_json::to_vec(shim).map_err(encode(SHIM_CONFIG))?;
        self.put(CONFIG, &config)?;
        self.put(SHIM_CONFIG, &shim)?;
        if let Some(filter) = &built.filter {
            self.put(SECCOMP, &filter.program)?;
        }
        if host.cgroups.mode == Mode::V2 {
            let rules = [built.device_rules.clone(), crate::devices::runtime_rules()].concat();
            self.put(DEVICES, &bpf::program_bytes(&rules))?;
        }
        Ok(())
    }

    fn put(&self, name: &str, bytes: &[u8]) -> Result<(), RuntimeError> {
        let path = self.dir.join(name);
        let write = || {
            let mut file =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            file.write_all(bytes)
        };
        write().map_err(|source| RuntimeError::Write { path: path.clone(), source })
    }

    /// The container's own process, for [`ExecInput`](crate::ExecInput).
    pub fn process(&self) -> Result<Value, RuntimeError> {
        let mut spec: Value = self.read_json(CONFIG)?.ok_or_else(|| RuntimeError::Read {
            path: self.dir.join(CONFIG),
            source: io::ErrorKind::NotFound.into(),
        })?;
        Ok(spec["process"].take())
    }

    /// What is left of it after a restart of the daemon.
    pub fn find(&self) -> Result<Found, RuntimeError> {
        let alive = self.live_shim_pid()?.is_some() && connect(&self.dir).is_ok();
        if alive {
            return Ok(Found::Alive(ShimHandle::new(&self.id, &self.dir)));
        }
        // Only now: a watcher that ended in between wrote it before it ended.
        Ok(self.exit()?.map_or(Found::Lost, Found::Ended))
    }

    /// How the container ended, when it has.
    pub fn exit(&self) -> Result<Option<ExitRecord>, RuntimeError> {
        self.read_json(EXIT)
    }

    /// The watcher's pid as it wrote it.
    pub fn shim_pid(&self) -> Result<Option<i32>, RuntimeError> {
        self.read_pid(SHIM_PID)
    }

    /// Init's pid as the watcher wrote it.
    pub fn init_pid(&self) -> Result<Option<i32>, RuntimeError> {
        self.read_pid(INIT_PID)
    }

    /// The watcher's pid when the process that has it is this bundle's watcher: pids are used
    /// again.
    pub(super) fn live_shim_pid(&self) -> Result<Option<i32>, RuntimeError> {
        let Some(pid) = self.shim_pid()? else { return Ok(None) };
        let path = PathBuf::from(format!("/proc/{pid}/cmdline"));
        let cmdline = read_optional(&path)?.unwrap_or_default();
        let ours = cmdline.split('\0').any(|arg| Path::new(arg) == self.dir);
        Ok(ours.then_some(pid))
    }

    fn read_pid(&self, name: &str) -> Result<Option<i32>, RuntimeError> {
        let text = read_optional(&self.dir.join(name))?;
        Ok(text.and_then(|text| text.trim().parse().ok()).filter(|pid| *pid > 0))
    }

    fn read_json<T: DeserializeOwned>(&self, name: &str) -> Result<Option<T>, RuntimeError> {
        let path = self.dir.join(name);
        let Some(text) = read_optional(&path)? else { return Ok(None) };
        serde_json::from_str(&text)
            .map(Some)
            .map_err(|source| RuntimeError::Record { path, source })
    }

    /// The end of what the watcher wrote to its standard error.
    pub fn log_tail(&self) -> String {
        const KEEP: usize = 2048;
        let text = fs::read(self.dir.join(LOG)).unwrap_or_default();
        let tail = &text[text.len().saturating_sub(KEEP)..];
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    pub(super) fn open_log(&self) -> Result<File, RuntimeError> {
        let path = self.dir.join(LOG);
        OpenOptions::new()
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(|source| RuntimeError::Write { path, source })
    }

    /// Removes the directory with the files in it. A mount that was left below it stops the
    /// removal: nothing behind it is touched.
    pub fn remove(&self) -> Result<(), RuntimeError> {
        let remove = || match mount_id(&self.dir) {
            Ok(mount) => remove_tree(&self.dir, mount),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            Err(error) => Err(error),
        };
        remove().map_err(|source| RuntimeError::Write { path: self.dir.clone(), source })
    }
}

fn remove_tree(dir: &Path, mount: u64) -> io::Result<()> {
    for entry in fs::read_dir(dir)? {
        let entry = entry?;
        let path = entry.path();
        if mount_id(&path)? != mount {
            return Err(io::ErrorKind::ResourceBusy.into());
        }
        if entry.file_type()?.is_dir() {
            remove_tree(&path, mount)?;
        } else {
            fs::remove_file(&path)?;
        }
    }
    fs::remove_dir(dir)
}

fn mount_id(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::MNT_ID)?;
    Ok(stat.stx_mnt_id)
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        Ok(()) | Err(_) => Ok(()),
    }
}

fn read_optional(path: &Path) -> Result<Option<String>, RuntimeError> {
    match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        // The process ended while its file was read.
        Err(error) if error.raw_os_error() == Some(rustix::io::Errno::SRCH.raw_os_error()) => {
            Ok(None)
        }
        Err(source) => Err(RuntimeError::Read { path: path.to_owned(), source }),
    }
}
