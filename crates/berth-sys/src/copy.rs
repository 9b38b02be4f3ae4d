//! Copying a file's content the cheapest way the file system offers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::io::Errno;

/// How content was copied.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Method {
    /// The blocks are shared until one side writes (`FICLONE`).
    Reflink,
    /// The kernel copied (`copy_file_range`).
    Kernel,
    /// Read and written by this process.
    ReadWrite,
}

const BUFFER: usize = 256 * 1024;

/// Shares all blocks of `from` with the empty file `to`.
pub fn reflink(from: impl AsFd, to: impl AsFd) -> io::Result<()> {
    Ok(rustix::fs::ioctl_ficlone(to, from)?)
}

/// Copies everything from the start of `from` into the empty file `to`, trying `first` and
/// then the dearer methods. Gives the bytes copied and the method that did it, which is the
/// one to try first with the next file of the same tree.
pub fn content(from: impl AsFd, to: impl AsFd, first: Method) -> io::Result<(u64, Method)> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if first == Method::Reflink && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        let size = rustix::fs::fstat(to)?.st_size;
        return Ok((u64::try_from(size).unwrap_or(0), Method::Reflink));
    }
    if first <= Method::Kernel
        && let Some(copied) = by_kernel(from, to)?
    {
        return Ok((copied, Method::Kernel));
    }
    Ok((by_hand(from, to)?, Method::ReadWrite))
}

/// `None` when the file systems cannot do it and nothing was copied yet.
fn by_kernel(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    let mut total = 0;
    loop {
        match rustix::fs::copy_file_range(from, None, to, None, 1 << 30) {
            Ok(0) if total == 0 && rustix::fs::fstat(from)?.st_size > 0 => return Ok(None),
            Ok(0) => return Ok(Some(total)),
            Ok(count) => total += count as u64,
            Err(Errno::INTR) => {}
            Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) if total == 0 => {
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        }
    }
}

fn by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<u64> {
    let mut buffer = vec![0; BUFFER];
    let mut total = 0;
    loop {
        let count = match rustix::io::read(from, &mut buffer[..]) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        if count == 0 {
            return Ok(total);
        }
        let mut rest = &buffer[..count];
        while !rest.is_empty() {
            match rustix::io::write(to, rest) {
                Err(Errno::INTR) => {}
                other => rest = &rest[other?..],
            }
        }
        total += count as u64;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _, Write as _};

    #[test]
    fn every_method_copies_everything() {
        let content_in: Vec<u8> = (0..700_000_u32).flat_map(u32::to_le_bytes).collect();
        for first in [Method::Reflink, Method::Kernel, Method::ReadWrite] {
            let mut from = tempfile::tempfile().unwrap();
            from.write_all(&content_in).unwrap();
            from.rewind().unwrap();
            let mut to = tempfile::tempfile().unwrap();
            let (copied, method) = content(&from, &to, first).unwrap();
            assert_eq!(copied, content_in.len() as u64);
            assert!(method >= first);
            let mut back = Vec::new();
            to.rewind().unwrap();
            to.read_to_end(&mut back).unwrap();
            assert!(back == content_in, "{first:?}");
        }
    }
}
