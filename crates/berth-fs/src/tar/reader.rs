//! The streaming reader.

use std::io::{self, BufRead};

use crate::tar::entry::{Entry, Kind};
use crate::tar::header::{self, Format, Reason};
use crate::tar::pax::Pax;
use crate::tar::sparse::{self, DataMap, Extent, MapPlace};
use crate::tar::{BLOCK, MAX_SPECIAL};

/// Why a tar cannot be read. The first words are those of Go's reader, which Docker shows.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    #[error("archive/tar: invalid tar header at byte {offset}: {reason}")]
    Header { offset: u64, reason: &'static str },
    #[error("archive/tar: invalid tar header of entry {name:?}: {reason}")]
    Entry { name: String, reason: &'static str },
    #[error("unexpected EOF at byte {offset} of the archive, in entry {name:?}")]
    Cut { offset: u64, name: String },
    #[error("cannot read the archive at byte {offset}")]
    Read { offset: u64, source: io::Error },
}

impl TarError {
    /// The same error about an entry called `name`.
    #[must_use]
    pub fn of(self, name: String) -> Self {
        match self {
            Self::Cut { offset, .. } => Self::Cut { offset, name },
            Self::Entry { reason, .. } => Self::Entry { name, reason },
            other => other,
        }
    }
}

/// Most extended headers before one entry.
const MAX_HELPERS: usize = 64;
/// Most bytes after the end mark: far more than any blocking factor pads.
const MAX_TRAILING: u64 = 64 << 20;

/// Reads an archive entry by entry.
///
/// After [`next_entry`](Self::next_entry) the entry's stored data is read with
/// [`fill`](Self::fill) and [`consume`](Self::consume), without being copied. An archive that
/// ends inside an entry is an error; one that ends between two entries without an end mark, or in
/// the padding of its last entry, is accepted, as Go's reader does: Docker's CLI sends such ones
/// (`build -f -`).
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    offset: u64,
    keep_raw: bool,
    raw: Vec<u8>,
    stored: u64,
    padding: usize,
    entry: Entry,
    done: bool,
}

/// Whether the padding behind an entry's data was there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Padding {
    Whole,
    Cut,
}

/// What extended headers before an entry said.
#[derive(Debug, Default)]
struct Pending {
    pax: Option<Pax>,
    long_name: Option<Vec<u8>>,
    long_link: Option<Vec<u8>>,
}

impl<R: BufRead> Reader<R> {
    /// Reads from `input`.
    pub fn new(input: R) -> Self {
        Self {
            input,
            offset: 0,
            keep_raw: false,
            raw: Vec::new(),
            stored: 0,
            padding: 0,
            entry: Entry::default(),
            done: false,
        }
    }

    /// Keeps the bytes of headers and padding, to be taken with [`raw`](Self::raw).
    #[must_use]
    pub fn keep_raw(mut self) -> Self {
        self.keep_raw = true;
        self
    }

    /// The bytes of headers and padding read since they were last cleared by the caller.
    pub fn raw(&mut self) -> &mut Vec<u8> {
        &mut self.raw
    }

    /// The current entry.
    pub fn entry(&self) -> &Entry {
        &self.entry
    }

    /// Takes the current entry out, so that its data can be read meanwhile; to be given
    /// [back](Self::give_back) for its memory. Errors about the data do not know its name then.
    pub fn take_entry(&mut self) -> Entry {
        std::mem::take(&mut self.entry)
    }

    /// Gives an entry back that was taken out.
    pub fn give_back(&mut self, entry: Entry) {
        self.entry = entry;
    }

    /// How many bytes have been read.
    pub fn offset(&self) -> u64 {
        self.offset
    }

    /// How many stored bytes of the current entry are left.
    pub fn stored(&self) -> u64 {
        self.stored
    }

    /// Goes to the next entry; `None` at the end mark or the end of the input. What the caller
    /// left of the current entry's data is skipped, and not kept as raw bytes.
    pub fn next_entry(&mut self) -> Result<Option<&Entry>, TarError> {
        if self.done {
            return Ok(None);
        }
        while self.stored > 0 {
            let count = self.fill()?.len();
            self.consume(count);
        }
        if self.skip_padding()? == Padding::Cut {
            self.done = true;
            return Ok(None);
        }
        let mut pending = Pending::default();
        for _ in 0..=MAX_HELPERS {
            let start = self.offset;
            let Some(block) = self.header_block(&pending)? else {
                self.done = true;
                return Ok(None);
            };
            let format = header::parse(&block, &mut self.entry)
                .map_err(|reason| TarError::Header { offset: start, reason })?;
            if !self.take_helper(&block, &mut pending)? {
                self.complete(&block, format, pending)?;
                return Ok(Some(&self.entry));
            }
        }
        Err(self.bad("too many extended headers in a row"))
    }

