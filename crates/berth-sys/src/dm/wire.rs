//! The bytes that go to the device-mapper and come back: a header of fixed size, then data.
//!
//! Everything is in the machine's own byte order. Offsets are those of `struct dm_ioctl`.

use std::io;

/// `sizeof(struct dm_ioctl)`.
pub(super) const HEADER: usize = 312;
/// `DM_NAME_LEN`, the zero at the end included.
pub(super) const NAME_LEN: usize = 128;
const DATA_SIZE: usize = 12;
const DATA_START: usize = 16;
const TARGET_COUNT: usize = 20;
const OPEN_COUNT: usize = 24;
const FLAGS: usize = 28;
const EVENT: usize = 32;
const DEVICE: usize = 40;
const NAME: usize = 48;
/// `sizeof(struct dm_target_spec)`.
const SPEC: usize = 40;
const TYPE_LEN: usize = 16;

pub(super) const SUSPEND: u32 = 1 << 1;
pub(super) const STATUS_TABLE: u32 = 1 << 4;
pub(super) const ACTIVE: u32 = 1 << 5;
pub(super) const BUFFER_FULL: u32 = 1 << 8;
pub(super) const NO_FLUSH: u32 = 1 << 11;
pub(super) const UEVENT_GENERATED: u32 = 1 << 13;
pub(super) const DATA_OUT: u32 = 1 << 16;
pub(super) const DEFERRED_REMOVE: u32 = 1 << 17;

/// One line of a device's table, or of its status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// The first sector of 512 bytes that it covers.
    pub start: u64,
    /// How many sectors it covers.
    pub length: u64,
    /// What serves them, for example `thin-pool`.
    pub target: String,
    /// What that needs to know, or how it is.
    pub params: String,
}

/// A request, and then the answer in its place. Of u64, so that the kernel's structures are aligned.
#[derive(Debug)]
pub(super) struct Message {
    words: Vec<u64>,
}

impl Message {
    /// A request about `name` (empty for none) with `data` and room for an answer of `room` bytes.
    pub(super) fn new(name: &str, data: &[u8], room: usize) -> io::Result<Self> {
        if name.len() >= NAME_LEN || name.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let size = HEADER + data.len().max(room).next_multiple_of(8);
        let mut this = Self { words: vec![0; size / 8] };
        // The interface's major version. The kernel takes any minor one that is not beyond its own.
        this.put(0, 4);
        this.put(DATA_SIZE, u32::try_from(size).map_err(|_| io::ErrorKind::InvalidInput)?);
        this.put(DATA_START, u32::try_from(HEADER).expect("three digits"));
        this.put_bytes(NAME, name.as_bytes());
        this.put_bytes(HEADER, data);
        Ok(this)
    }

    pub(super) fn as_mut_ptr(&mut self) -> *mut u64 {
        self.words.as_mut_ptr()
    }

    pub(super) fn set_flags(&mut self, flags: u32) {
        self.put(FLAGS, flags);
    }

    pub(super) fn set_targets(&mut self, count: u32) {
        self.put(TARGET_COUNT, count);
    }

    pub(super) fn set_event(&mut self, number: u32) {
        self.put(EVENT, number);
    }

    pub(super) fn version(&self) -> (u32, u32, u32) {
        (self.get(0), self.get(4), self.get(8))
    }

    pub(super) fn flags(&self) -> u32 {
        self.get(FLAGS)
    }

    pub(super) fn open_count(&self) -> u32 {
        self.get(OPEN_COUNT)
    }

    /// The number of the device as the rest of the system writes it.
    pub(super) fn device(&self) -> u64 {
        from_kernel(read_u64(self.bytes(), DEVICE).unwrap_or(0))
    }

    /// The lines of a table or of a status.
    pub(super) fn lines(&self) -> io::Result<Vec<Line>> {
        let data = self.data();
        let mut lines = Vec::new();
        let mut at = 0;
        for _ in 0..self.get(TARGET_COUNT) {
            let spec = data.get(at..at + SPEC).ok_or_else(short)?;
            lines.push(Line {
                start: read_u64(spec, 0)?,
                length: read_u64(spec, 8)?,
                target: text(&spec[SPEC - TYPE_LEN..]),
                params: text(&data[at + SPEC..]),
            });
            // From the beginning of the data, unlike in a request.
            at = read_u32(spec, 20)? as usize;
        }
        Ok(lines)
    }

    /// Names and numbers of a list of devices.
    pub(super) fn names(&self) -> io::Result<Vec<(String, u64)>> {
        let data = self.data();
        let mut names = Vec::new();
        let mut at = 0;
        // An empty list is one entry without a number.
        while let Some(entry) = data.get(at..) {
            let device = read_u64(entry, 0)?;
            if device == 0 {
                break;
            }
            names.push((text(entry.get(12..).unwrap_or_default()), from_kernel(device)));
            match read_u32(entry, 8)? {
                0 => break,
                next => at += next as usize,
            }
        }
        Ok(names)
    }

    /// The numbers of the devices that a table refers to.
    pub(super) fn dependencies(&self) -> io::Result<Vec<u64>> {
        let data = self.data();
        let count = read_u32(data, 0)? as usize;
        (0..count).map(|at| Ok(from_kernel(read_u64(data, 8 + at * 8)?))).collect()
    }

    fn data(&self) -> &[u8] {
        self.bytes().get(self.get(DATA_START) as usize..).unwrap_or_default()
    }

    fn bytes(&self) -> &[u8] {
        // SAFETY: the words are one initialised allocation; any byte of them may be read, and the
        // slice borrows them.
        unsafe { std::slice::from_raw_parts(self.words.as_ptr().cast(), self.words.len() * 8) }
    }

