//! PAX records: `LENGTH KEY=VALUE\n`, LENGTH counting the whole record.

use crate::tar::entry::{Entry, Time};
use crate::tar::header::Reason;
use crate::tar::sparse::PaxSparse;

const XATTR: &[u8] = b"SCHILY.xattr.";

/// What the PAX header before an entry says about it.
#[derive(Debug, Default)]
pub(super) struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<Time>,
    atime: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(super) sparse: PaxSparse,
}

impl Pax {
    /// Reads all records of one header.
    pub(super) fn parse(mut rest: &[u8]) -> Result<Self, Reason> {
        let mut pax = Self::default();
        while !rest.is_empty() {
            let (key, value, tail) = record(rest)?;
            pax.take(key, value)?;
            rest = tail;
        }
        Ok(pax)
    }

    fn take(&mut self, key: &[u8], value: &[u8]) -> Result<(), Reason> {
        // An empty value takes an earlier record back.
        let text = (!value.is_empty()).then_some(value);
        match key {
            b"path" => self.path = text.map(name).transpose()?,
            b"linkpath" => self.link = text.map(name).transpose()?,
            b"size" => self.size = text.map(decimal).transpose()?,
            b"uid" => self.uid = text.map(decimal).transpose()?,
            b"gid" => self.gid = text.map(decimal).transpose()?,
            b"mtime" => self.mtime = text.map(time).transpose()?,
            b"atime" => self.atime = text.map(time).transpose()?,
            _ => {
                if let Some(attribute) = key.strip_prefix(XATTR) {
                    self.xattrs.retain(|(known, _)| known != attribute);
                    self.xattrs.push((attribute.to_vec(), value.to_vec()));
                } else if let Some(field) = key.strip_prefix(b"GNU.sparse.") {
                    self.sparse.take(field, value)?;
                }
            }
        }
        Ok(())
    }

    /// Lets the records override the header's fields.
    pub(super) fn apply(&mut self, entry: &mut Entry) {
        if let Some(path) = self.path.take() {
            entry.path = path;
        }
        if let Some(link) = self.link.take() {
            entry.link = link;
        }
        entry.size = self.size.unwrap_or(entry.size);
        entry.uid = self.uid.unwrap_or(entry.uid);
        entry.gid = self.gid.unwrap_or(entry.gid);
        entry.mtime = self.mtime.unwrap_or(entry.mtime);
        entry.atime = self.atime.or(entry.atime);
        entry.xattrs.append(&mut self.xattrs);
    }
}

/// A key, its value, and the records after it.
type Split<'a> = (&'a [u8], &'a [u8], &'a [u8]);

/// Splits the first record off.
fn record(bytes: &[u8]) -> Result<Split<'_>, Reason> {
    const BAD: Reason = "a PAX record is malformed";
    let space = bytes.iter().take(20).position(|&byte| byte == b' ').ok_or(BAD)?;
    let length = decimal(&bytes[..space]).ok().ok_or(BAD)?;
    let length = usize::try_from(length).ok().ok_or(BAD)?;
    if length < space + 3 || length > bytes.len() {
        return Err(BAD);
    }
    let (record, rest) = bytes.split_at(length);
    let (body, end) = record[space + 1..].split_at(length - space - 2);
    let equals = body.iter().position(|&byte| byte == b'=').ok_or(BAD)?;
    let key = &body[..equals];
    if end != b"\n" || key.is_empty() || key.contains(&0) {
        return Err(BAD);
    }
    Ok((key, &body[equals + 1..], rest))
}

fn name(value: &[u8]) -> Result<Vec<u8>, Reason> {
    if value.contains(&0) { Err("a PAX name contains a NUL") } else { Ok(value.to_vec()) }
}

/// A decimal number without sign.
pub(super) fn decimal(value: &[u8]) -> Result<u64, Reason> {
    const BAD: Reason = "a PAX number is malformed";
    if value.is_empty() || !value.iter().all(u8::is_ascii_digit) {
        return Err(BAD);
    }
    let text = std::str::from_utf8(value).ok().ok_or(BAD)?;
    let number: u64 = text.parse().ok().ok_or(BAD)?;
    if i64::try_from(number).is_err() { Err(BAD) } else { Ok(number) }
}

