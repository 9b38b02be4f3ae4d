//! Reading a log: the last lines, a span of time, and what is still to come.

use std::collections::{HashSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, BufRead as _, BufReader, Seek as _, SeekFrom};
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use berth_types::Timestamp;
use flate2::bufread::GzDecoder;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags, inotify};
use rustix::io::Errno;

use crate::files::{self, failed};
use crate::{Entry, LogError, Stream, json};

/// More rotated files than this are not looked for.
const MOST_FILES: u32 = 1000;
/// So many rotations in a row while the files are opened are not a rotation any more.
const MOST_ATTEMPTS: u32 = 100;
const BLOCK: usize = 64 * 1024;

/// Which lines to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReadOptions {
    /// Lines of standard output.
    pub stdout: bool,
    /// Lines of standard error.
    pub stderr: bool,
    /// Only so many of the last lines (of both streams, as Docker counts); all when `None`.
    pub tail: Option<u64>,
    /// Only lines at or after this time.
    pub since: Option<Timestamp>,
    /// Only lines at or before this time; the first later one ends the reading.
    pub until: Option<Timestamp>,
}

/// What [`Reader::wait`] saw.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// There may be more lines now.
    Changed,
    /// The time was up.
    TimedOut,
}

/// Reads one log from its oldest wanted line to its end, and on as it grows.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    options: ReadOptions,
    /// Oldest first; the last one is where new lines are awaited.
    parts: VecDeque<Part>,
    watch: Option<OwnedFd>,
    done: bool,
}

/// One file of the log, held open so that rotation cannot take it away.
#[derive(Debug)]
struct Part {
    input: BufReader<File>,
    /// The inode number when the writer wrote it.
    inode: u64,
    /// Whether `inode` is the number of this very file, and not one noted in a compressed file.
    plain: bool,
    line: Vec<u8>,
}

impl Part {
    fn new(file: File, inode: u64, plain: bool) -> Self {
        Self { input: BufReader::with_capacity(BLOCK, file), inode, plain, line: Vec::new() }
    }

    /// The next whole line without its newline; `None` at the end. What is there of an unfinished
    /// line stays for the next call.
    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.input.read_until(b'\n', &mut self.line)?;
        if self.line.pop_if(|byte| *byte == b'\n').is_none() {
            return Ok(None);
        }
        Ok(Some(std::mem::take(&mut self.line)))
    }
}

impl Reader {
    /// Opens the log whose live file is `path`. A log that does not exist yet is empty.
    pub fn open(path: &Path, options: &ReadOptions) -> Result<Self, LogError> {
        let mut parts = open_parts(path)?;
        if let Some(count) = options.tail {
            skip_to_tail(&mut parts, count).map_err(failed("read", path))?;
        }
        let (path, options) = (path.to_owned(), options.clone());
        Ok(Self { path, options, parts, watch: None, done: false })
    }

    /// The next line; `None` when there is none at present (call [`wait`](Self::wait) and ask again
    /// to follow) or the span of time is over ([`is_done`](Self::is_done)).
    pub fn next_entry(&mut self) -> Result<Option<Entry>, LogError> {
        while !self.done {
            let Some(line) = self.next_line()? else { return Ok(None) };
            let Some(entry) = json::decode(&line) else { continue };
            if self.options.until.is_some_and(|until| entry.time > until) {
                self.done = true;
                break;
            }
            let wanted = match entry.stream {
                Stream::Stdout => self.options.stdout,
                Stream::Stderr => self.options.stderr,
            };
            if wanted && self.options.since.is_none_or(|since| entry.time >= since) {
                return Ok(Some(entry));
            }
        }
        Ok(None)
    }

    /// Whether no further line can come because `until` has passed.
    pub fn is_done(&self) -> bool {
        self.done
    }

    /// Blocks until the log may have grown, for at most `timeout`.
    ///
    /// The first call returns at once, for lines may have come before the watch was set.
    pub fn wait(&mut self, timeout: Duration) -> Result<Wait, LogError> {
        let Some(watch) = &self.watch else {
            self.watch = Some(watch_directory(&self.path).map_err(failed("watch", &self.path))?);
            return Ok(Wait::Changed);
        };
        let timeout = Timespec::try_from(timeout).ok();
        let mut fds = [PollFd::new(watch, PollFlags::IN)];
        match poll(&mut fds, timeout.as_ref()) {
            Ok(0) | Err(Errno::INTR) => return Ok(Wait::TimedOut),
            Ok(_) => {}
            Err(error) => return Err(failed("watch", &self.path)(error.into())),
        }
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch, &mut buffer);
        while events.next().is_ok() {}
        Ok(Wait::Changed)
    }

    fn next_line(&mut self) -> Result<Option<Vec<u8>>, LogError> {
        loop {
            let Some(part) = self.parts.front_mut() else {
                self.parts = open_parts(&self.path)?;
                if self.parts.is_empty() {
                    return Ok(None);
                }
                continue;
            };
            if let Some(line) = part.next_line().map_err(failed("read", &self.path))? {
                return Ok(Some(line));
            }
            let inode = part.inode;
            if self.parts.len() == 1 {
                let newer = self.newer_than(inode)?;
                if newer.is_empty() {
                    return Ok(None);
                }
                // The writer may have added lines between the read above and the rotation.
                let part = &mut self.parts[0];
                let last = part.next_line().map_err(failed("read", &self.path))?;
                self.parts.extend(newer);
                if last.is_some() {
                    return Ok(last);
                }
            }
            self.parts.pop_front();
        }
    }

    /// The files that came after the one that had this inode number.
    fn newer_than(&self, inode: u64) -> Result<VecDeque<Part>, LogError> {
        match fs::metadata(&self.path) {
            Ok(live) if live.ino() == inode => return Ok(VecDeque::new()),
            // Between two renames of a rotation there is no live file.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(VecDeque::new()),
            Err(error) => return Err(failed("read", &self.path)(error)),
            Ok(_) => {}
        }
        let mut parts = open_parts(&self.path)?;
        // The newest: numbers noted in compressed files may have been used again.
        if let Some(at) = parts.iter().rposition(|part| part.inode == inode) {
            parts.drain(..=at);
        }
        Ok(parts)
    }
}

