//! The fixed fields of a header block.

use crate::tar::BLOCK;
use crate::tar::entry::{Entry, Kind, Time};

/// Why a header block is none; completed by the reader with the place.
pub(super) type Reason = &'static str;

/// Which family a header belongs to; it decides what the end of the block means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    V7,
    Ustar,
    Star,
    Gnu,
}

pub(super) const TYPE_FLAG: usize = 156;

pub(super) fn is_zero(block: &[u8; BLOCK]) -> bool {
    *block == [0; BLOCK]
}

/// The bytes before the first NUL.
pub(super) fn text(field: &[u8]) -> &[u8] {
    let end = field.iter().position(|&byte| byte == 0).unwrap_or(field.len());
    &field[..end]
}

fn octal(field: &[u8]) -> Result<i64, Reason> {
    let padding = |byte: &u8| matches!(byte, b' ' | 0);
    let start = field.iter().position(|byte| !padding(byte)).unwrap_or(field.len());
    let end = field.iter().rposition(|byte| !padding(byte)).map_or(start, |last| last + 1);
    let mut value: i64 = 0;
    for &digit in text(&field[start..end]) {
        if !(b'0'..=b'7').contains(&digit) {
            return Err("a number has a character that is no octal digit");
        }
        value = value
            .checked_mul(8)
            .and_then(|value| value.checked_add(i64::from(digit - b'0')))
            .ok_or("a number is too large")?;
    }
    Ok(value)
}

/// A number in octal, or in base 256 when its first bit is set (negative ones then have all the
/// leading bits set).
pub(super) fn number(field: &[u8]) -> Result<i64, Reason> {
    let Some(&first) = field.first() else { return Ok(0) };
    if first & 0x80 == 0 {
        return octal(field);
    }
    let negative = first & 0x40 != 0;
    let invert = if negative { 0xff } else { 0 };
    let mut value: u64 = 0;
    for (at, &byte) in field.iter().enumerate() {
        let mut byte = byte ^ invert;
        if at == 0 {
            byte &= 0x7f;
        }
        if value >> 56 != 0 {
            return Err("a number is too large");
        }
        value = value << 8 | u64::from(byte);
    }
    let value = i64::try_from(value).ok().ok_or("a number is too large")?;
    Ok(if negative { !value } else { value })
}

fn unsigned(field: &[u8], reason: Reason) -> Result<u64, Reason> {
    u64::try_from(number(field)?).ok().ok_or(reason)
}

fn checksum_matches(block: &[u8; BLOCK]) -> Result<bool, Reason> {
    let stated = octal(&block[148..156])?;
    let mut unsigned: i64 = 0;
    let mut signed: i64 = 0;
    for (at, &byte) in block.iter().enumerate() {
        let byte = if (148..156).contains(&at) { b' ' } else { byte };
        unsigned += i64::from(byte);
        signed += i64::from(byte.cast_signed());
    }
    Ok(stated == unsigned || stated == signed)
}

fn format(block: &[u8; BLOCK]) -> Format {
    match &block[257..265] {
        b"ustar  \0" => Format::Gnu,
        magic if &magic[..6] == b"ustar\0" => {
            if &block[508..] == b"tar\0" {
                Format::Star
            } else {
                Format::Ustar
            }
        }
        _ => Format::V7,
    }
}

fn kind(flag: u8, path: &[u8]) -> Kind {
    match flag {
        0 if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' | b'S' => Kind::File,
        b'1' => Kind::HardLink,
        b'2' => Kind::Symlink,
        b'3' => Kind::CharDevice,
        b'4' => Kind::BlockDevice,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'g' => Kind::Global,
        other => Kind::Other(other),
    }
}

/// Settles what the entry is, once its final name is known.
pub(super) fn set_kind(entry: &mut Entry, flag: u8) {
    entry.kind = kind(flag, &entry.path);
}

/// Reads a header block into `entry`; its type flag is settled later by [`set_kind`].
pub(super) fn parse(block: &[u8; BLOCK], entry: &mut Entry) -> Result<Format, Reason> {
    if !checksum_matches(block)? {
        return Err("the checksum does not match");
    }
    let format = format(block);
    entry.clear();
    // Go keeps any bits; what is above the permissions is the file type of old writers.
    entry.mode = u32::try_from(number(&block[100..108])? & 0o7777).unwrap_or(0);
    entry.uid = unsigned(&block[108..116], "the owner is negative")?;
    entry.gid = unsigned(&block[116..124], "the group is negative")?;
    entry.size = unsigned(&block[124..136], "the size is negative")?;
    entry.mtime = Time { seconds: number(&block[136..148])?, nanos: 0 };
    entry.link.extend_from_slice(text(&block[157..257]));
    if format != Format::V7 {
        let part = |field: &[u8]| {
            u32::try_from(number(field)?).ok().ok_or("a device number is out of range")
        };
        entry.device = (part(&block[329..337])?, part(&block[337..345])?);
    }
    let prefix = match format {
        Format::V7 => &[][..],
        Format::Ustar => text(&block[345..500]),
        Format::Star => text(&block[345..476]),
        // Go before 1.8 wrote a prefix into GNU headers, where two times belong.
        Format::Gnu if number(&block[345..357]).and(number(&block[357..369])).is_err() => {
            let prefix = text(&block[345..500]);
            if prefix.is_ascii() { prefix } else { &[] }
        }
        Format::Gnu => &[],
    };
    if !prefix.is_empty() {
        entry.path.extend_from_slice(prefix);
        entry.path.push(b'/');
    }
    entry.path.extend_from_slice(text(&block[..100]));
    Ok(format)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers() {
        let mut big = [0; 12];
        big[0] = 0x80;
        big[11] = 7;
        big[10] = 1;
        #[rustfmt::skip]
        let table: &[(&[u8], Result<i64, Reason>)] = &[
            (b"0000644\0",  Ok(0o644)),
            (b"   644 \0",  Ok(0o644)),
            (b"644     ",   Ok(0o644)),
            (b"\0\0\0\0",   Ok(0)),
            (b"12\x0034\0", Ok(0o12)),
            (b"0000648\0",  Err("a number has a character that is no octal digit")),
            (b"-1\0",       Err("a number has a character that is no octal digit")),
            (b"7777777777777777777777777", Err("a number is too large")),
            (&big,          Ok(263)),
            (&[0xff; 12],   Ok(-1)),
            (&[0xff, 0xfe], Ok(-2)),
            (&[0x80, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err("a number is too large")),
            (&[0x80, 1, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff], Err("a number is too large")),
        ];
        for (field, expected) in table {
            assert_eq!(&number(field), expected, "{field:?}");
        }
    }
}