/// Seconds since 1970 with an optional sign and fraction; digits below nanoseconds are dropped.
fn time(value: &[u8]) -> Result<Time, Reason> {
    const BAD: Reason = "a PAX time is malformed";
    let text = std::str::from_utf8(value).ok().ok_or(BAD)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let negative = whole.starts_with('-');
    let digits = whole.strip_prefix('-').unwrap_or(whole);
    if digits.is_empty() && fraction.is_empty()
        || !digits.bytes().chain(fraction.bytes()).all(|digit| digit.is_ascii_digit())
    {
        return Err(BAD);
    }
    let seconds: i64 = if digits.is_empty() { 0 } else { digits.parse().ok().ok_or(BAD)? };
    let mut nanos = 0;
    for at in 0..9 {
        let digit = fraction.as_bytes().get(at).map_or(0, |digit| digit - b'0');
        nanos = nanos * 10 + u32::from(digit);
    }
    Ok(match (negative, nanos) {
        (false, nanos) => Time { seconds, nanos },
        (true, 0) => Time { seconds: -seconds, nanos: 0 },
        (true, nanos) => Time { seconds: -seconds - 1, nanos: 1_000_000_000 - nanos },
    })
}

/// Appends one record.
pub(super) fn write_record(out: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let body = key.len() + value.len() + 3;
    let mut length = body + digits(body);
    if digits(length) != digits(body) {
        length = body + digits(length);
    }
    out.extend_from_slice(length.to_string().as_bytes());
    out.push(b' ');
    out.extend_from_slice(key);
    out.push(b'=');
    out.extend_from_slice(value);
    out.push(b'\n');
}

fn digits(number: usize) -> usize {
    number.checked_ilog10().map_or(1, |log| log as usize + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_have_the_length_they_state() {
        for length in 0..2000 {
            let mut out = Vec::new();
            write_record(&mut out, b"path", &vec![b'x'; length]);
            let (key, value, rest) = record(&out).unwrap();
            assert_eq!((key, value.len(), rest), (&b"path"[..], length, &b""[..]));
        }
    }

    #[test]
    fn malformed_records_are_refused() {
        #[rustfmt::skip]
        let table: &[&[u8]] = &[
            b"x", b"5", b"0 a=b\n", b"6 a=b", b"7 a=b\n", b"5 a=b\n", b"6 abb\n", b"5 =b\n",
            b"99999999999999999999999 a=b\n", b"6 \0=b\n", b"4 a\n", b"-6 a=b\n", b"3 \n",
        ];
        for bytes in table {
            assert!(record(bytes).is_err(), "{bytes:?}");
        }
        assert!(Pax::parse(b"11 path=a\0b\n").is_err());
        assert!(Pax::parse(b"11 size=-12\n").is_err());
    }

    #[test]
    fn times() {
        let at = |seconds, nanos| Ok(Time { seconds, nanos });
        #[rustfmt::skip]
        let table: &[(&str, Result<Time, Reason>)] = &[
            ("1350244992",             at(1_350_244_992, 0)),
            ("1350244992.023960108",   at(1_350_244_992, 23_960_108)),
            ("1350244992.0239601089",  at(1_350_244_992, 23_960_108)),
            ("1350244992.3",           at(1_350_244_992, 300_000_000)),
            ("-1.5",                   at(-2, 500_000_000)),
            ("-1",                     at(-1, 0)),
            ("",                       Err("a PAX time is malformed")),
            (".",                      Err("a PAX time is malformed")),
            ("1.x",                    Err("a PAX time is malformed")),
            ("99999999999999999999",   Err("a PAX time is malformed")),
        ];
        for (text, expected) in table {
            assert_eq!(&time(text.as_bytes()), expected, "{text}");
        }
    }
}
