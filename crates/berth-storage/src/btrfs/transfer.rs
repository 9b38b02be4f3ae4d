//! Copying a layer to another data root: a snapshot where that is on the same file system, else what
//! `btrfs send` tells `btrfs receive`, which keeps what layers share.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_sys::{btrfs, fsinfo};
use berth_types::LayerId;
use rustix::io::Errno;

use super::destroy::destroy;
use super::layout::{QUOTAS, SUBVOLUMES, is_committed, set_committed};
use crate::StorageError;
use crate::error::io_at;
use crate::home::CREATING;
use crate::transfer::Copied;

pub(crate) fn transfer(copied: &mut Copied<'_, '_>) -> Result<u64, StorageError> {
    let (from, to) = (copied.from.join(SUBVOLUMES), copied.to.join(SUBVOLUMES));
    let name = copied.id.as_str();
    let source = from.join(name);
    let top = match File::open(&source) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(StorageError::UnknownLayer { driver: "btrfs", id: copied.id.clone() });
        }
        other => other.map_err(io_at("open", &source))?,
    };
    let committed = is_committed(&source)?;
    let parent = File::open(&to).map_err(io_at("open", &to))?;
    match btrfs::snapshot(&top, &parent, name.as_ref()) {
        Ok(()) => set_committed(&to.join(name), committed)?,
        Err(error) if error.raw_os_error() == Some(Errno::XDEV.raw_os_error()) => {
            send(&from, &to, copied.id, copied.parent, committed)?;
        }
        Err(error) if !is_btrfs(&to) => {
            tracing::debug!(%error, "not a snapshot");
            return Err(StorageError::NotBtrfs { path: to });
        }
        Err(error) => return Err(io_at("copy", source)(error)),
    }
    copied.small(&Path::new(QUOTAS).join(name), 0o644)?;
    Ok(0)
}

fn is_btrfs(path: &Path) -> bool {
    fsinfo::fs_name(path).is_ok_and(|name| name == "btrfs")
}

fn send(
    from: &Path,
    to: &Path,
    id: &LayerId,
    parent: Option<&LayerId>,
    committed: bool,
) -> Result<(), StorageError> {
    if !is_btrfs(to) {
        return Err(StorageError::NotBtrfs { path: to.to_owned() });
    }
    if committed {
        return pipe(from, to, id.as_str(), parent);
    }
    // What is sent must not change. Should this process end here, recovery knows the name; removals,
    // which go on meanwhile, do not.
    let frozen = format!("{CREATING}{id}-backup");
    let path = from.join(&frozen);
    destroy(&path).map_err(io_at("remove", &path))?;
    let source = from.join(id.as_str());
    let top = File::open(&source).map_err(io_at("open", &source))?;
    let dir = File::open(from).map_err(io_at("open", from))?;
    btrfs::snapshot(top, dir, frozen.as_ref()).map_err(io_at("create", &path))?;
    let sent = set_committed(&path, true).and_then(|()| pipe(from, to, &frozen, parent));
    destroy(&path).map_err(io_at("remove", &path))?;
    sent?;
    let received = to.join(&frozen);
    set_committed(&received, false)?;
    fs::rename(&received, to.join(id.as_str())).map_err(io_at("rename", received))
}

fn pipe(from: &Path, to: &Path, name: &str, parent: Option<&LayerId>) -> Result<(), StorageError> {
    let program = || PathBuf::from("btrfs");
    let mut sending = Command::new("btrfs");
    sending.args(["send", "-q"]);
    if let Some(parent) = parent {
        sending.arg("-p").arg(from.join(parent.as_str()));
    }
    sending.arg(from.join(name)).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut sender = sending.spawn().map_err(io_at("run", program()))?;
    let stream = sender.stdout.take().map_or_else(Stdio::null, Stdio::from);
    let received = Command::new("btrfs").args(["receive", "-q"]).arg(to).stdin(stream).output();
    let sent = sender.wait_with_output().map_err(io_at("run", program()))?;
    let received = received.map_err(io_at("run", program()))?;
    // The receiver's trouble is the sender's broken pipe.
    for (what, output) in [("btrfs receive", &received), ("btrfs send", &sent)] {
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            let text = said.trim().lines().last().unwrap_or_default();
            return Err(io_at("copy", from.join(name))(io::Error::other(format!(
                "{what}: {text}"
            ))));
        }
    }
    Ok(())
}

/// Deletes the subvolumes of a home that is not wanted.
pub(crate) fn discard(home: &Path) -> Result<(), StorageError> {
    let dir = home.join(SUBVOLUMES);
    let entries = match fs::read_dir(&dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other.map_err(io_at("list", &dir))?,
    };
    for entry in entries {
        let path = entry.map_err(io_at("list", &dir))?.path();
        destroy(&path).map_err(io_at("remove", path))?;
    }
    Ok(())
}
