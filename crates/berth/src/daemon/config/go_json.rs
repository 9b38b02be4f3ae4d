//! JSON as Go's `encoding/json` reads it, with Go's words for what is wrong.
//!
//! Administrators search the web for these messages, so they are Go's to the letter. Only the
//! configuration file is read with this; everything else uses `serde_json`.

use std::fmt::Write as _;

/// A JSON value; objects keep the order of the file.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Json {
    Null,
    Bool(bool),
    /// As written.
    Number(String),
    Text(String),
    List(Vec<Self>),
    Map(Vec<(String, Self)>),
}

impl Json {
    /// The word of Go's type errors.
    pub(crate) fn go_kind(&self) -> &'static str {
        match self {
            Self::Null => "null",
            Self::Bool(_) => "bool",
            Self::Number(_) => "number",
            Self::Text(_) => "string",
            Self::List(_) => "array",
            Self::Map(_) => "object",
        }
    }

    /// What Go's `%v` prints for the value after it was read into an `interface{}`.
    pub(crate) fn go_display(&self) -> String {
        match self {
            Self::Null => "<nil>".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(text) => go_float(text),
            Self::Text(text) => text.clone(),
            Self::List(items) => {
                let items: Vec<_> = items.iter().map(Self::go_display).collect();
                format!("[{}]", items.join(" "))
            }
            Self::Map(entries) => {
                let mut pairs: Vec<_> =
                    entries.iter().map(|(key, value)| (key, value.go_display())).collect();
                pairs.sort();
                let pairs: Vec<_> =
                    pairs.into_iter().map(|(key, value)| format!("{key}:{value}")).collect();
                format!("map[{}]", pairs.join(" "))
            }
        }
    }
}

/// A number as `%v` prints a `float64`.
fn go_float(text: &str) -> String {
    let value: f64 = text.parse().unwrap_or(f64::NAN);
    if value == 0.0 || (1e-4..1e6).contains(&value.abs()) {
        return value.to_string();
    }
    let text = format!("{value:e}");
    let Some((mantissa, exponent)) = text.split_once('e') else { return text };
    let (sign, digits) = match exponent.strip_prefix('-') {
        Some(digits) => ('-', digits),
        None => ('+', exponent),
    };
    format!("{mantissa}e{sign}{digits:0>2}")
}

/// Why a text is not JSON.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SyntaxError {
    #[error("invalid character {} {context}", quote(*.byte))]
    Character { byte: u8, context: String },
    #[error("unexpected end of JSON input")]
    End,
    #[error("exceeded max depth")]
    Depth,
}

/// A byte as Go quotes it in these messages.
fn quote(byte: u8) -> String {
    match byte {
        b'\'' => r"'\''".to_owned(),
        b'"' => "'\"'".to_owned(),
        b'\\' => r"'\\'".to_owned(),
        b'\n' => r"'\n'".to_owned(),
        b'\r' => r"'\r'".to_owned(),
        b'\t' => r"'\t'".to_owned(),
        0x07 => r"'\a'".to_owned(),
        0x08 => r"'\b'".to_owned(),
        0x0b => r"'\v'".to_owned(),
        0x0c => r"'\f'".to_owned(),
        0..0x20 | 0x7f => format!("'\\x{byte:02x}'"),
        0x80..=0xa0 | 0xad => format!("'\\u{byte:04x}'"),
        _ => format!("'{}'", char::from(byte)),
    }
}

/// Nesting that is still read. Go's own limit is 10,000.
const MAX_DEPTH: usize = 500;

/// Reads one JSON value and nothing after it.
pub(crate) fn parse(text: &str) -> Result<Json, SyntaxError> {
    let mut scanner = Scanner { bytes: text.as_bytes(), at: 0, depth: 0 };
    let value = scanner.value()?;
    scanner.skip_space();
    match scanner.peek() {
        None => Ok(value),
        Some(byte) => Err(wrong(byte, "after top-level value")),
    }
}

fn wrong(byte: u8, context: impl Into<String>) -> SyntaxError {
    SyntaxError::Character { byte, context: context.into() }
}

#[derive(Debug)]
struct Scanner<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