    fn get(&self, at: usize) -> u32 {
        read_u32(self.bytes(), at).expect("within the header")
    }

    fn put(&mut self, at: usize, value: u32) {
        self.put_bytes(at, &value.to_ne_bytes());
    }

    fn put_bytes(&mut self, at: usize, value: &[u8]) {
        let length = self.words.len() * 8;
        // SAFETY: as in `bytes`; every pattern of bytes is a valid word.
        let bytes =
            unsafe { std::slice::from_raw_parts_mut(self.words.as_mut_ptr().cast(), length) };
        bytes[at..at + value.len()].copy_from_slice(value);
    }
}

/// The data of a request to load a table.
pub(super) fn table(lines: &[Line]) -> io::Result<Vec<u8>> {
    let mut data = Vec::new();
    for line in lines {
        if line.target.len() >= TYPE_LEN || line.params.contains('\0') {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        let length = (SPEC + line.params.len() + 1).next_multiple_of(8);
        let mut spec = vec![0; length];
        spec[..8].copy_from_slice(&line.start.to_ne_bytes());
        spec[8..16].copy_from_slice(&line.length.to_ne_bytes());
        let next = u32::try_from(length).map_err(|_| io::ErrorKind::InvalidInput)?;
        spec[20..24].copy_from_slice(&next.to_ne_bytes());
        spec[24..24 + line.target.len()].copy_from_slice(line.target.as_bytes());
        spec[SPEC..SPEC + line.params.len()].copy_from_slice(line.params.as_bytes());
        data.extend(spec);
    }
    Ok(data)
}

/// The data of a message to the target that serves `sector`.
pub(super) fn target_message(sector: u64, text: &str) -> io::Result<Vec<u8>> {
    zero_terminated(&sector.to_ne_bytes(), text)
}

/// The data of a request to give a new name.
pub(super) fn new_name(name: &str) -> io::Result<Vec<u8>> {
    if name.len() >= NAME_LEN {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    zero_terminated(&[], name)
}

fn zero_terminated(head: &[u8], text: &str) -> io::Result<Vec<u8>> {
    if text.contains('\0') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    Ok([head, text.as_bytes(), &[0]].concat())
}

/// Device numbers here have the minor's high bits above the major: `huge_encode_dev` of the kernel,
/// which for majors and minors of today is also what `stat` gives.
fn from_kernel(device: u64) -> u64 {
    let major = (device >> 8) & 0xfff;
    let minor = (device & 0xff) | ((device >> 12) & 0xf_ff00);
    #[expect(clippy::cast_possible_truncation, reason = "12 and 20 bits")]
    rustix::fs::makedev(major as u32, minor as u32)
}

fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|&byte| byte == 0).unwrap_or(bytes.len());
    String::from_utf8_lossy(&bytes[..end]).into_owned()
}

fn read_u32(bytes: &[u8], at: usize) -> io::Result<u32> {
    let four = bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok());
    four.map(u32::from_ne_bytes).ok_or_else(short)
}

fn read_u64(bytes: &[u8], at: usize) -> io::Result<u64> {
    let eight = bytes.get(at..at + 8).and_then(|bytes| bytes.try_into().ok());
    eight.map(u64::from_ne_bytes).ok_or_else(short)
}

fn short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "the device-mapper's answer is too short")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(start: u64, length: u64, target: &str, params: &str) -> Line {
        Line { start, length, target: target.to_owned(), params: params.to_owned() }
    }

    #[test]
    fn a_status_is_read_line_by_line() {
        // Written as the kernel does: offsets count from the beginning.
        let lines = [line(0, 8, "linear", "7:1 0"), line(8, 16, "thin-pool", "")];
        let mut data = table(&lines).unwrap();
        let first = u32::from_ne_bytes(data[20..24].try_into().unwrap()) as usize;
        let length = u32::try_from(data.len()).unwrap();
        data[first + 20..first + 24].copy_from_slice(&length.to_ne_bytes());
        let mut answer = Message::new("name", &data, 0).unwrap();
        answer.set_targets(2);
        assert_eq!(answer.lines().unwrap(), lines);
        answer.set_targets(3);
        assert!(answer.lines().is_err(), "a count that is not so");
    }

    #[test]
    fn lists_end_where_the_kernel_says() {
        assert_eq!(Message::new("", &[0; 16], 0).unwrap().names().unwrap(), []);
        let entry = |device: u64, next: u32, name: &str| {
            let mut bytes =
                [&device.to_ne_bytes()[..], &next.to_ne_bytes(), name.as_bytes()].concat();
            bytes.resize(24, 0);
            bytes
        };
        let data = [entry(0xfd00, 24, "one"), entry(0xfd01, 0, "two"), entry(0xfd02, 0, "no")];
        let names = Message::new("", &data.concat(), 0).unwrap().names().unwrap();
        let device = |minor| rustix::fs::makedev(253, minor);
        assert_eq!(names, [("one".to_owned(), device(0)), ("two".to_owned(), device(1))]);
        let deps = [1_u32.to_ne_bytes(), [0; 4]].concat();
        let data = [&deps[..], &0x10_0702_u64.to_ne_bytes()].concat();
        let found = Message::new("", &data, 0).unwrap().dependencies().unwrap();
        assert_eq!(found, [rustix::fs::makedev(7, 258)]);
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        assert!(Message::new(&"n".repeat(NAME_LEN), &[], 0).is_err());
        assert!(Message::new("a\0b", &[], 0).is_err());
        assert!(table(&[line(0, 1, "a-very-long-target", "")]).is_err());
        assert!(target_message(0, "a\0").is_err());
        assert!(new_name(&"n".repeat(NAME_LEN)).is_err());
    }
}