fn watch_directory(path: &Path) -> io::Result<OwnedFd> {
    use inotify::{CreateFlags, WatchFlags};
    let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)?;
    let events = WatchFlags::MODIFY | WatchFlags::CREATE | WatchFlags::MOVED_TO;
    inotify::add_watch(&watch, path.parent().unwrap_or(Path::new("/")), events)?;
    Ok(watch)
}

/// Opens all files of the log, oldest first, as one consistent set: when a rotation came in
/// between, it starts again.
fn open_parts(path: &Path) -> Result<VecDeque<Part>, LogError> {
    let mut attempts = 0;
    loop {
        let parts = try_open_parts(path).map_err(failed("open", path))?;
        let newest = parts.back().filter(|part| part.plain).map(|part| part.inode);
        let live = match fs::metadata(path) {
            Ok(live) => Some(live.ino()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(failed("open", path)(error)),
        };
        let plain = || parts.iter().filter(|part| part.plain).map(|part| part.inode);
        let distinct = plain().collect::<HashSet<_>>().len() == plain().count();
        attempts += 1;
        // Without a live file a rotation is between two renames, or died there: a whole set too.
        if distinct && (live.is_none() || live == newest) || attempts == MOST_ATTEMPTS {
            return Ok(parts);
        }
    }
}

fn try_open_parts(path: &Path) -> io::Result<VecDeque<Part>> {
    let mut parts = VecDeque::new();
    let mut misses = 0;
    // Newest first: a file that rotates meanwhile is met twice and noticed, never missed.
    for number in 0..MOST_FILES {
        match open_part(&files::numbered(path, number), number > 0)? {
            Some(part) => parts.push_front(part),
            None if number == 0 => {}
            None => misses += 1,
        }
        if misses > 2 {
            break;
        }
    }
    Ok(parts)
}

fn open_part(path: &Path, maybe_packed: bool) -> io::Result<Option<Part>> {
    match File::open(path) {
        Ok(file) => {
            let inode = file.metadata()?.ino();
            return Ok(Some(Part::new(file, inode, true)));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    if !maybe_packed {
        return Ok(None);
    }
    let packed = match File::open(files::suffixed(path, ".gz")) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    };
    unpack(&packed, path).map(Some)
}

/// Inflates a rotated file into an unnamed one beside it.
fn unpack(packed: &File, path: &Path) -> io::Result<Part> {
    let directory = path.parent().unwrap_or(Path::new("/"));
    let unnamed = OFlags::RDWR | OFlags::TMPFILE | OFlags::CLOEXEC;
    let mut plain = File::from(rustix::fs::open(directory, unnamed, Mode::from_raw_mode(0o600))?);
    let mut decoder = GzDecoder::new(BufReader::new(packed));
    io::copy(&mut decoder, &mut plain)?;
    let noted = decoder.header().and_then(|header| header.extra()).and_then(files::noted_inode);
    let inode = match noted {
        Some(inode) => inode,
        None => packed.metadata()?.ino(),
    };
    plain.seek(SeekFrom::Start(0))?;
    Ok(Part::new(plain, inode, false))
}

/// Drops and skips all but the last `count` lines.
fn skip_to_tail(parts: &mut VecDeque<Part>, count: u64) -> io::Result<()> {
    let mut wanted = count;
    let mut keep = parts.len();
    while keep > 0 {
        let part = &mut parts[keep - 1];
        let (start, found) = tail_start(part.input.get_ref(), wanted)?;
        part.input.seek(SeekFrom::Start(start))?;
        wanted -= found;
        keep -= 1;
        if wanted == 0 {
            break;
        }
    }
    parts.drain(..keep);
    Ok(())
}

/// Where the last `count` whole lines of a file begin, and how many there are. An unfinished last
/// line counts as not there, but is not skipped.
fn tail_start(file: &File, count: u64) -> io::Result<(u64, u64)> {
    let mut end = file.metadata()?.len();
    let mut block = vec![0; BLOCK];
    // Newlines seen from the end: the first ends the last line, so line n begins after newline n+1.
    let mut newlines = 0;
    while end > 0 {
        let size = usize::try_from(end).unwrap_or(BLOCK).min(BLOCK);
        let begin = end - size as u64;
        file.read_exact_at(&mut block[..size], begin)?;
        for at in (0..size).rev() {
            if block[at] == b'\n' {
                newlines += 1;
                if newlines > count {
                    return Ok((begin + at as u64 + 1, count));
                }
            }
        }
        end = begin;
    }
    Ok((0, newlines))
}

#[cfg(test)]
mod tests;