impl Scanner<'_> {
    fn peek(&self) -> Option<u8> {
        self.bytes.get(self.at).copied()
    }

    fn next(&mut self) -> Result<u8, SyntaxError> {
        let byte = self.peek().ok_or(SyntaxError::End)?;
        self.at += 1;
        Ok(byte)
    }

    fn skip_space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.at += 1;
        }
    }

    fn next_visible(&mut self) -> Result<u8, SyntaxError> {
        self.skip_space();
        self.next()
    }

    fn value(&mut self) -> Result<Json, SyntaxError> {
        match self.next_visible()? {
            b'{' => self.nested(Self::object),
            b'[' => self.nested(Self::array),
            b'"' => self.string().map(Json::Text),
            b't' => self.literal("true").map(|()| Json::Bool(true)),
            b'f' => self.literal("false").map(|()| Json::Bool(false)),
            b'n' => self.literal("null").map(|()| Json::Null),
            byte @ (b'-' | b'0'..=b'9') => self.number(byte),
            byte => Err(wrong(byte, "looking for beginning of value")),
        }
    }

    fn nested(
        &mut self,
        read: fn(&mut Self) -> Result<Json, SyntaxError>,
    ) -> Result<Json, SyntaxError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(SyntaxError::Depth);
        }
        let value = read(self);
        self.depth -= 1;
        value
    }

    fn object(&mut self) -> Result<Json, SyntaxError> {
        let mut entries = Vec::new();
        let mut byte = self.next_visible()?;
        if byte == b'}' {
            return Ok(Json::Map(entries));
        }
        loop {
            if byte != b'"' {
                return Err(wrong(byte, "looking for beginning of object key string"));
            }
            let key = self.string()?;
            match self.next_visible()? {
                b':' => {}
                other => return Err(wrong(other, "after object key")),
            }
            let value = self.value()?;
            entries.retain(|(earlier, _)| *earlier != key);
            entries.push((key, value));
            match self.next_visible()? {
                b',' => byte = self.next_visible()?,
                b'}' => return Ok(Json::Map(entries)),
                other => return Err(wrong(other, "after object key:value pair")),
            }
        }
    }

    fn array(&mut self) -> Result<Json, SyntaxError> {
        let mut items = Vec::new();
        self.skip_space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(Json::List(items));
        }
        loop {
            items.push(self.value()?);
            match self.next_visible()? {
                b',' => {}
                b']' => return Ok(Json::List(items)),
                other => return Err(wrong(other, "after array element")),
            }
        }
    }

    fn literal(&mut self, word: &str) -> Result<(), SyntaxError> {
        for expected in word.bytes().skip(1) {
            let byte = self.next()?;
            if byte != expected {
                let expected = char::from(expected);
                return Err(wrong(byte, format!("in literal {word} (expecting '{expected}')")));
            }
        }
        Ok(())
    }

    fn number(&mut self, first: u8) -> Result<Json, SyntaxError> {
        let start = self.at - 1;
        let leading = if first == b'-' { self.next()? } else { first };
        match leading {
            b'0' => {}
            b'1'..=b'9' => self.skip_digits(),
            byte => return Err(wrong(byte, "in numeric literal")),
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digit("after decimal point in numeric literal")?;
            self.skip_digits();
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digit("in exponent of numeric literal")?;
            self.skip_digits();
        }
        let text = self.bytes[start..self.at].iter().map(|byte| char::from(*byte)).collect();
        Ok(Json::Number(text))
    }

    fn skip_digits(&mut self) {
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
    }

    fn digit(&mut self, context: &str) -> Result<(), SyntaxError> {
        let byte = self.next()?;
        if byte.is_ascii_digit() { Ok(()) } else { Err(wrong(byte, context)) }
    }

    /// The rest of a string whose opening quote is read.
    fn string(&mut self) -> Result<String, SyntaxError> {
        let mut units: Vec<u8> = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Ok(String::from_utf8_lossy(&units).into_owned()),
                b'\\' => self.escape(&mut units)?,
                byte @ 0..0x20 => return Err(wrong(byte, "in string literal")),
                byte => units.push(byte),
            }
        }
    }

    fn escape(&mut self, into: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let plain = match self.next()? {
            byte @ (b'"' | b'\\' | b'/') => byte,
            b'b' => 0x08,
            b'f' => 0x0c,
            b'n' => b'\n',
            b'r' => b'\r',
            b't' => b'\t',
            b'u' => return self.unicode(into),
            byte => return Err(wrong(byte, "in string escape code")),
        };
        into.push(plain);
        Ok(())
    }

    fn unicode(&mut self, into: &mut Vec<u8>) -> Result<(), SyntaxError> {
        let first = self.hex4()?;
        let mut units = vec![first];
        if (0xd800..0xdc00).contains(&first) && self.bytes[self.at..].starts_with(b"\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex4()?;
            if (0xdc00..0xe000).contains(&second) {
                units.push(second);
            } else {
                self.at = back;
            }
        }
        into.extend_from_slice(String::from_utf16_lossy(&units).as_bytes());
        Ok(())
    }

    fn hex4(&mut self) -> Result<u16, SyntaxError> {
        let mut value = 0;
        for _ in 0..4 {
            let byte = self.next()?;
            let Some(digit) = char::from(byte).to_digit(16) else {
                return Err(wrong(byte, "in \\u hexadecimal character escape"));
            };
            value = value << 4 | u16::try_from(digit).expect("a hexadecimal digit is below 16");
        }
        Ok(value)
    }
}

