//! Changing archives: bytes, whole blocks, and fields of headers with the checksum put right.

use crate::random::Random;

const BLOCK: usize = 512;
const MAX_INPUT: usize = 256 * 1024;

/// Fields of a header block: offset and length.
#[rustfmt::skip]
const FIELDS: &[(usize, usize)] = &[
    (0, 100), (100, 8), (108, 8), (116, 8), (124, 12), (136, 12), (156, 1), (157, 100),
    (257, 8), (329, 8), (337, 8), (345, 155), (386, 96), (482, 1), (483, 12),
];

/// Values that parsers get wrong.
const TEXTS: &[&[u8]] = &[
    b"../x",
    b"/",
    b".",
    b"..",
    b"a/../../b",
    b".wh.a",
    b".wh..wh..opq",
    b".wh..",
    b".wh...",
    b".wh..wh.plnk/1",
    b"a",
    b"a/b",
    b"link",
    b"link/a",
    b"",
    b"\0",
    b"00000000000\0",
    b"77777777777\0",
    b"0000001\0",
    b"0000644\0",
    b"\x80\0\0\0\0\0\0\0\0\0\x01\0",
    b"\xff\xff\xff\xff\xff\xff\xff\xff",
    b"\xff\xfe",
    b"ustar\x0000",
    b"ustar  \0",
    b"99",
    b" ",
    b"-1",
    b"00000002000\0",
];

const FLAGS: &[u8] = b"\x000123456789xgLKSVMNDA";

/// Records for PAX headers.
const RECORDS: &[&[u8]] = &[
    b"path=../x",
    b"path=a",
    b"path=",
    b"linkpath=a",
    b"size=1",
    b"size=513",
    b"size=99999999999",
    b"GNU.sparse.major=1",
    b"GNU.sparse.minor=0",
    b"GNU.sparse.realsize=4096",
    b"GNU.sparse.name=s",
    b"GNU.sparse.map=0,1,512,1",
    b"GNU.sparse.size=1024",
    b"GNU.sparse.offset=0",
    b"GNU.sparse.numbytes=2",
    b"mtime=-1.5",
    b"mtime=1e9",
    b"SCHILY.xattr.user.a=b",
    b"SCHILY.xattr.trusted.overlay.opaque=y",
    b"uid=4294967295",
];

/// Changes `input` in one way.
pub(crate) fn mutate(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    match random.below(10) {
        0 => flip(random, input),
        1 => overwrite(random, input),
        2 => duplicate_blocks(random, input),
        3 => remove_blocks(random, input),
        4 => splice(random, input, random_blocks),
        5 => splice_from(random, input, corpus),
        6 => truncate(random, input),
        7 => pax(random, input),
        _ => field(random, input),
    }
    input.truncate(MAX_INPUT);
}

fn flip(random: &mut Random, input: &mut [u8]) {
    if input.is_empty() {
        return;
    }
    let at = random.below(input.len());
    input[at] ^= 1 << random.below(8);
    if random.below(2) == 0 {
        fix(input, at / BLOCK);
    }
}

fn overwrite(random: &mut Random, input: &mut [u8]) {
    let at = random.below(input.len());
    let text = random.pick(TEXTS);
    for (place, byte) in input.iter_mut().skip(at).zip(text.iter()) {
        *place = *byte;
    }
    fix(input, at / BLOCK);
}

fn range(random: &mut Random, input: &[u8]) -> std::ops::Range<usize> {
    let blocks = input.len() / BLOCK;
    let first = random.below(blocks);
    let count = 1 + random.below(blocks.saturating_sub(first).min(8));
    let end = ((first + count) * BLOCK).min(input.len());
    (first * BLOCK).min(end)..end
}

fn duplicate_blocks(random: &mut Random, input: &mut Vec<u8>) {
    let piece = input[range(random, input)].to_vec();
    let at = range(random, input).start;
    input.splice(at..at, piece);
}

fn remove_blocks(random: &mut Random, input: &mut Vec<u8>) {
    let range = range(random, input);
    input.drain(range);
}

