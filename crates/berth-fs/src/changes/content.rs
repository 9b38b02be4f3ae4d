//! Whether two entries have the same content, where their metadata does not tell.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::BorrowedFd;

use rustix::fs::{FileType, Mode, OFlags, Stat};
use rustix::io::Errno;

/// How much of each side is compared at once.
const CHUNK: u64 = 1 << 16;

/// Whether the entries of a name in two directories, of the type that `stat` has, have the same
/// content. What is gone by now has none.
pub(super) fn is_same(dirs: [BorrowedFd<'_>; 2], name: &[u8], stat: &Stat) -> Result<bool, Errno> {
    let same = match FileType::from_raw_mode(stat.st_mode) {
        FileType::RegularFile => same_bytes(dirs, name),
        FileType::Symlink => same_target(dirs, name),
        // All there is to these is metadata.
        _ => return Ok(true),
    };
    match same {
        Err(Errno::NOENT | Errno::LOOP | Errno::INVAL) => Ok(false),
        other => other,
    }
}

fn same_bytes(dirs: [BorrowedFd<'_>; 2], name: &[u8]) -> Result<bool, Errno> {
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::NONBLOCK;
    let open =
        |dir| Ok::<_, Errno>(File::from(rustix::fs::openat(dir, name, flags, Mode::empty())?));
    let [mut old, mut new] = [open(dirs[0])?, open(dirs[1])?];
    let mut chunks = [Vec::new(), Vec::new()];
    loop {
        for (file, chunk) in [&mut old, &mut new].into_iter().zip(&mut chunks) {
            chunk.clear();
            let read = file.take(CHUNK).read_to_end(chunk);
            read.map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::IO))?;
        }
        if chunks[0] != chunks[1] {
            return Ok(false);
        }
        if chunks[0].is_empty() {
            return Ok(true);
        }
    }
}

fn same_target(dirs: [BorrowedFd<'_>; 2], name: &[u8]) -> Result<bool, Errno> {
    let read = |dir| rustix::fs::readlinkat(dir, name, Vec::new());
    Ok(read(dirs[0])? == read(dirs[1])?)
}
