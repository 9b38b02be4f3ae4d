//! Room for records on a full disk: the log has its blocks before they are needed.
//!
//! Each commit appends to SQLite's log, so on a full disk even a removal could not be recorded. The
//! log is therefore as long as it gets between two checkpoints from the beginning, and never made
//! shorter; SQLite takes no notice of zeros behind the last frame.
//! On btrfs it is overwritten in place (`chattr +C`), which costs it the file system's checksums: each
//! frame has its own.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::{IFlags, ioctl_getflags, ioctl_setflags};
use rustix::io::Errno;

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

/// Makes an empty log that is overwritten in place, where there is none yet: only an empty file can
/// become such a one. Before SQLite opens the database.
pub(crate) fn create(path: &Path) -> io::Result<()> {
    let mut open = OpenOptions::new();
    let file = match open.write(true).create_new(true).mode(0o644).open(log_of(path)) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => return Ok(()),
        // SQLite says that there is no such directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        other => other?,
    };
    let flagged =
        ioctl_getflags(&file).and_then(|flags| ioctl_setflags(&file, flags | IFlags::NOCOW));
    match flagged {
        // File systems without such a choice overwrite in place.
        Err(Errno::NOTTY | Errno::OPNOTSUPP | Errno::INVAL | Errno::NOSYS) | Ok(()) => Ok(()),
        Err(error) => Err(error.into()),
    }
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
