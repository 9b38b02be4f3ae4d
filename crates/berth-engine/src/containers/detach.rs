//! The keys by which a client leaves an attachment without ending the container.

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::error::ContainerError;

/// `ctrl-p,ctrl-q`.
const DEFAULT: &[u8] = &[16, 17];

/// A sequence of keys as the bytes that a terminal sends for them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DetachKeys(Vec<u8>);

impl DetachKeys {
    /// Reads `ctrl-x,y,ctrl-[`; empty for Docker's default.
    pub(crate) fn parse(text: &str) -> Result<Self, ContainerError> {
        if text.is_empty() {
            return Ok(Self(DEFAULT.to_vec()));
        }
        let bad = || ContainerError::DetachKeys { keys: text.to_owned() };
        text.split(',').map(|key| byte_of(key).ok_or_else(bad)).collect::<Result<_, _>>().map(Self)
    }
}

fn byte_of(key: &str) -> Option<u8> {
    if let [byte] = key.as_bytes() {
        return Some(*byte);
    }
    match key.strip_prefix("ctrl-")?.as_bytes() {
        [letter @ b'a'..=b'z'] => Some(letter - b'a' + 1),
        [b'@'] => Some(0),
        [b'['] => Some(27),
        [b'\\'] => Some(28),
        [b']'] => Some(29),
        [b'^'] => Some(30),
        [b'_'] => Some(31),
        _ => None,
    }
}

/// Copies input until its end or until the keys come: true when they did. The keys themselves
/// are not passed on; a beginning of them that goes on otherwise is.
pub(crate) async fn copy(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    keys: Option<DetachKeys>,
) -> bool {
    let keys = keys.map(|keys| keys.0).unwrap_or_default();
    let mut matched = 0;
    let mut buffer = vec![0; 16 << 10];
    let mut passed = Vec::new();
    loop {
        let count = match from.read(&mut buffer).await {
            Ok(0) | Err(_) => return false,
            Ok(count) => count,
        };
        passed.clear();
        let left = scan(&buffer[..count], &keys, &mut matched, &mut passed);
        if to.write_all(&passed).await.is_err() {
            // Nobody reads stdin any more; go on so that the keys still work.
            passed.clear();
        }
        if left {
            return true;
        }
    }
}

/// Moves `input` to `passed` but for a (beginning of the) key sequence; true when it is complete.
fn scan(input: &[u8], keys: &[u8], matched: &mut usize, passed: &mut Vec<u8>) -> bool {
    if keys.is_empty() {
        passed.extend_from_slice(input);
        return false;
    }
    for &byte in input {
        if byte == keys[*matched] {
            *matched += 1;
            if *matched == keys.len() {
                return true;
            }
            continue;
        }
        passed.extend_from_slice(&keys[..*matched]);
        *matched = usize::from(byte == keys[0] && keys.len() > 1);
        if *matched == 0 {
            passed.push(byte);
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn key_sequences() {
        #[rustfmt::skip]
        let table: &[(&str, Option<&[u8]>)] = &[
            ("",              Some(&[16, 17])),
            ("ctrl-a",        Some(&[1])),
            ("a,ctrl-[,z",    Some(b"a\x1bz")),
            ("ctrl-@",        Some(&[0])),
            ("ctrl-A",        None),
            ("ab",            None),
            ("a,,b",          None),
        ];
        for (text, keys) in table {
            assert_eq!(DetachKeys::parse(text).ok().map(|k| k.0).as_deref(), *keys, "{text:?}");
        }
    }

    #[test]
    fn input_is_passed_on_up_to_the_keys() {
        type Case = (&'static [&'static [u8]], &'static [u8], bool);
        #[rustfmt::skip]
        let table: &[Case] = &[
            (&[b"abc"],                 b"abc",       false),
            (&[b"a\x10\x11b"],          b"a",         true),
            (&[b"a\x10", b"\x11"],      b"a",         true),
            (&[b"\x10x\x11"],           b"\x10x\x11", false),
            (&[b"\x10\x10\x11"],        b"\x10",      true),
        ];
        for (chunks, expected, left) in table {
            let (mut matched, mut passed) = (0, Vec::new());
            let got = chunks.iter().any(|chunk| scan(chunk, DEFAULT, &mut matched, &mut passed));
            assert_eq!((passed.as_slice(), got), (*expected, *left), "{chunks:?}");
        }
    }
}