    /// Stored data of the current entry: not empty unless all of it was consumed.
    pub fn fill(&mut self) -> Result<&[u8], TarError> {
        if self.stored == 0 {
            return Ok(&[]);
        }
        // Two calls, for the borrow checker: the second only hands out what the first found.
        let available = fill_buf(&mut self.input, self.offset)?.len();
        if available == 0 {
            return Err(self.cut());
        }
        let count = usize::try_from(self.stored).unwrap_or(usize::MAX).min(available);
        Ok(&fill_buf(&mut self.input, self.offset)?[..count])
    }

    /// Marks `count` bytes of what [`fill`](Self::fill) gave as read.
    pub fn consume(&mut self, count: usize) {
        self.input.consume(count);
        self.offset += count as u64;
        self.stored -= count as u64;
    }

    /// Reads everything after the end mark and gives it to `each`, padding of the last entry
    /// and kept raw bytes not included.
    pub fn finish<E: From<TarError>>(
        &mut self,
        mut each: impl FnMut(&[u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let mut total = 0;
        loop {
            let chunk = fill_buf(&mut self.input, self.offset)?;
            let count = chunk.len();
            if count == 0 {
                return Ok(());
            }
            total += count as u64;
            if total > MAX_TRAILING {
                let reason = "too much follows the end of the archive";
                return Err(TarError::Header { offset: self.offset, reason }.into());
            }
            each(chunk)?;
            self.input.consume(count);
            self.offset += count as u64;
        }
    }

    fn bad(&self, reason: Reason) -> TarError {
        TarError::Entry { name: self.entry.name(), reason }
    }

    fn cut(&self) -> TarError {
        TarError::Cut { offset: self.offset, name: self.entry.name() }
    }

    /// Fills `out`; gives how much the input had.
    fn read_up_to(&mut self, out: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while filled < out.len() {
            let chunk = fill_buf(&mut self.input, self.offset)?;
            if chunk.is_empty() {
                break;
            }
            let count = chunk.len().min(out.len() - filled);
            out[filled..filled + count].copy_from_slice(&chunk[..count]);
            self.input.consume(count);
            self.offset += count as u64;
            filled += count;
        }
        if self.keep_raw {
            self.raw.extend_from_slice(&out[..filled]);
        }
        Ok(filled)
    }

    fn read_exact(&mut self, out: &mut [u8]) -> Result<(), TarError> {
        if self.read_up_to(out)? == out.len() { Ok(()) } else { Err(self.cut()) }
    }

    fn skip_padding(&mut self) -> Result<Padding, TarError> {
        let mut block = [0; BLOCK];
        let count = std::mem::take(&mut self.padding);
        let is_whole = self.read_up_to(&mut block[..count])? == count;
        Ok(if is_whole { Padding::Whole } else { Padding::Cut })
    }

    /// The next header block; `None` at the end.
    fn header_block(&mut self, pending: &Pending) -> Result<Option<[u8; BLOCK]>, TarError> {
        let mut block = [0; BLOCK];
        let start = self.offset;
        let count = self.read_up_to(&mut block)?;
        let helpers =
            pending.pax.is_some() || pending.long_name.is_some() || pending.long_link.is_some();
        let at_end = count == 0 || (count == BLOCK && header::is_zero(&block));
        if at_end && helpers {
            return Err(self.cut());
        }
        match count {
            0 => return Ok(None),
            BLOCK => {}
            _ => return Err(self.cut()),
        }
        if !header::is_zero(&block) {
            return Ok(Some(block));
        }
        let mut second = [0; BLOCK];
        match self.read_up_to(&mut second)? {
            // One zero block is enough when nothing follows.
            0 => Ok(None),
            BLOCK if header::is_zero(&second) => Ok(None),
            BLOCK => {
                Err(TarError::Header { offset: start, reason: "a zero block between entries" })
            }
            _ => Err(self.cut()),
        }
    }

    /// Takes an extended header in, if the current header is one.
    fn take_helper(
        &mut self,
        block: &[u8; BLOCK],
        pending: &mut Pending,
    ) -> Result<bool, TarError> {
        match block[header::TYPE_FLAG] {
            b'x' => {
                let content = self.special()?;
                let pax = Pax::parse(&content).map_err(|reason| self.bad(reason))?;
                pending.pax = Some(pax);
            }
            b'L' => pending.long_name = Some(until_nul(self.special()?)),
            b'K' => pending.long_link = Some(until_nul(self.special()?)),
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// The whole content of an extended header, padding read too.
    fn special(&mut self) -> Result<Vec<u8>, TarError> {
        let size = self.entry.size;
        if size > MAX_SPECIAL {
            return Err(self.bad("an extended header is too long"));
        }
        let mut content = vec![0; usize::try_from(size).unwrap_or(0)];
        self.read_exact(&mut content)?;
        self.padding = padding_of(size);
        if self.skip_padding()? == Padding::Cut {
            return Err(self.cut());
        }
        Ok(content)
    }

    /// Applies what came before, and gets ready for the data.
    fn complete(
        &mut self,
        block: &[u8; BLOCK],
        format: Format,
        mut pending: Pending,
    ) -> Result<(), TarError> {
        let flag = block[header::TYPE_FLAG];
        let mut sparse = None;
        if let Some(pax) = &mut pending.pax {
            pax.apply(&mut self.entry);
            sparse = pax.sparse.place().map_err(|reason| self.bad(reason))?;
            if sparse.is_some()
                && let Some(name) = pax.sparse.name.take()
            {
                self.entry.path = name;
            }
        }
        if let Some(name) = pending.long_name {
            self.entry.path = name;
        }
        if let Some(link) = pending.long_link {
            self.entry.link = link;
        }
        header::set_kind(&mut self.entry, flag);
        let header_only = matches!(
            self.entry.kind,
            Kind::HardLink | Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo
        ) || flag == b'5';
        self.stored = if header_only { 0 } else { self.entry.size };
        if self.stored > i64::MAX.unsigned_abs() {
            return Err(self.bad("the size is too large"));
        }
        self.padding = padding_of(self.stored);
        if self.entry.kind == Kind::Global {
            // Read as raw bytes: like Go, nothing in it applies to the entries that follow.
            self.entry.size = self.stored;
            self.special()?;
            self.stored = 0;
        }
        if flag == b'S' && format == Format::Gnu {
            self.old_gnu_sparse(block)?;
        } else if self.entry.kind == Kind::File
            && let Some((place, size)) = sparse
        {
            self.pax_sparse(place, size)?;
        }
        if self.entry.kind != Kind::File {
            self.entry.size = 0;
        }
        Ok(())
    }

    fn old_gnu_sparse(&mut self, block: &[u8; BLOCK]) -> Result<(), TarError> {
        let mut map = Vec::new();
        let bad = |reader: &Self, reason| reader.bad(reason);
        let (mut more, size) =
            sparse::old_gnu_header(block, &mut map).map_err(|reason| bad(self, reason))?;
        while more {
            let mut extension = [0; BLOCK];
            self.read_exact(&mut extension)?;
            more = sparse::add_old_gnu(&extension[..504], extension[504], &mut map)
                .map_err(|reason| bad(self, reason))?;
        }
        self.set_sparse(map, size)
    }

    fn pax_sparse(&mut self, place: MapPlace, size: u64) -> Result<(), TarError> {
        let map = match place {
            MapPlace::Header(map) => map,
            MapPlace::Data => {
                let mut map = DataMap::default();
                loop {
                    if self.stored < BLOCK as u64 {
                        return Err(self.bad("a sparse map is malformed"));
                    }
                    let mut block = [0; BLOCK];
                    self.read_exact(&mut block)?;
                    self.stored -= BLOCK as u64;
                    if map.take(&block).map_err(|reason| self.bad(reason))? {
                        break;
                    }
                }
                map.finish().map_err(|reason| self.bad(reason))?
            }
        };
        self.set_sparse(map, size)
    }

    fn set_sparse(&mut self, map: Vec<Extent>, size: u64) -> Result<(), TarError> {
        sparse::check(&map, size, self.stored).map_err(|reason| self.bad(reason))?;
        self.entry.size = size;
        self.entry.sparse = Some(map);
        Ok(())
    }
}

fn fill_buf<R: BufRead>(input: &mut R, offset: u64) -> Result<&[u8], TarError> {
    // A reader that is interrupted is asked again; the loop cannot return the borrow itself.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(TarError::Read { offset, source }),
        }
    }
    input.fill_buf().map_err(|source| TarError::Read { offset, source })
}

fn padding_of(size: u64) -> usize {
    usize::try_from(size.wrapping_neg() % BLOCK as u64).unwrap_or(0)
}

fn until_nul(mut text: Vec<u8>) -> Vec<u8> {
    text.truncate(header::text(&text).len());
    text
}
