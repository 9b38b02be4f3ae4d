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
use std::os::unix::fs::FileExt as _;
use std::path::Path;

use anyhow::{Context as _, Result, ensure};

const MAGIC: u64 = 0x006a_7366_7773_6872;
const FLUSH: u64 = 1;
const FUA: u64 = 1 << 1;
const DISCARD: u64 = 1 << 2;

/// A recorded log.
#[derive(Debug)]
pub(super) struct WriteLog {
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
    pub(super) fn open(path: &Path) -> Result<Self> {
        let shown = path.display();
        let file = File::open(path).with_context(|| format!("cannot read {shown}"))?;
        let [magic, version, count] = numbers(&file, 0)?;
        ensure!(magic == MAGIC && version == 1, "{shown} is no log of writes");
        let mut word = [0; 4];
        file.read_exact_at(&mut word, 24)?;
        let sector_bytes = u64::from(u32::from_le_bytes(word));
        ensure!(sector_bytes >= 512, "{shown} has sectors of {sector_bytes} bytes");
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
    pub(super) fn counts(&self) -> (usize, usize) {
        (self.entries.len(), self.entries.iter().filter(|entry| entry.has(FLUSH)).count())
    }

    /// Writes into `image` what the disk may hold after the first `point` entries: all that a
    /// flush covers, and of the rest the half that `seed` chooses. The image must be as long as
    /// the disk, and empty.
    pub(super) fn replay(&self, point: usize, seed: u64, image: &File) -> Result<()> {
        for index in self.surviving(point, seed) {
            let entry = self.entries[index];
            let bytes = usize::try_from(entry.sectors * self.sector_bytes)?;
            let mut data = vec![0; bytes];
            self.file.read_exact_at(&mut data, entry.data_at)?;
            image.write_all_at(&data, entry.sector * self.sector_bytes)?;
        }
        Ok(())
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

fn numbers(file: &File, at: u64) -> Result<[u64; 3]> {
    let mut bytes = [0; 24];
    file.read_exact_at(&mut bytes, at).context("the log ends early")?;
    let number = |n: usize| bytes[n * 8..][..8].try_into().map(u64::from_le_bytes);
    Ok([number(0)?, number(1)?, number(2)?])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A log of writes of one sector, each filled with its number in the log.
    fn log(name: &str, entries: &[(u64, u64, u64)]) -> (std::path::PathBuf, Result<WriteLog>) {
        let path = std::env::temp_dir().join(format!("berth-{name}-{}", std::process::id()));
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
        crate::run::write(&path, &bytes).unwrap();
        let log = WriteLog::open(&path);
        (path, log)
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
        let (path, log) = log("survive", &ENTRIES);
        let log = log.unwrap();
        assert_eq!(log.counts(), (6, 1));
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
        std::fs::remove_file(path).unwrap();
    }

    #[test]
    fn an_image_has_the_last_surviving_write_of_each_sector() {
        let (path, log) = log("image", &ENTRIES);
        let log = log.unwrap();
        let image_path = path.with_extension("image");
        let image = File::options().create_new(true).read(true).write(true).open(&image_path);
        let image = image.unwrap();
        image.set_len(6 * 512).unwrap();
        let seed = (0..40).find(|seed| log.surviving(6, *seed).contains(&4)).unwrap();
        log.replay(6, seed, &image).unwrap();
        let mut bytes = vec![0; 6 * 512];
        image.read_exact_at(&mut bytes, 0).unwrap();
        let firsts: Vec<u8> = bytes.chunks(512).map(|sector| sector[0]).collect();
        assert_eq!(firsts, [0, 4, 1, 0, 0, 5]);
        std::fs::remove_file(path).unwrap();
        std::fs::remove_file(image_path).unwrap();
    }

    #[test]
    fn other_files_are_refused() {
        let (path, _) = log("other", &ENTRIES);
        let mut bytes = std::fs::read(&path).unwrap();
        bytes.truncate(3 * 512);
        crate::run::write(&path, &bytes).unwrap();
        assert!(WriteLog::open(&path).unwrap_err().to_string().contains("ends early"));
        bytes[0] ^= 1;
        crate::run::write(&path, &bytes).unwrap();
        assert!(WriteLog::open(&path).unwrap_err().to_string().contains("no log"));
        std::fs::remove_file(path).unwrap();
    }
}
