//! Sizes as Docker prints and reads them.

use crate::{Classify, ErrorKind};

/// Why a size was refused.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SizeError {
    #[error("invalid size: '{text}'")]
    Invalid { text: String },
}

impl Classify for SizeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Invalid { .. } => ErrorKind::InvalidParameter,
        }
    }
}

const DECIMAL: [&str; 9] = ["B", "kB", "MB", "GB", "TB", "PB", "EB", "ZB", "YB"];
const BINARY: [&str; 9] = ["B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB", "ZiB", "YiB"];

/// Decimal units, four significant digits: `65.54kB`.
pub fn human(bytes: f64) -> String {
    with_unit(bytes, 1000.0, &DECIMAL, 4)
}

/// Decimal units, three significant digits, as in the tables of the CLI: `65.5kB`.
pub fn human_short(bytes: f64) -> String {
    with_unit(bytes, 1000.0, &DECIMAL, 3)
}

/// Binary units, four significant digits: `15.5GiB`.
pub fn binary(bytes: f64) -> String {
    with_unit(bytes, 1024.0, &BINARY, 4)
}

fn with_unit(mut size: f64, base: f64, units: &[&str], digits: usize) -> String {
    let mut unit = 0;
    while size >= base && unit < units.len() - 1 {
        size /= base;
        unit += 1;
    }
    significant(size, digits) + units[unit]
}

/// C's and Go's `%.<digits>g`.
fn significant(value: f64, digits: usize) -> String {
    let scientific = format!("{value:.*e}", digits - 1);
    let (mantissa, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or(0);
    let digits = i32::try_from(digits).unwrap_or(i32::MAX);
    if exponent < -4 || exponent >= digits {
        let sign = if exponent < 0 { '-' } else { '+' };
        return format!("{}e{sign}{:02}", trim_zeros(mantissa), exponent.abs());
    }
    let decimals = usize::try_from(digits - 1 - exponent).unwrap_or(0);
    trim_zeros(&format!("{value:.decimals$}")).to_owned()
}

fn trim_zeros(number: &str) -> &str {
    if number.contains('.') { number.trim_end_matches('0').trim_end_matches('.') } else { number }
}

/// Reads `512`, `1.5g`, `64MiB`, `10 kb` in binary multiples, whatever the unit says.
pub fn parse_ram(text: &str) -> Result<i64, SizeError> {
    parse(text, 1024.0)
}

/// Reads the same forms in decimal multiples.
pub fn parse_human(text: &str) -> Result<i64, SizeError> {
    parse(text, 1000.0)
}

fn parse(text: &str, base: f64) -> Result<i64, SizeError> {
    let bad = || SizeError::Invalid { text: text.to_owned() };
    let end = text.find(|c: char| !(c.is_ascii_digit() || c == '.')).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let starts_well = number.starts_with(|c: char| c.is_ascii_digit());
    if !starts_well || number.ends_with('.') {
        return Err(bad());
    }
    let number: f64 = number.parse().map_err(|_err| bad())?;
    let unit = unit.strip_prefix(' ').unwrap_or(unit).to_ascii_lowercase();
    let unit = unit.strip_suffix('b').unwrap_or(&unit);
    let unit = unit.strip_suffix('i').unwrap_or(unit);
    let power = match unit {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(bad()),
    };
    let bytes = number * base.powi(power);
    #[expect(clippy::cast_precision_loss, reason = "the limit is a power of two")]
    if bytes >= i64::MAX as f64 {
        return Err(bad());
    }
    #[expect(clippy::cast_possible_truncation, reason = "checked above; fractions of a byte go")]
    Ok(bytes as i64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_printed_as_docker_does() {
        #[rustfmt::skip]
        let table = [
            // bytes              human        short      binary
            (0.0,                 "0B",        "0B",      "0B"),
            (1.0,                 "1B",        "1B",      "1B"),
            (999.0,               "999B",      "999B",    "999B"),
            (1000.0,              "1kB",       "1kB",     "1000B"),
            (1023.0,              "1.023kB",   "1.02kB",  "1023B"),
            (1024.0,              "1.024kB",   "1.02kB",  "1KiB"),
            (65_540.0,            "65.54kB",   "65.5kB",  "64KiB"),
            (999_900.0,           "999.9kB",   "1e+03kB", "976.5KiB"),
            (1_048_576.0,         "1.049MB",   "1.05MB",  "1MiB"),
            (3_420_000.0,         "3.42MB",    "3.42MB",  "3.262MiB"),
            (16_642_998_272.0,    "16.64GB",   "16.6GB",  "15.5GiB"),
            (1e18,                "1EB",       "1EB",     "888.2PiB"),
        ];
        for (bytes, long, short, bin) in table {
            let got = (human(bytes), human_short(bytes), binary(bytes));
            assert_eq!(got, (long.to_owned(), short.to_owned(), bin.to_owned()), "{bytes}");
        }
    }

    #[test]
    fn sizes_are_read() {
        #[rustfmt::skip]
        let table: &[(&str, Option<i64>)] = &[
            ("32",     Some(32)),
            ("32b",    Some(32)),
            ("32B",    Some(32)),
            ("32k",    Some(32 << 10)),
            ("32Kb",   Some(32 << 10)),
            ("32KiB",  Some(32 << 10)),
            ("32 MB",  Some(32 << 20)),
            ("1.5g",   Some(3 << 29)),
            ("32tb",   Some(32 << 40)),
            ("1p",     Some(1 << 50)),
            ("64mi",   Some(64 << 20)),
            ("",       None),
            ("hello",  None),
            ("-32",    None),
            (" 32 ",   None),
            ("32  mb", None),
            ("32mm",   None),
            ("32bb",   None),
            ("32e",    None),
            ("1.2.3",  None),
            (".3kB",   None),
            ("1.",     None),
            ("9999999p", None),
        ];
        for (text, expected) in table {
            let expected = expected.ok_or_else(|| SizeError::Invalid { text: (*text).to_owned() });
            assert_eq!(parse_ram(text), expected, "{text:?}");
        }
        assert_eq!(parse_human("1.5MB"), Ok(1_500_000));
    }
}
