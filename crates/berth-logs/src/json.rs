//! One log line as JSON, byte for byte as Docker's `jsonlog` package writes it.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Write as _;

use berth_types::Timestamp;
use serde::Deserialize;

use crate::{Entry, Stream};

/// Appends the record of one line, with its newline.
pub(crate) fn encode(out: &mut Vec<u8>, line: &[u8], stream: Stream, attrs: &str, time: Timestamp) {
    out.push(b'{');
    if !line.is_empty() {
        out.extend_from_slice(b"\"log\":");
        encode_string(out, line);
        out.push(b',');
    }
    out.extend_from_slice(b"\"stream\":\"");
    out.extend_from_slice(stream.as_str().as_bytes());
    out.push(b'"');
    if !attrs.is_empty() {
        out.extend_from_slice(b",\"attrs\":");
        out.extend_from_slice(attrs.as_bytes());
    }
    let mut end = String::with_capacity(48);
    writeln!(end, ",\"time\":\"{time}\"}}").expect("a String takes all that is written");
    out.extend_from_slice(end.as_bytes());
}

/// The attributes as Go's `json.Marshal` writes a map; empty for none.
pub(crate) fn encode_attrs(attrs: &BTreeMap<String, String>) -> String {
    if attrs.is_empty() {
        return String::new();
    }
    let mut out = Vec::new();
    for (index, (key, value)) in attrs.iter().enumerate() {
        out.push(if index == 0 { b'{' } else { b',' });
        encode_string(&mut out, key.as_bytes());
        out.push(b':');
        encode_string(&mut out, value.as_bytes());
    }
    out.push(b'}');
    String::from_utf8(out).expect("escaped UTF-8 stays UTF-8")
}

/// Go's escapes: control characters, `<`, `>`, `&`, U+2028, U+2029; what is not UTF-8 becomes
/// U+FFFD, one for each byte.
fn encode_string(out: &mut Vec<u8>, bytes: &[u8]) {
    out.push(b'"');
    for chunk in bytes.utf8_chunks() {
        encode_text(out, chunk.valid());
        for _ in chunk.invalid() {
            out.extend_from_slice(b"\\ufffd");
        }
    }
    out.push(b'"');
}

fn encode_text(out: &mut Vec<u8>, text: &str) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let bytes = text.as_bytes();
    let mut plain_from = 0;
    let mut at = 0;
    while at < bytes.len() {
        let byte = bytes[at];
        let separator = byte == 0xe2
            && bytes.get(at + 1) == Some(&0x80)
            && matches!(bytes.get(at + 2), Some(0xa8 | 0xa9));
        if !separator && (byte >= 0x20 && !matches!(byte, b'\\' | b'"' | b'<' | b'>' | b'&')) {
            at += 1;
            continue;
        }
        out.extend_from_slice(&bytes[plain_from..at]);
        if separator {
            out.extend_from_slice(if bytes[at + 2] == 0xa8 { b"\\u2028" } else { b"\\u2029" });
            at += 3;
        } else {
            match byte {
                b'\\' | b'"' => out.extend_from_slice(&[b'\\', byte]),
                b'\n' => out.extend_from_slice(b"\\n"),
                b'\r' => out.extend_from_slice(b"\\r"),
                _ => {
                    out.extend_from_slice(b"\\u00");
                    out.push(HEX[usize::from(byte >> 4)]);
                    out.push(HEX[usize::from(byte & 15)]);
                }
            }
            at += 1;
        }
        plain_from = at;
    }
    out.extend_from_slice(&bytes[plain_from..]);
}

#[derive(Deserialize)]
struct Record<'a> {
    #[serde(borrow, default)]
    log: Cow<'a, str>,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    time: Timestamp,
    #[serde(default)]
    attrs: BTreeMap<String, String>,
}

/// Reads a record; `None` when it is not one (torn by a crash, or zeroes after a power cut).
pub(crate) fn decode(line: &[u8]) -> Option<Entry> {
    let record: Record<'_> = serde_json::from_slice(line).ok()?;
    let stream = match record.stream.as_ref() {
        "stdout" => Stream::Stdout,
        "stderr" => Stream::Stderr,
        _ => return None,
    };
    let line = record.log.into_owned().into_bytes();
    Some(Entry { stream, time: record.time, line, attrs: record.attrs })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_escaped_as_docker_escapes_them() {
        #[rustfmt::skip]
        let table: &[(&[u8], &str)] = &[
            (b"plain\n",                  r#""plain\n""#),
            (b"tab\tbell\x07",            r#""tab\u0009bell\u0007""#),
            (b"a\\b\"c\r",                r#""a\\b\"c\r""#),
            (b"<b>&",                     r#""\u003cb\u003e\u0026""#),
            ("é\u{2028}x\u{2029}".as_bytes(), r#""é\u2028x\u2029""#),
            (b"bad\xff\xfe!",             r#""bad\ufffd\ufffd!""#),
            (b"cut\xe2\x82",              r#""cut\ufffd\ufffd""#),
            (b"del\x7f",                  "\"del\x7f\""),
        ];
        for (input, expected) in table {
            let mut out = Vec::new();
            encode_string(&mut out, input);
            assert_eq!(String::from_utf8(out).unwrap(), *expected, "{input:?}");
        }
    }

    #[test]
    fn a_record_has_dockers_key_order_and_reads_back() {
        let time = Timestamp::from_unix(1_700_000_000, 120_000_000).unwrap();
        let attrs = BTreeMap::from([("b".to_owned(), "<2>".to_owned()), ("a".into(), "1".into())]);
        let mut out = Vec::new();
        encode(&mut out, b"hi\n", Stream::Stderr, &encode_attrs(&attrs), time);
        let text = String::from_utf8(out).unwrap();
        assert_eq!(
            text,
            "{\"log\":\"hi\\n\",\"stream\":\"stderr\",\"attrs\":{\"a\":\"1\",\"b\":\"\\u003c2\\u003e\"},\
             \"time\":\"2023-11-14T22:13:20.12Z\"}\n"
        );
        let entry = Entry { stream: Stream::Stderr, time, line: b"hi\n".to_vec(), attrs };
        assert_eq!(decode(text.trim_end().as_bytes()), Some(entry));
    }

    #[test]
    fn torn_records_are_not_records() {
        for torn in ["", "{\"log\":\"x", "\0\0\0", "[]", "{\"log\":\"x\",\"stream\":\"stdin\"}"] {
            assert_eq!(decode(torn.as_bytes()), None, "{torn:?}");
        }
    }
}