fn random_blocks(random: &mut Random) -> Vec<u8> {
    let value = if random.below(2) == 0 { 0 } else { random.byte() };
    vec![value; (1 + random.below(4)) * BLOCK]
}

fn splice(random: &mut Random, input: &mut Vec<u8>, make: fn(&mut Random) -> Vec<u8>) {
    let at = range(random, input).start;
    let piece = make(random);
    input.splice(at..at, piece);
}

fn splice_from(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let other = random.pick(corpus);
    let piece = other[range(random, other)].to_vec();
    let at = range(random, input).start;
    input.splice(at..at, piece);
}

fn truncate(random: &mut Random, input: &mut Vec<u8>) {
    if random.below(4) == 0 {
        let length = random.below(input.len());
        input.truncate(length);
    }
}

/// Changes a field of a header and corrects the checksum.
fn field(random: &mut Random, input: &mut [u8]) {
    let headers: Vec<usize> = (0..input.len() / BLOCK)
        .filter(|block| &input[block * BLOCK + 257..block * BLOCK + 262] == b"ustar")
        .collect();
    if headers.is_empty() {
        return;
    }
    let block = *random.pick(&headers);
    let (offset, length) = *random.pick(FIELDS);
    let start = block * BLOCK + offset;
    if offset == 156 {
        input[start] = *random.pick(FLAGS);
    } else if random.below(3) == 0 && headers.len() > 1 {
        let other = *random.pick(&headers) * BLOCK + offset;
        input.copy_within(other..other + length, start);
    } else {
        let text = random.pick(TEXTS);
        let places = &mut input[start..start + length];
        places.fill(0);
        for (place, byte) in places.iter_mut().zip(text.iter()) {
            *place = *byte;
        }
    }
    fix(input, block);
}

/// Puts a PAX header with random records before a block.
fn pax(random: &mut Random, input: &mut Vec<u8>) {
    let mut records = Vec::new();
    for _ in 0..=random.below(6) {
        let body = random.pick(RECORDS);
        let mut length = body.len() + 3;
        if length >= 10 {
            length += 1;
        }
        records.extend_from_slice(length.to_string().as_bytes());
        records.push(b' ');
        records.extend_from_slice(body);
        records.push(b'\n');
    }
    let mut blocks = vec![0; BLOCK];
    blocks[..4].copy_from_slice(b"pax\0");
    blocks[124..135].copy_from_slice(format!("{:011o}", records.len()).as_bytes());
    blocks[156] = b'x';
    blocks[257..265].copy_from_slice(b"ustar\x0000");
    fix(&mut blocks, 0);
    blocks.extend_from_slice(&records);
    blocks.resize(blocks.len().next_multiple_of(BLOCK), 0);
    let at = range(random, input).start;
    input.splice(at..at, blocks);
}

/// Corrects the checksum of a block.
fn fix(input: &mut [u8], block: usize) {
    let Some(block) = input.get_mut(block * BLOCK..(block + 1) * BLOCK) else { return };
    block[148..156].fill(b' ');
    let sum: u32 = block.iter().map(|&byte| u32::from(byte)).sum();
    block[148..155].copy_from_slice(format!("{sum:06o}\0").as_bytes());
}

/// Changes a text in place: takes a piece out, or puts in a byte, a piece of another or one of `words`.
pub(crate) fn text(random: &mut Random, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&str]) {
    const LONGEST: usize = 4096;
    let at = random.below(input.len() + 1);
    let end = at + random.below((input.len() - at).min(40) + 1);
    let new: Vec<u8> = match random.below(6) {
        0 => Vec::new(),
        1 => vec![random.byte()],
        2 => {
            let other = random.pick(corpus);
            let from = random.below(other.len() + 1);
            other[from..from + random.below(other.len() - from + 1)].to_vec()
        }
        _ => random.pick(words).as_bytes().to_vec(),
    };
    let end = if random.below(2) == 0 { at } else { end };
    input.splice(at..end, new);
    input.truncate(LONGEST);
}
