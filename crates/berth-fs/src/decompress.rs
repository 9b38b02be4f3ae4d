//! Finding out how a stream is compressed, and undoing it.

use std::io::{self, BufRead as _, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard, any number of frames.
    Zstd,
}

/// Why a stream cannot be decompressed.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    #[error("{name} compression is not supported by this version of berth")]
    Unsupported { name: &'static str },
    #[error("cannot read the archive")]
    Read { source: io::Error },
}

const BUFFER: usize = 128 * 1024;
/// Longest magic number.
const MAGIC: usize = 6;

/// What the first bytes of a stream say.
pub fn detect(start: &[u8]) -> Result<Compression, DecompressError> {
    Ok(match start {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        // Zstandard's skippable frames have sixteen magic numbers.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => return Err(DecompressError::Unsupported { name: "bzip2" }),
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            return Err(DecompressError::Unsupported { name: "xz" });
        }
        _ => Compression::None,
    })
}

/// Looks at the first bytes of `input` and gives a reader of the plain bytes.
pub fn open<'a, R: Read + Send + 'a>(
    mut input: R,
) -> Result<(Compression, Box<dyn Read + Send + 'a>), DecompressError> {
    let mut start = [0; MAGIC];
    let mut filled = 0;
    while filled < MAGIC {
        match input.read(&mut start[filled..]) {
            Ok(0) => break,
            Ok(count) => filled += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(source) => return Err(DecompressError::Read { source }),
        }
    }
    let compression = detect(&start[..filled])?;
    let whole = io::Cursor::new(start).take(filled as u64).chain(input);
    let plain: Box<dyn Read + Send + 'a> = match compression {
        Compression::None => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(BufReader::with_capacity(BUFFER, whole))),
        Compression::Zstd => {
            let mut buffered = BufReader::with_capacity(BUFFER, whole);
            buffered.fill_buf().map_err(|source| DecompressError::Read { source })?;
            let decoder = zstd::stream::read::Decoder::with_buffer(buffered)
                .map_err(|source| DecompressError::Read { source })?;
            Box::new(decoder)
        }
    };
    Ok((compression, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn gzip(content: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(content).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn streams_are_told_apart_by_their_first_bytes() {
        let content = b"some content, some content, some content".repeat(1000);
        let two_members = [gzip(&content[..100]), gzip(&content[100..])].concat();
        let zstd = zstd::encode_all(&content[..], 1).unwrap();
        #[rustfmt::skip]
        let table = [
            (content.clone(), Compression::None),
            (gzip(&content),  Compression::Gzip),
            (two_members,     Compression::Gzip),
            (zstd,            Compression::Zstd),
        ];
        for (bytes, expected) in table {
            let (compression, mut plain) = open(&bytes[..]).unwrap();
            let mut got = Vec::new();
            plain.read_to_end(&mut got).unwrap();
            assert_eq!(compression, expected);
            assert!(got == content, "{expected:?}");
        }
        for (start, name) in [(&b"BZh91AY"[..], "bzip2"), (b"\xfd7zXZ\0\0", "xz")] {
            let error = open(start).err().unwrap();
            let text = format!("{name} compression is not supported by this version of berth");
            assert_eq!(error.to_string(), text);
        }
        assert_eq!(open(&b""[..]).unwrap().0, Compression::None);
    }
}
