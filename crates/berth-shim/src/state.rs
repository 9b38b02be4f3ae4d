//! The files of the bundle.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use berth_shim_proto::ShimConfig;
use rustix::thread::ThreadNameSpaceType;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use crate::error::ShimError;

pub(crate) const CONFIG: &str = "config.json";
pub(crate) const STATE_DIR: &str = "state";
pub(crate) const CONSOLE: &str = "console.sock";
pub(crate) const SOCKET: &str = "shim.sock";
pub(crate) const SHIM_PID: &str = "shim.pid";
pub(crate) const INIT_PID: &str = "pid";
pub(crate) const EXIT: &str = "exit.json";
pub(crate) const DEVICES: &str = "devices.bpf";
pub(crate) const SECCOMP: &str = "seccomp.bpf";
const SHIM_CONFIG: &str = "shim.json";

/// What the watcher itself needs of the OCI spec.
#[derive(Debug, Deserialize)]
pub(crate) struct SpecPart {
    process: ProcessPart,
    linux: LinuxPart,
}

#[derive(Debug, Deserialize)]
struct ProcessPart {
    #[serde(default)]
    user: UserPart,
}

#[derive(Debug, Default, Deserialize)]
struct UserPart {
    #[serde(default)]
    uid: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct LinuxPart {
    cgroups_path: Option<PathBuf>,
    #[serde(default)]
    namespaces: Vec<NamespacePart>,
}

#[derive(Debug, Deserialize)]
struct NamespacePart {
    #[serde(rename = "type")]
    kind: String,
}

impl SpecPart {
    pub(crate) fn read(bundle: &Path) -> Result<Self, ShimError> {
        read_json(&bundle.join(CONFIG))
    }

    /// Who the process runs as.
    pub(crate) fn uid(&self) -> u32 {
        self.process.user.uid
    }

    /// The namespaces that are the container's own, or another container's.
    pub(crate) fn namespaces(&self) -> Result<ThreadNameSpaceType, ShimError> {
        let mut all = ThreadNameSpaceType::empty();
        for NamespacePart { kind } in &self.linux.namespaces {
            all |= match kind.as_str() {
                "mount" => ThreadNameSpaceType::MOUNT,
                "cgroup" => ThreadNameSpaceType::CONTROL_GROUP,
                "uts" => ThreadNameSpaceType::HOST_NAME_AND_NIS_DOMAIN_NAME,
                "ipc" => ThreadNameSpaceType::INTER_PROCESS_COMMUNICATION,
                "user" => ThreadNameSpaceType::USER,
                "pid" => ThreadNameSpaceType::PROCESS_ID,
                "network" => ThreadNameSpaceType::NETWORK,
                "time" => ThreadNameSpaceType::TIME,
                other => {
                    return Err(ShimError::Runtime {
                        text: format!("unknown namespace {other:?} in config.json"),
                    });
                }
            };
        }
        Ok(all)
    }

    /// Where its control groups are; libcontainer's default without one.
    pub(crate) fn cgroups_path(&self, id: &str) -> PathBuf {
        self.linux.cgroups_path.clone().unwrap_or_else(|| PathBuf::from(format!(":youki:{id}")))
    }
}

pub(crate) fn read_config(bundle: &Path) -> Result<ShimConfig, ShimError> {
    read_json(&bundle.join(SHIM_CONFIG))
}

fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T, ShimError> {
    let text = fs::read(path).map_err(ShimError::file("read", path))?;
    serde_json::from_slice(&text)
        .map_err(|source| ShimError::Json { path: path.to_owned(), source })
}

/// Writes a small file so that readers see the old content or the new, never a part.
pub(crate) fn replace(bundle: &Path, name: &str, content: &str) -> Result<(), ShimError> {
    let path = bundle.join(name);
    let staged = bundle.join(format!("{name}.tmp"));
    let mut file = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(&staged)
        .map_err(ShimError::file("write", &staged))?;
    file.write_all(content.as_bytes()).map_err(ShimError::file("write", &staged))?;
    fs::rename(&staged, &path).map_err(ShimError::file("write", &path))
}

/// Removes a file or a tree that may not be there.
pub(crate) fn remove(path: &Path) {
    let result = match fs::symlink_metadata(path) {
        Ok(meta) if meta.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match result {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            crate::say(&format!("cannot remove {}: {error}", path.display()));
        }
        _ => {}
    }
}
