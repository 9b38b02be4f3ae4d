//! What a layer brings and hides, without its files.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use super::Crc64;
use super::records::{Part, Records};
use crate::tar::{Kind, Reader};
use crate::unpack::{Mark, clean, mark_of};

/// What a layer does to what is below it. Names are clean, and relative to the root, which is empty.
#[derive(Debug, Default)]
pub struct Outline {
    /// What it has, by name.
    pub brings: HashMap<Vec<u8>, Brought>,
    /// What it deletes of the layers below.
    pub deletes: Vec<Vec<u8>>,
    /// Directories that show nothing of the layers below.
    pub opaque: Vec<Vec<u8>>,
}

/// Something that a layer has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brought {
    /// What it is.
    pub kind: Kind,
    /// Its content, where that is known: not of what is empty, and not of sparse files.
    pub content: Option<Sum>,
}

/// The content of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Sum {
    size: u64,
    crc: [u8; 8],
}

impl Sum {
    /// Whether this is what is in the file; the file is read.
    pub fn is_of(&self, mut file: File) -> io::Result<bool> {
        if file.metadata()?.len() != self.size {
            return Ok(false);
        }
        let mut crc = Crc64::new();
        let mut buffer = vec![0; 256 * 1024];
        loop {
            match file.read(&mut buffer) {
                Ok(0) => return Ok(crc.finish() == self.crc),
                Ok(count) => crc.update(&buffer[..count]),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// How long it is.
    pub fn size(&self) -> u64 {
        self.size
    }
}

/// Reads it from a layer's gzipped tar-split.
pub fn outline(records: impl Read + Send + 'static) -> io::Result<Outline> {
    let sums = Rc::default();
    let hollow = Hollow { records: Records::new(records), left: Left::Bytes(Vec::new(), 0), sums };
    let sums = Rc::clone(&hollow.sums);
    let mut reader = Reader::new(BufReader::with_capacity(64 * 1024, hollow));
    let mut outline = Outline::default();
    let mut name = Vec::new();
    while reader.next_entry().map_err(io::Error::other)?.is_some() {
        let has_data = reader.stored() > 0;
        while reader.stored() > 0 {
            let count = reader.fill().map_err(io::Error::other)?.len();
            reader.consume(count);
        }
        let entry = reader.entry();
        let is_its = |sum: &(Vec<u8>, Sum)| has_data && sum.0 == entry.path;
        let content = sums.borrow_mut().pop_front_if(|sum| is_its(sum)).map(|(_, sum)| sum);
        if entry.kind == Kind::Global || !clean(&entry.path, &mut name) {
            continue;
        }
        let join = |dir: &[u8], base: &[u8]| [dir, b"/", base].concat();
        match mark_of(&name) {
            Mark::None => {
                let mut target = Vec::new();
                let content = if entry.kind == Kind::HardLink && clean(&entry.link, &mut target) {
                    outline.brings.get(&target).and_then(|first| first.content)
                } else {
                    content
                };
                outline.brings.insert(name.clone(), Brought { kind: entry.kind, content });
            }
            Mark::Deleted { dir: b"", base } => outline.deletes.push(base.to_vec()),
            Mark::Deleted { dir, base } => outline.deletes.push(join(dir, base)),
            Mark::Opaque { dir } => outline.opaque.push(dir.to_vec()),
            Mark::Aufs | Mark::Bad => {}
        }
    }
    Ok(outline)
}

/// The files whose content was left out, by their names in the archive; some are ahead of whoever
/// reads.
type Sums = Rc<RefCell<VecDeque<(Vec<u8>, Sum)>>>;

/// The tar with zeros for the content of files.
struct Hollow {
    records: Records,
    left: Left,
    sums: Sums,
}

enum Left {
    /// These, from here on.
    Bytes(Vec<u8>, usize),
    Zeros(u64),
}

impl Read for Hollow {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        loop {
            match &mut self.left {
                Left::Bytes(bytes, at) if *at < bytes.len() => {
                    let count = buf.len().min(bytes.len() - *at);
                    buf[..count].copy_from_slice(&bytes[*at..*at + count]);
                    *at += count;
                    return Ok(count);
                }
                Left::Zeros(left) if *left > 0 => {
                    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(buf.len());
                    buf[..count].fill(0);
                    *left -= count as u64;
                    return Ok(count);
                }
                Left::Bytes(..) | Left::Zeros(_) => match self.records.next()? {
                    None => return Ok(0),
                    Some(Part::Segment(bytes)) => self.left = Left::Bytes(bytes, 0),
                    Some(Part::File { name, size, crc }) => {
                        self.sums.borrow_mut().push_back((name, Sum { size, crc }));
                        self.left = Left::Zeros(size);
                    }
                },
            }
        }
    }
}
