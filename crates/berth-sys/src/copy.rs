//! Copying a file's content the cheapest way the file system offers.

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use rustix::fs::SeekFrom;
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
/// then the dearer methods; holes stay holes. Gives the bytes copied and the method that did it, which
/// is the one to try first with the next file of the same tree.
pub fn content(from: impl AsFd, to: impl AsFd, first: Method) -> io::Result<(u64, Method)> {
    let (from, to) = (from.as_fd(), to.as_fd());
    if first == Method::Reflink && rustix::fs::ioctl_ficlone(to, from).is_ok() {
        let size = rustix::fs::fstat(to)?.st_size;
        return Ok((u64::try_from(size).unwrap_or(0), Method::Reflink));
    }
    let size = u64::try_from(rustix::fs::fstat(from)?.st_size).unwrap_or(0);
    let mut method = first.max(Method::Kernel);
    let (mut at, mut total) = (0, 0);
    while let Some((start, end)) = next_data(from, at, size)? {
        let mut done = start;
        while done < end {
            let copied = match method {
                Method::Reflink | Method::Kernel => by_kernel(from, to, done, end - done)?,
                Method::ReadWrite => Some(by_hand(from, to, done, end - done)?),
            };
            match copied {
                None => method = Method::ReadWrite,
                // It was cut short meanwhile.
                Some(0) => break,
                Some(copied) => {
                    done += copied;
                    total += copied;
                }
            }
        }
        at = end;
    }
    rustix::fs::ftruncate(to, size)?;
    Ok((total, method))
}

/// Where the next bytes are that are no hole.
fn next_data(from: BorrowedFd<'_>, at: u64, size: u64) -> io::Result<Option<(u64, u64)>> {
    if at >= size {
        return Ok(None);
    }
    let start = match rustix::fs::seek(from, SeekFrom::Data(at)) {
        Ok(start) => start,
        Err(Errno::NXIO) => return Ok(None),
        // The file system does not tell.
        Err(Errno::INVAL | Errno::OPNOTSUPP) => return Ok(Some((at, size))),
        Err(error) => return Err(error.into()),
    };
    let end = rustix::fs::seek(from, SeekFrom::Hole(start))?;
    Ok((start < size).then_some((start, end.min(size))))
}

/// `None` when the file systems cannot do it.
fn by_kernel(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    at: u64,
    length: u64,
) -> io::Result<Option<u64>> {
    let (mut read, mut write) = (at, at);
    let length = usize::try_from(length.min(1 << 30)).unwrap_or(1 << 30);
    loop {
        match rustix::fs::copy_file_range(from, Some(&mut read), to, Some(&mut write), length) {
            // Some file systems say 0 of files that are not empty.
            Ok(0) | Err(Errno::XDEV | Errno::INVAL | Errno::OPNOTSUPP | Errno::NOSYS) => {
                return Ok(None);
            }
            Ok(count) => return Ok(Some(count as u64)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn by_hand(from: BorrowedFd<'_>, to: BorrowedFd<'_>, at: u64, length: u64) -> io::Result<u64> {
    let mut buffer = vec![0; usize::try_from(length).unwrap_or(BUFFER).min(BUFFER)];
    let count = loop {
        match rustix::io::pread(from, &mut buffer[..], at) {
            Err(Errno::INTR) => {}
            other => break other?,
        }
    };
    let mut written = 0;
    while written < count {
        match rustix::io::pwrite(to, &buffer[written..count], at + written as u64) {
            Err(Errno::INTR) => {}
            other => written += other?,
        }
    }
    Ok(count as u64)
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
    #[test]
    fn holes_stay_holes() {
        use std::os::unix::fs::MetadataExt as _;
        for first in [Method::Reflink, Method::Kernel, Method::ReadWrite] {
            let mut from = tempfile::tempfile_in("/var/tmp").unwrap();
            for at in [0, 40 << 20] {
                from.seek(io::SeekFrom::Start(at)).unwrap();
                from.write_all(b"data").unwrap();
            }
            from.set_len(64 << 20).unwrap();
            let to = tempfile::tempfile_in("/var/tmp").unwrap();
            content(&from, &to, first).unwrap();
            let (old, new) = (from.metadata().unwrap(), to.metadata().unwrap());
            assert_eq!(new.len(), old.len());
            assert!(new.blocks() <= old.blocks() + 8, "{first:?}: {} blocks", new.blocks());
            let mut back = [0; 4];
            for (at, expected) in [(0, b"data"), (40 << 20, b"data"), (20 << 20, &[0; 4])] {
                std::os::unix::fs::FileExt::read_exact_at(&to, &mut back, at).unwrap();
                assert_eq!(&back, expected, "{first:?} at {at}");
            }
        }
    }
}
