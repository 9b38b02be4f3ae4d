//! The writes to a disk in order, as qemu's `blklogwrites` (and dm-log-writes, version 1) records
//! them, and what the disk may hold if the power is cut after any of them.
//!
//! ```text
//! sector 0    magic, version, number of entries (u64 each), bytes in a sector (u32)
//! then each   sector, sectors, flags, bytes of a mark (u64 each), in a sector of its own;
//!             behind a write its data
//! ```
//!
//! All numbers are little-endian. What a flush came after is on the disk. Of what was written since
//! the last one any part may be, for the disk's own cache writes back in any order.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;

/// A recorded log.
#[derive(Debug)]
pub struct WriteLog {
    file: File,
    sector_bytes: u64,
    entries: Vec<Entry>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Entry {
    sector: u64,
    sectors: u64,
    flags: u64,
    /// Where in the log its data is.
    data_at: u64,
}

impl Entry {
    fn has(self, flag: u64) -> bool {
        self.flags & flag != 0
    }

    /// What a discard leaves is undefined; here it leaves what was there.
    fn is_write(self) -> bool {
        self.sectors > 0 && !self.has(DISCARD)
    }
}

impl WriteLog {
    /// Reads where the writes are; their data stays in the file.
    pub fn open(path: &Path) -> io::Result<Self> {
        let shown = path.display();
        let file = File::open(path)?;
        let [magic, version, count] = numbers(&file, 0)?;
        if magic != MAGIC || version != 1 {
            return Err(io::Error::other(format!("{shown} is no log of writes")));
        }
        let mut word = [0; 4];
        file.read_exact_at(&mut word, 24)?;
        let sector_bytes = u64::from(u32::from_le_bytes(word));
        if sector_bytes < 512 {
            return Err(io::Error::other(format!("{shown} has sectors of {sector_bytes} bytes")));
        }
        let mut entries = Vec::new();
        let mut at = sector_bytes;
        for _ in 0..count {
            let [sector, sectors, flags] = numbers(&file, at)?;
            at += sector_bytes;
            let entry = Entry { sector, sectors, flags, data_at: at };
            if entry.is_write() {
                at += sectors * sector_bytes;
            }
            entries.push(entry);
        }
        Ok(Self { file, sector_bytes, entries })
    }

    /// How many entries there are, and how many of them are flushes.
    pub fn counts(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.iter().filter(|entry| entry.has(FLUSH)).count())
    }

    /// Writes into `image` what the disk may hold after the first `point` entries: all that a
    /// flush covers, and of the rest the half that `seed` chooses. The image must be as long as
    /// the disk, and empty.
    pub fn replay(&self, point: usize, seed: u64, image: &File) -> io::Result<()> {
        for index in self.surviving(point, seed) {
            let entry = self.entries[index];
            image.write_all_at(&self.data(entry)?, entry.sector * self.sector_bytes)?;
        }
        Ok(())
    }

    /// The entries that are flushes.
    pub fn flushes(&self) -> Vec<usize> {
        let entries = self.entries.iter().enumerate();
        entries.filter(|(_, entry)| entry.has(FLUSH)).map(|(index, _)| index).collect()
    }

    /// The writes that begin at this byte of the disk, behind any file system, but for zeros: each
    /// by its entry.
    pub fn marks(&self, at: u64) -> io::Result<Vec<(usize, Vec<u8>)>> {
        let mut marks = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            if entry.is_write() && entry.sector * self.sector_bytes == at {
                marks.push((index, self.data(*entry)?));
            }
        }
        marks.retain(|(_, mark)| mark.first().is_some_and(|byte| *byte != 0));
        Ok(marks)
    }

    fn data(&self, entry: Entry) -> io::Result<Vec<u8>> {
        let bytes = usize::try_from(entry.sectors * self.sector_bytes);
        let mut data = vec![0; bytes.map_err(io::Error::other)?];
        self.file.read_exact_at(&mut data, entry.data_at)?;
        Ok(data)
    }

    /// The writes that are on the disk, in order.
    fn surviving(&self, point: usize, seed: u64) -> Vec<usize> {
        let entries = &self.entries[..point.min(self.entries.len())];
        let flushed = entries.iter().rposition(|entry| entry.has(FLUSH)).unwrap_or(0);
        let survives =
            |index: usize, entry: Entry| index < flushed || entry.has(FUA) || chance(seed, index);
        let writes = entries.iter().enumerate().filter(|(_, entry)| entry.is_write());
        writes.filter(|(index, entry)| survives(*index, **entry)).map(|(index, _)| index).collect()
    }
}

