//! CRC-64 with the ISO 3309 polynomial, as Go's `crc64.ISO` computes it.

const POLYNOMIAL: u64 = 0xD800_0000_0000_0000;
const SLICES: usize = 16;

static TABLES: [[u64; 256]; SLICES] = tables();

#[expect(clippy::large_stack_arrays, reason = "computed by the compiler")]
const fn tables() -> [[u64; 256]; SLICES] {
    let mut tables = [[0; 256]; SLICES];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u64;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { crc >> 1 ^ POLYNOMIAL } else { crc >> 1 };
            bit += 1;
        }
        tables[0][byte] = crc;
        byte += 1;
    }
    let mut slice = 1;
    while slice < SLICES {
        let mut byte = 0;
        while byte < 256 {
            let crc = tables[slice - 1][byte];
            tables[slice][byte] = tables[0][(crc & 0xff) as usize] ^ crc >> 8;
            byte += 1;
        }
        slice += 1;
    }
    tables
}

/// A running checksum.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Crc64(u64);

impl Crc64 {
    pub(crate) fn new() -> Self {
        Self(!0)
    }

    #[inline]
    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let mut crc = self.0;
        let (chunks, rest) = bytes.as_chunks::<SLICES>();
        for chunk in chunks {
            let (low, high) = chunk.split_at(8);
            let mut word = [0; 8];
            word.copy_from_slice(low);
            let mixed = (crc ^ u64::from_le_bytes(word)).to_le_bytes();
            crc = 0;
            for at in 0..8 {
                crc ^= TABLES[15 - at][usize::from(mixed[at])];
                crc ^= TABLES[7 - at][usize::from(high[at])];
            }
        }
        for &byte in rest {
            crc = TABLES[0][usize::from(crc.to_le_bytes()[0] ^ byte)] ^ crc >> 8;
        }
        self.0 = crc;
    }

    /// Big-endian, as Go's `Sum` gives it.
    pub(crate) fn finish(self) -> [u8; 8] {
        (!self.0).to_be_bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_go() {
        #[rustfmt::skip]
        let table: &[(&[u8], u64)] = &[
            (b"",          0),
            (b"a",         0x3420_0000_0000_0000),
            (b"123456789", 0xb909_56c7_75a4_1001),
        ];
        for (bytes, expected) in table {
            let mut crc = Crc64::new();
            crc.update(bytes);
            assert_eq!(crc.finish(), expected.to_be_bytes(), "{bytes:?}");
        }
    }

    #[test]
    fn pieces_give_the_same_as_the_whole() {
        let bytes: Vec<u8> = (0..4099_u32).map(|i| (i * 7 % 251).to_le_bytes()[0]).collect();
        let mut one_by_one = Crc64::new();
        for byte in &bytes {
            one_by_one.update(&[*byte]);
        }
        for split in [0, 1, 15, 16, 17, 4000] {
            let mut crc = Crc64::new();
            crc.update(&bytes[..split]);
            crc.update(&bytes[split..]);
            assert_eq!(crc.finish(), one_by_one.finish());
        }
    }
}
