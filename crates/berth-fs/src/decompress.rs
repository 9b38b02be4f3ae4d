//! Finding out how a stream is compressed, and undoing it.

use std::io::{self, BufRead as _, BufReader, Read};

use bzip2::bufread::MultiBzDecoder;
use flate2::bufread::MultiGzDecoder;
use lzma_rust2::XzReader;

/// How a stream is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// Not at all.
    None,
    /// gzip (RFC 1952), any number of members.
    Gzip,
    /// Zstandard, any number of frames.
    Zstd,
    /// bzip2, any number of streams.
    Bzip2,
    /// xz, any number of streams.
    Xz,
}

/// Why a stream cannot be decompressed.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum DecompressError {
    #[error("cannot read the archive")]
    Read { source: io::Error },
}

const BUFFER: usize = 128 * 1024;
/// Longest magic number.
const MAGIC: usize = 6;
/// What a stream of xz may take, in KiB: it names the size of its dictionary itself, up to 4 GiB.
/// `xz -9` makes one of 64 MiB.
const MOST_OF_XZ: u32 = 256 << 10;

/// What the first bytes of a stream say.
pub fn detect(start: &[u8]) -> Compression {
    match start {
        [0x1f, 0x8b, 0x08, ..] => Compression::Gzip,
        // Zstandard's skippable frames have sixteen magic numbers.
        [0x28, 0xb5, 0x2f, 0xfd, ..] | [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Bzip2,
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => Compression::Xz,
        _ => Compression::None,
    }
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
    let compression = detect(&start[..filled]);
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
        Compression::Bzip2 => {
            Box::new(MultiBzDecoder::new(BufReader::with_capacity(BUFFER, whole)))
        }
        Compression::Xz => {
            let buffered = BufReader::with_capacity(BUFFER, whole);
            Box::new(XzReader::new_mem_limit(buffered, true, MOST_OF_XZ))
        }
    };
    Ok((compression, plain))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    /// `CONTENT` by Python's bz2, in two streams.
    const BZIP2: &str = "\
        425a6839314159265359ef65b460000027118040040a038c0020005441931015243469b1a8c8d8b1a93c\
        2e2a4a60f0e7555312fc5dc914e14243bd96d180425a6839314159265359636447a9003a71918040040a\
        038c0020009020c988135491a64f2a885a25074941e5510b75442d2a2172a885b25062a21645076a885c\
        9283dc8a0c4a0f8941d9510bf177245385090636447a90";
    /// `CONTENT` by Python's lzma, in two streams.
    const XZ: &str = "\
        fd377a585a000004e6d6b4460200210116000000742fe5a3e0006300175d00399bc9f2e750555b38b27e\
        32b9eacd8550ef83051fc000000078882f3f77d78add000133645a75329e1fb6f37d010000000004595a\
        fd377a585a0000016922de360200210116000000742fe5a3e09bdb005a5d00379b8aeeeb9f322ee981f8\
        785c5b38dd5992d01a5d2c56ecefcaaff817ade21d0c9b2ffef8a51852118478597b6ebe2c822f9e4202\
        35380d2e4c7b99a8f9ce4b4cd8652fcb181420070a2a16c4d252c89a2c51cf9161e03b0000000000a2b2\
        cd42000172dcb702000002489b4a3e300d8b020000000001595a";
    /// One byte, with a dictionary of 1 GiB.
    const HUGE_XZ: &str = "\
        fd377a585a000004e6d6b44602002101240000005e1fc7f9010000780000000045aeef83f8ee160a0001\
        1901a52c81cc1fb6f37d010000000004595a";

    fn bytes(hex: &str) -> Vec<u8> {
        let digits: Vec<_> = hex.bytes().map(|digit| char::from(digit).to_digit(16)).collect();
        let byte = |pair: &[Option<u32>]| u8::try_from(pair[0]? << 4 | pair[1]?).ok();
        digits.chunks(2).map(|pair| byte(pair).expect("hexadecimal")).collect()
    }

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
            (bytes(BZIP2),    Compression::Bzip2),
            (bytes(XZ),       Compression::Xz),
        ];
        for (bytes, expected) in table {
            let (compression, mut plain) = open(&bytes[..]).unwrap();
            let mut got = Vec::new();
            plain.read_to_end(&mut got).unwrap();
            assert_eq!(compression, expected);
            assert!(got == content, "{expected:?}");
        }
        assert_eq!(open(&b""[..]).unwrap().0, Compression::None);
    }

    #[test]
    fn what_is_cut_short_is_no_whole_stream() {
        for whole in [
            gzip(b"content"),
            zstd::encode_all(&b"content"[..], 1).unwrap(),
            bytes(BZIP2),
            bytes(XZ),
        ] {
            let (compression, mut plain) = open(&whole[..whole.len() - 3]).unwrap();
            let error = plain.read_to_end(&mut Vec::new()).expect_err("it is cut");
            assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof, "{compression:?}: {error}");
        }
    }

    #[test]
    fn a_stream_cannot_ask_for_any_amount_of_memory() {
        let huge = bytes(HUGE_XZ);
        let (_, mut plain) = open(&huge[..]).unwrap();
        let error = plain.read_to_end(&mut Vec::new()).unwrap_err();
        assert_eq!(error.to_string(), "needed memory too big for mem_limit_kb");
    }
}