/// The bytes of a configuration file as text: UTF-8, with or without its mark, or UTF-16 with one.
pub(crate) fn decode(bytes: &[u8]) -> Result<String, String> {
    let utf16 = |bytes: &[u8], unit: fn([u8; 2]) -> u16| {
        let units: Vec<u16> = bytes
            .chunks(2)
            .map(|pair| if let [a, b] = *pair { unit([a, b]) } else { 0xfffd })
            .collect();
        String::from_utf16_lossy(&units)
    };
    match bytes {
        [0xff, 0xfe, rest @ ..] => return Ok(utf16(rest, u16::from_le_bytes)),
        [0xfe, 0xff, rest @ ..] => return Ok(utf16(rest, u16::from_be_bytes)),
        _ => {}
    }
    let rest = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
    match std::str::from_utf8(rest) {
        Ok(text) => Ok(text.to_owned()),
        Err(error) => {
            let mut text = String::from("failed to decode configuration JSON at offset ");
            let offset = error.valid_up_to() + bytes.len() - rest.len();
            write!(text, "{offset}: encoding: invalid UTF-8").expect("writing to memory");
            Err(text)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_json_is_reported_in_gos_words() {
        #[rustfmt::skip]
        let table = [
            (r#"{"a":1,}"#,             "invalid character '}' looking for beginning of object key string"),
            (r#"{"a":"b" "c":1}"#,      "invalid character '\"' after object key:value pair"),
            (r#"{"debug" true}"#,       "invalid character 't' after object key"),
            ("{'a':1}",                 r"invalid character '\'' looking for beginning of object key string"),
            ("{debug:true}",            "invalid character 'd' looking for beginning of object key string"),
            (r#"{"a":xyz}"#,            "invalid character 'x' looking for beginning of value"),
            (r#"{"debug":tru}"#,        "invalid character '}' in literal true (expecting 'e')"),
            (r#"{"debug":nul}"#,        "invalid character '}' in literal null (expecting 'l')"),
            (r#"{"a":[1,]}"#,           "invalid character ']' looking for beginning of value"),
            (r#"{"a":[1 2]}"#,          "invalid character '2' after array element"),
            (r#"{"a":01}"#,             "invalid character '1' after object key:value pair"),
            (r#"{"a":-x}"#,             "invalid character 'x' in numeric literal"),
            (r#"{"a":1.}"#,             "invalid character '}' after decimal point in numeric literal"),
            (r#"{"a":1e}"#,             "invalid character '}' in exponent of numeric literal"),
            ("{\"a\":\"x\ny\"}",        r"invalid character '\n' in string literal"),
            (r#"{"a":"\q"}"#,           "invalid character 'q' in string escape code"),
            (r#"{"a":"\u00g0"}"#,       "invalid character 'g' in \\u hexadecimal character escape"),
            (r#"{"a":1"#,               "unexpected end of JSON input"),
            (r#"{"a":"b"#,              "unexpected end of JSON input"),
            ("{",                       "unexpected end of JSON input"),
            ("{} x",                    "invalid character 'x' after top-level value"),
            ("{\u{1}}",                 r"invalid character '\x01' looking for beginning of object key string"),
            ("{é}",                     "invalid character 'Ã' looking for beginning of object key string"),
        ];
        for (text, message) in table {
            assert_eq!(parse(text).unwrap_err().to_string(), message, "{text}");
        }
        assert_eq!(parse(&"[".repeat(100_000)), Err(SyntaxError::Depth));
    }

    #[test]
    fn values_are_read_and_printed_as_go_does() {
        #[rustfmt::skip]
        let table = [
            ("null",                                   "<nil>"),
            (" true ",                                 "true"),
            ("10000000",                               "1e+07"),
            ("1.5",                                    "1.5"),
            ("-0.00001",                               "-1e-05"),
            (r#""a\u00e9\ud83d\ude00\n""#,             "aé😀\n"),
            (r#"["a", "b"]"#,                          "[a b]"),
            (r#"{"k":"v","a":[1,{}]}"#,                "map[a:[1 map[]] k:v]"),
        ];
        for (text, shown) in table {
            assert_eq!(parse(text).unwrap().go_display(), shown, "{text}");
        }
    }

    #[test]
    fn byte_order_marks_are_understood() {
        let utf16: Vec<u8> = [0xff, 0xfe]
            .into_iter()
            .chain("{}".encode_utf16().flat_map(u16::to_le_bytes))
            .collect();
        assert_eq!(decode(&utf16), Ok("{}".to_owned()));
        assert_eq!(decode(b"\xef\xbb\xbf{}"), Ok("{}".to_owned()));
        assert_eq!(
            decode(b"{\"a\":\"\xff\"}"),
            Err("failed to decode configuration JSON at offset 6: encoding: invalid UTF-8".into())
        );
    }
}
