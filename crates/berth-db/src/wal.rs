//! Room for records on a full disk: the log has its blocks before they are needed.
//!
//! Each commit appends to SQLite's log, so on a full disk even a removal could not be recorded. The
//! log is therefore as long as it gets between two checkpoints from the beginning, and never made
//! shorter; SQLite takes no notice of zeros behind the last frame.
//! A file system that never overwrites in place (btrfs) takes other blocks even so.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

/// SQLite copies its log back once it has 1000 pages, which is 4.1 MB; the rest is for the
/// transaction that takes it there, and for those that come while somebody reads.
const BYTES: u64 = 6 << 20;
const HEADER: usize = 32;

/// Where the log of the database at `path` is.
fn log_of(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push("-wal");
    name.into()
}

/// Makes the log as long as it must be. Nobody may be writing to the database.
pub(crate) fn reserve(path: &Path) -> io::Result<()> {
    let log = log_of(path);
    let mut file = OpenOptions::new().append(true).open(log)?;
    let length = file.metadata()?.len();
    if length >= BYTES {
        return Ok(());
    }
    // Written, not only allocated: turning unwritten blocks into written ones may need others.
    let zeros = vec![0; 1 << 20];
    let mut left = BYTES - length;
    while left > 0 {
        let piece = usize::try_from(left).map_or(zeros.len(), |left| left.min(zeros.len()));
        file.write_all(&zeros[..piece])?;
        left -= piece as u64;
    }
    file.sync_all()
}

/// Makes a log that was copied back an empty one, which a database that is put in the place of this
/// one does not mistake for its own. Nobody may be writing.
pub(crate) fn clear(path: &Path) -> io::Result<()> {
    let file = OpenOptions::new().write(true).open(log_of(path))?;
    file.write_all_at(&[0; HEADER], 0)?;
    file.sync_data()
}
