//! Whether this kernel has aufs, and what it can do over a directory.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use berth_sys::fsinfo;
use berth_sys::mount::{AUFS, AUPLINK, MountRequest, mount};

use crate::StorageError;
use crate::error::io_at;
use crate::home::{ProbeDir, new_dir};
use crate::programs::on_path;

/// File systems that aufs does not work over.
const REFUSED: [&str; 3] = ["aufs", "btrfs", "ecryptfs"];
/// Where Docker has aufs's files of inode numbers.
const SHM: &str = "/dev/shm";

/// What was found out.
#[derive(Debug)]
pub(super) struct Abilities {
    pub(super) backing: &'static str,
    /// Permissions of a directory are those of its topmost branch.
    pub(super) dirperm1: bool,
    pub(super) xino: PathBuf,
    /// Hard links to files of the image are kept together, for there is a program that keeps them so when
    /// a mount ends.
    pub(super) links: bool,
}

/// Finds out whether aufs can be used in `dir`, or beside it while it is missing.
pub(super) fn run(dir: &Path) -> Result<Abilities, StorageError> {
    if !owns_all_ids(&std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default()) {
        tracing::error!("AUFS cannot be used in non-init user namespace");
        return Err(StorageError::NotSupported);
    }
    if !is_known() {
        tracing::error!("AUFS was not found in /proc/filesystems");
        return Err(StorageError::NotSupported);
    }
    let parent = dir.parent().unwrap_or(dir);
    let there = if dir.try_exists().map_err(io_at("look at", dir))? { dir } else { parent };
    let backing = fsinfo::fs_name(there).map_err(io_at("look at", there))?;
    if REFUSED.contains(&backing) {
        tracing::error!("AUFS is not supported over {backing}");
        return Err(StorageError::BackingFs);
    }
    let xino = if Path::new(SHM).is_dir() { Path::new(SHM) } else { there };
    let dirperm1 = has_dirperm1(there, xino)?;
    let links = on_path(AUPLINK);
    Ok(Abilities { backing, dirperm1, xino: xino.to_owned(), links })
}

/// By the map of a process's user namespace.
fn owns_all_ids(map: &str) -> bool {
    map.split_whitespace().eq(["0", "0", "4294967295"])
}

fn is_known() -> bool {
    let known = || {
        let all = std::fs::read_to_string("/proc/filesystems").unwrap_or_default();
        names_aufs(&all)
    };
    if known() {
        return true;
    }
    let null = Stdio::null;
    let done = Command::new("modprobe")
        .arg("-q")
        .arg(AUFS)
        .stdin(null())
        .stdout(null())
        .stderr(null())
        .status();
    done.is_ok_and(|status| status.success()) && known()
}

fn names_aufs(all: &str) -> bool {
    all.lines().any(|line| line.split_whitespace().last() == Some(AUFS))
}

/// By a mount, without it if that fails.
fn has_dirperm1(dir: &Path, xino: &Path) -> Result<bool, StorageError> {
    let probe = ProbeDir::new(dir)?;
    for name in ["own", "below", "union"] {
        new_dir(&probe.path().join(name), 0o755)?;
    }
    let xino = format!("xino={}/aufs.xino", xino.display());
    let tried = |last: &str| {
        let options = ["br:own=rw:below=ro+wh", "dio", &*xino, last].map(str::to_owned);
        mount(&MountRequest {
            fs_type: AUFS,
            source: Path::new("none"),
            target: Path::new("union"),
            work_dir: Some(probe.path()),
            options: &options,
        })
    };
    if tried("dirperm1").is_ok() {
        return Ok(true);
    }
    match tried("") {
        Ok(()) => Ok(false),
        Err(error) => {
            tracing::error!(%error, "AUFS cannot be mounted over {}", dir.display());
            Err(StorageError::NotSupported)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_namespace_is_told_by_its_map() {
        #[rustfmt::skip]
        let table = [
            ("         0          0 4294967295\n", true),
            ("         0       1000          1\n", false),
            ("         0     100000      65536\n", false),
            ("         0          0      65536\n     65536      65536 4294901759\n", false),
            ("",                                   false),
        ];
        for (map, expected) in table {
            assert_eq!(owns_all_ids(map), expected, "{map:?}");
        }
    }

    #[test]
    fn the_kernels_list_is_read_by_whole_names() {
        #[rustfmt::skip]
        let table = [
            ("nodev\tsysfs\n\text4\nnodev\taufs\n", true),
            ("nodev\tsysfs\nnodev\tnotaufs\n",      false),
            ("",                                    false),
        ];
        for (text, expected) in table {
            assert_eq!(names_aufs(text), expected, "{text:?}");
        }
    }
}
