//! The names of a log's files, rotation, and compression of rotated files.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use flate2::{Compression, GzBuilder};

use crate::LogError;

/// The gzip header's extra subfield that carries the inode number the lines had before they were
/// compressed, so that a reader in the middle of that file knows which file comes next.
const INODE_SUBFIELD: [u8; 4] = [b'B', b'I', 8, 0];

/// `path.N`, or the live file for 0.
pub(crate) fn numbered(path: &Path, number: u32) -> PathBuf {
    if number == 0 { path.to_owned() } else { suffixed(path, &format!(".{number}")) }
}

pub(crate) fn suffixed(path: &Path, suffix: &str) -> PathBuf {
    let mut name = OsString::from(path);
    name.push(suffix);
    PathBuf::from(name)
}

pub(crate) fn failed(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> LogError {
    move |source| LogError::File { action, path: path.to_owned(), source }
}

fn absent_is_fine(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn remove(path: &Path) -> Result<(), LogError> {
    absent_is_fine(fs::remove_file(path)).map_err(failed("remove", path))
}

fn rename(from: &Path, to: &Path) -> Result<(), LogError> {
    absent_is_fine(fs::rename(from, to)).map_err(failed("rename", from))
}

/// Opens the live file for appending.
pub(crate) fn open_live(path: &Path) -> Result<File, LogError> {
    File::options()
        .create(true)
        .append(true)
        .read(true)
        .mode(0o640)
        .open(path)
        .map_err(failed("open", path))
}

/// Makes the live file the first rotated one and opens a new live file.
///
/// Every step is one rename, oldest first, so a crash leaves at worst a number without a file. With
/// a single file the old one is replaced, not truncated: whoever reads it can still finish it.
pub(crate) fn rotate(path: &Path, max_file: u32) -> Result<File, LogError> {
    if max_file < 2 {
        let fresh = suffixed(path, ".new");
        remove(&fresh)?;
        let file = open_live(&fresh)?;
        fs::rename(&fresh, path).map_err(failed("rename", &fresh))?;
        return Ok(file);
    }
    let oldest = numbered(path, max_file - 1);
    remove(&oldest)?;
    remove(&suffixed(&oldest, ".gz"))?;
    for number in (1..max_file - 1).rev() {
        let (from, to) = (numbered(path, number), numbered(path, number + 1));
        rename(&suffixed(&from, ".gz"), &suffixed(&to, ".gz"))?;
        rename(&from, &to)?;
    }
    rename(path, &numbered(path, 1))?;
    open_live(path)
}

/// Removes what a crash during rotation or compression can leave beside a log.
pub(crate) fn mend(path: &Path, max_file: u32) -> Result<(), LogError> {
    remove(&suffixed(path, ".new"))?;
    for number in 1..max_file {
        let plain = numbered(path, number);
        let packed = suffixed(&plain, ".gz");
        remove(&suffixed(&packed, ".tmp"))?;
        if fs::symlink_metadata(&packed).is_ok() {
            remove(&plain)?;
        }
    }
    Ok(())
}

/// Compresses a rotated file: `path.1` becomes `path.1.gz`.
///
/// Meant to run beside the writer (in a process or thread of its own); the writer must not rotate
/// meanwhile, see [`Writer::hold_rotation`](crate::Writer::hold_rotation).
pub fn compress(rotated: &Path) -> Result<(), LogError> {
    let mut plain = File::open(rotated).map_err(failed("open", rotated))?;
    let inode = plain.metadata().map_err(failed("read", rotated))?.ino();
    let packed = suffixed(rotated, ".gz");
    let staged = suffixed(&packed, ".tmp");
    let target = File::options()
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o640)
        .open(&staged)
        .map_err(failed("open", &staged))?;
    let mut extra = INODE_SUBFIELD.to_vec();
    extra.extend_from_slice(&inode.to_le_bytes());
    let mut encoder = GzBuilder::new().extra(extra).write(target, Compression::default());
    io::copy(&mut plain, &mut encoder).map_err(failed("compress", rotated))?;
    let mut target = encoder.finish().map_err(failed("compress", rotated))?;
    target.flush().and_then(|()| target.sync_all()).map_err(failed("write", &staged))?;
    fs::rename(&staged, &packed).map_err(failed("rename", &staged))?;
    remove(rotated)
}

/// The inode number that [`compress`] noted in a gzip header's extra field.
pub(crate) fn noted_inode(extra: &[u8]) -> Option<u64> {
    let rest = extra.strip_prefix(&INODE_SUBFIELD)?;
    rest.first_chunk().map(|bytes| u64::from_le_bytes(*bytes))
}
