//! Storage options as text: `--storage-opt` of the daemon and of a container.

use berth_types::size;

use crate::StorageError;

/// Splits a daemon's `key=value` at the first `=`; keys are lower-cased.
pub(crate) fn key_value(option: &str) -> Result<(String, &str), StorageError> {
    let Some((key, value)) = option.split_once('=') else {
        return Err(StorageError::Option(format!("Unable to parse key/value option: {option}")));
    };
    Ok((key.trim().to_lowercase(), value.trim()))
}

/// Go's `strconv.ParseBool`, which Docker reads options with.
pub(crate) fn parse_bool(text: &str) -> Result<bool, StorageError> {
    match text {
        "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(true),
        "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(false),
        _ => Err(StorageError::Option(format!(
            "strconv.ParseBool: parsing {}: invalid syntax",
            go_quote(text)
        ))),
    }
}

/// Go's `strconv.ParseUint` of decimal numbers up to `most`.
pub(crate) fn parse_uint(text: &str, most: u64) -> Result<u64, StorageError> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<u64>() {
        Ok(number) if digits && number <= most => Ok(number),
        _ => Err(not_a_number("ParseUint", text, digits)),
    }
}

/// Go's `strconv.ParseInt` of decimal numbers of 32 bits.
pub(crate) fn parse_int(text: &str) -> Result<i64, StorageError> {
    let digits = text.strip_prefix(['+', '-']).unwrap_or(text);
    let digits = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    match text.parse::<i32>() {
        Ok(number) if digits => Ok(number.into()),
        _ => Err(not_a_number("ParseInt", text, digits)),
    }
}

fn not_a_number(function: &str, text: &str, digits: bool) -> StorageError {
    let why = if digits { "value out of range" } else { "invalid syntax" };
    StorageError::Option(format!("strconv.{function}: parsing {}: {why}", go_quote(text)))
}

/// Docker's `RAMInBytes`, for an option.
pub(crate) fn parse_size(text: &str) -> Result<i64, StorageError> {
    size::parse_ram(text).map_err(|error| StorageError::Option(error.to_string()))
}

/// Text as Go's `%q` prints it, as far as option values go.
fn go_quote(text: &str) -> String {
    let mut quoted = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            '\n' => quoted.push_str("\\n"),
            '\t' => quoted.push_str("\\t"),
            c => quoted.push(c),
        }
    }
    quoted.push('"');
    quoted
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_split_as_docker_splits_them() {
        #[rustfmt::skip]
        let table = [
            ("overlay2.size=1G",       "overlay2.size", "1G"),
            (" Overlay2.Size = a=b ",  "overlay2.size", "a=b"),
            ("=",                      "",              ""),
        ];
        for (text, key, value) in table {
            assert_eq!(key_value(text).unwrap(), (key.to_owned(), value), "{text}");
        }
        let error = key_value("foo").unwrap_err();
        assert_eq!(error.to_string(), "Unable to parse key/value option: foo");
    }

    #[test]
    fn numbers_are_gos() {
        #[rustfmt::skip]
        let table = [
            ("7",           Ok(7)),
            ("007",         Ok(7)),
            ("+7",          Err("strconv.ParseUint: parsing \"+7\": invalid syntax")),
            ("",            Err("strconv.ParseUint: parsing \"\": invalid syntax")),
            ("11",          Err("strconv.ParseUint: parsing \"11\": value out of range")),
            ("99999999999999999999", Err("strconv.ParseUint: parsing \"99999999999999999999\": value out of range")),
        ];
        for (text, expected) in table {
            let got = parse_uint(text, 10).map_err(|error| error.to_string());
            assert_eq!(got, expected.map_err(str::to_owned), "{text}");
        }
        assert_eq!(parse_int("-7").unwrap(), -7);
        let error = parse_int("2147483648").unwrap_err();
        let text = "strconv.ParseInt: parsing \"2147483648\": value out of range";
        assert_eq!(error.to_string(), text);
    }

    #[test]
    fn booleans_are_gos() {
        for (text, expected) in [("1", true), ("True", true), ("F", false), ("false", false)] {
            assert_eq!(parse_bool(text).unwrap(), expected, "{text}");
        }
        for (text, quoted) in [("x", "x"), ("", ""), ("tRUE", "tRUE"), ("a\"b", "a\\\"b")] {
            assert_eq!(
                parse_bool(text).unwrap_err().to_string(),
                format!("strconv.ParseBool: parsing \"{quoted}\": invalid syntax")
            );
        }
    }
}
