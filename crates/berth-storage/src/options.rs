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
