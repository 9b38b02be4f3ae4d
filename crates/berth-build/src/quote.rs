//! Values as Go prints them with `%q` and `%v`: they stand in images' histories.

use berth_api::container::HealthConfig;
use berth_types::duration::format_go;

/// A text in double quotes.
pub(crate) fn text(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        push(&mut out, c, '"');
    }
    out.push('"');
    out
}

/// A number as the character of that number, in single quotes.
fn character(number: i64) -> String {
    let c = u32::try_from(number).ok().and_then(char::from_u32).unwrap_or('\u{fffd}');
    let mut out = String::from("'");
    push(&mut out, c, '\'');
    out.push('\'');
    out
}

fn push(out: &mut String, c: char, quote: char) {
    match c {
        c if c == quote || c == '\\' => out.extend(['\\', c]),
        '\u{7}' => out.push_str("\\a"),
        '\u{8}' => out.push_str("\\b"),
        '\u{c}' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\u{b}' => out.push_str("\\v"),
        c if c.is_ascii_control() => out.extend(["\\x", &format!("{:02x}", u32::from(c))]),
        c if c.is_control() => out.extend(["\\u", &format!("{:04x}", u32::from(c))]),
        c => out.push(c),
    }
}

/// `["a" "b"]`.
pub(crate) fn list(words: &[String]) -> String {
    let words: Vec<String> = words.iter().map(|word| text(word)).collect();
    format!("[{}]", words.join(" "))
}

/// A health check as Docker 28 prints the Go structure, its fields without names.
pub(crate) fn health(health: &HealthConfig) -> String {
    let times = [health.interval, health.timeout, health.start_period, health.start_interval];
    let times: Vec<String> = times.iter().map(|time| text(&format_go(*time))).collect();
    format!("&{{{} {} {}}}", list(&health.test), times.join(" "), character(health.retries))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quotes_are_those_of_go() {
        #[rustfmt::skip]
        let table = [
            ("",            r#""""#),
            ("a b",         r#""a b""#),
            ("a\"b\\'",     r#""a\"b\\'""#),
            ("\n\t\u{1}é",  r#""\n\t\x01é""#),
            ("\u{85}",      r#""\u0085""#),
        ];
        for (given, expected) in table {
            assert_eq!(text(given), expected);
        }
        let check = HealthConfig {
            test: vec!["CMD-SHELL".to_owned(), "x y".to_owned()].into(),
            interval: 90_000_000_000,
            retries: 3,
            ..HealthConfig::default()
        };
        assert_eq!(health(&check), r#"&{["CMD-SHELL" "x y"] "1m30s" "0s" "0s" "0s" '\x03'}"#);
        assert_eq!(
            (character(65), character(39), character(-1)),
            ("'A'".into(), r"'\''".into(), "'\u{fffd}'".into())
        );
    }
}