/// The same for the same seed and write, whatever came before (splitmix64).
fn chance(seed: u64, index: usize) -> bool {
    let mut word = (seed << 32 ^ index as u64).wrapping_add(0x9e37_79b9_7f4a_7c15);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (word ^ (word >> 31)) & 1 == 1
}

fn numbers(file: &File, at: u64) -> io::Result<[u64; 3]> {
    let mut numbers = [0; 3];
    for (at, number) in (at..).step_by(8).zip(&mut numbers) {
        let mut bytes = [0; 8];
        file.read_exact_at(&mut bytes, at)
            .map_err(|error| io::Error::new(error.kind(), "the log ends early"))?;
        *number = u64::from_le_bytes(bytes);
    }
    Ok(numbers)
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    /// A log of writes of one sector, each filled with its number in the log.
    fn log(entries: &[(u64, u64, u64)]) -> tempfile::NamedTempFile {
        let mut bytes = Vec::new();
        let sector = |bytes: &mut Vec<u8>, numbers: &[u64]| {
            bytes.extend(numbers.iter().flat_map(|number| number.to_le_bytes()));
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        };
        sector(&mut bytes, &[MAGIC, 1, entries.len() as u64, 512]);
        for (number, (at, sectors, flags)) in entries.iter().enumerate() {
            sector(&mut bytes, &[*at, *sectors, *flags, 0]);
            if *flags & DISCARD == 0 {
                bytes.extend((0..sectors * 512).map(|_| u8::try_from(number).unwrap()));
            }
        }
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        file
    }

    const ENTRIES: [(u64, u64, u64); 6] = [
        // sector, sectors, flags
        (0, 1, 0),
        (1, 2, 0),
        (0, 9, DISCARD),
        (0, 0, FLUSH),
        (1, 1, 0),
        (5, 1, FUA),
    ];

    #[test]
    fn what_a_flush_covers_survives_and_the_rest_by_chance() {
        let file = log(&ENTRIES);
        let log = WriteLog::open(file.path()).unwrap();
        assert_eq!((log.counts(), log.flushes()), ((6, 1), vec![3]));
        assert_eq!(log.surviving(4, 1), [0, 1]);
        let mut seen: Vec<Vec<usize>> = (0..40).map(|seed| log.surviving(6, seed)).collect();
        seen.sort();
        seen.dedup();
        assert_eq!(seen, [vec![0, 1, 4, 5], vec![0, 1, 5]]);
        // Before the flush nothing is certain.
        let mut seen: Vec<usize> = (0..40).map(|seed| log.surviving(2, seed).len()).collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [0, 1, 2]);
    }

    #[test]
    fn marks_are_the_writes_behind_the_file_system() {
        let file = log(&ENTRIES);
        let marks = WriteLog::open(file.path()).unwrap().marks(5 * 512).unwrap();
        assert_eq!(marks, [(5, vec![5; 512])]);
    }

    #[test]
    fn an_image_has_the_last_surviving_write_of_each_sector() {
        let file = log(&ENTRIES);
        let log = WriteLog::open(file.path()).unwrap();
        let image = tempfile::tempfile().unwrap();
        image.set_len(6 * 512).unwrap();
        let seed = (0..40).find(|seed| log.surviving(6, *seed).contains(&4)).unwrap();
        log.replay(6, seed, &image).unwrap();
        let mut bytes = vec![0; 6 * 512];
        image.read_exact_at(&mut bytes, 0).unwrap();
        let firsts: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [0, 4, 1, 0, 0, 5]);
    }

    #[test]
    fn other_files_are_refused() {
        let file = log(&ENTRIES);
        file.as_file().set_len(3 * 512).unwrap();
        let refused = || WriteLog::open(file.path()).unwrap_err().to_string();
        assert_eq!(refused(), "the log ends early");
        file.as_file().write_all_at(&[1], 0).unwrap();
        assert!(refused().ends_with("is no log of writes"));
    }
}
