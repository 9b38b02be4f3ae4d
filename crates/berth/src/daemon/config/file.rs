//! `daemon.json`: reading it, and its conflicts with the command line.

use std::io;

use super::Config;
use super::check::{self, ValueError};
use super::flags::Flags;
use super::go_json::{self, Json, SyntaxError};
use super::keys::{KEYS, Key, Kind, Slot, parse_size};

/// Why the file was refused.
#[derive(Debug, thiserror::Error)]
pub(crate) enum FileError {
    #[error("open {path}: {reason}")]
    Open { path: String, reason: String },
    #[error("{0}")]
    Encoding(String),
    #[error(transparent)]
    Syntax(#[from] SyntaxError),
    #[error("json: cannot unmarshal {kind} into Go value of type map[string]interface {{}}")]
    NotAnObject { kind: &'static str },
    #[error("the following directives don't match any configuration option: {}", .keys.join(", "))]
    Unknown { keys: Vec<String> },
    #[error(
        "the following directives are specified both as a flag and in the configuration file: {}",
        .conflicts.join(", ")
    )]
    Conflicts { conflicts: Vec<String> },
    #[error("json: cannot unmarshal {kind} into Go struct field Config.{key} of type {expected}")]
    Type { kind: String, key: String, expected: &'static str },
    #[error("{key} is not supported by this version of berth")]
    Unsupported { key: String },
    #[error(transparent)]
    Value(ValueError),
}

/// Objects that are one setting, not a group of settings.
const WHOLE: &[&str] = &[
    "cluster-store-opts",
    "default-network-opts",
    "log-opts",
    "runtimes",
    "default-ulimits",
    "features",
    "builder",
];

/// Takes over what the file says and gives its keys; `Ok(None)` when there is none and none was
/// named.
pub(crate) fn apply(
    config: &mut Config,
    path: &str,
    named: bool,
    flags: &Flags,
) -> Result<Option<Vec<&'static str>>, FileError> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !named => return Ok(None),
        Err(error) => {
            return Err(FileError::Open { path: path.to_owned(), reason: go_reason(&error) });
        }
    };
    let text = go_json::decode(&bytes).map_err(FileError::Encoding)?;
    if text.trim().is_empty() {
        return Ok(Some(Vec::new()));
    }
    let entries = match go_json::parse(&text)? {
        Json::Map(entries) => flatten(entries),
        Json::Null => return Ok(Some(Vec::new())),
        other => return Err(FileError::NotAnObject { kind: other.go_kind() }),
    };
    let settings = known(&entries)?;
    find_conflicts(&entries, flags)?;
    let keys = settings.iter().map(|(key, _)| key.json).collect();
    for (key, value) in settings {
        set(config, key, value)?;
    }
    Ok(Some(keys))
}

/// An error of the system in Go's words, without the number.
fn go_reason(error: &io::Error) -> String {
    let text = error.to_string();
    let text = text.split(" (os error").next().unwrap_or(&text);
    let mut chars = text.chars();
    chars.next().map_or_else(String::new, |first| first.to_lowercase().chain(chars).collect())
}

/// Settings in groups count as if they stood alone.
fn flatten(entries: Vec<(String, Json)>) -> Vec<(String, Json)> {
    let mut flat = Vec::new();
    for (key, value) in entries {
        match value {
            Json::Map(inner) if !WHOLE.contains(&key.as_str()) => flat.extend(inner),
            value => flat.push((key, value)),
        }
    }
    flat
}

fn known(entries: &[(String, Json)]) -> Result<Vec<(&'static Key, &Json)>, FileError> {
    let mut settings = Vec::new();
    let mut unknown = Vec::new();
    for (name, value) in entries {
        match KEYS.iter().find(|key| !key.json.is_empty() && key.json == name) {
            Some(key) => settings.push((key, value)),
            None => unknown.push(name.clone()),
        }
    }
    if unknown.is_empty() { Ok(settings) } else { Err(FileError::Unknown { keys: unknown }) }
}

fn find_conflicts(entries: &[(String, Json)], flags: &Flags) -> Result<(), FileError> {
    let mut conflicts = Vec::new();
    for given in flags.given() {
        let name = given.key.json;
        if name.is_empty() || name == "runtimes" {
            continue;
        }
        if let Some((_, value)) = entries.iter().find(|(key, _)| key == name) {
            let (flag, file) = (given.go_display(), value.go_display());
            conflicts.push(format!("{name}: (from flag: {flag}, from file: {file})"));
        }
    }
    if conflicts.is_empty() { Ok(()) } else { Err(FileError::Conflicts { conflicts }) }
}

fn set(config: &mut Config, key: &Key, value: &Json) -> Result<(), FileError> {
    if *value == Json::Null {
        return Ok(());
    }
    check_type(key, value)?;
    if key.is_refused_in_file(value) {
        return Err(FileError::Unsupported { key: key.json.to_owned() });
    }
    // A zero value in the file is Go's "not said": the default or the flag stands.
    match (key.slot, value) {
        (Slot::Bool(field), Json::Bool(value)) => *field(config) = *value,
        (Slot::Int(field), Json::Number(text)) => {
            let value = integer(key, text)?;
            if value != 0 {
                *field(config) = value;
            }
        }
        (Slot::Size(field), Json::Number(text) | Json::Text(text)) => {
            let value = parse_size(text).map_err(FileError::Value)?;
            if value != 0 {
                *field(config) = value;
            }
        }
        (Slot::Text(field), Json::Text(text)) if !text.is_empty() => field(config).clone_from(text),
        (Slot::List(field), Json::List(items)) if !items.is_empty() => {
            *field(config) = items.iter().map(Json::go_display).collect();
        }
        (Slot::Map(field), Json::Map(entries)) if !entries.is_empty() => {
            *field(config) =
                entries.iter().map(|(key, value)| (key.clone(), value.go_display())).collect();
        }
        (Slot::Ulimits(field), Json::Map(entries)) if !entries.is_empty() => {
            let limits: Result<_, _> =
                entries.iter().map(|(name, value)| ulimit(key, name, value)).collect();
            *field(config) = limits?;
        }
        _ => {}
    }
    Ok(())
}

fn wrong_type(key: &str, kind: impl Into<String>, expected: &'static str) -> FileError {
    FileError::Type { kind: kind.into(), key: key.to_owned(), expected }
}

fn check_type(key: &Key, value: &Json) -> Result<(), FileError> {
    let wrong = |expected| Err(wrong_type(key.json, value.go_kind(), expected));
    match (key.kind(), value) {
        (Kind::Int, Json::Number(text)) => integer(key, text).map(|_| ()),
        (Kind::List, Json::List(items)) if matches!(key.slot, Slot::List(_)) => {
            match items.iter().find(|item| !matches!(item, Json::Text(_))) {
                Some(item) => Err(wrong_type(key.json, item.go_kind(), "string")),
                None => Ok(()),
            }
        }
        (Kind::Map, Json::Map(entries)) if matches!(key.slot, Slot::Map(_)) => {
            match entries.iter().find(|(_, value)| !matches!(value, Json::Text(_))) {
                Some((_, value)) => Err(wrong_type(key.json, value.go_kind(), "string")),
                None => Ok(()),
            }
        }
        (Kind::Bool, Json::Bool(_))
        | (Kind::Size, Json::Number(_) | Json::Text(_))
        | (Kind::Text, Json::Text(_))
        | (Kind::List, Json::List(_))
        | (Kind::Map, Json::Map(_)) => Ok(()),
        (Kind::Bool, _) => wrong("bool"),
        (Kind::Int, _) => wrong("int"),
        (Kind::Size, _) => wrong("opts.MemBytes"),
        (Kind::Text, _) => wrong("string"),
        (Kind::List, _) => wrong("[]string"),
        (Kind::Map, _) => wrong("map[string]string"),
    }
}

fn integer(key: &Key, text: &str) -> Result<i64, FileError> {
    text.parse().map_err(|_unread| wrong_type(key.json, format!("number {text}"), "int"))
}

/// `"nofile": {"Name": "nofile", "Hard": 64000, "Soft": 64000}`.
fn ulimit(key: &Key, name: &str, value: &Json) -> Result<(String, (i64, i64)), FileError> {
    let Json::Map(fields) = value else {
        return Err(wrong_type(key.json, value.go_kind(), "units.Ulimit"));
    };
    let (mut soft, mut hard) = (0, 0);
    for (field, value) in fields {
        match (field.to_ascii_lowercase().as_str(), value) {
            ("name", Json::Text(inner)) if inner == name => {}
            ("soft", Json::Number(text)) => soft = integer(key, text)?,
            ("hard", Json::Number(text)) => hard = integer(key, text)?,
            ("name" | "soft" | "hard", _) => {
                return Err(FileError::Value(ValueError::Ulimit { text: name.to_owned() }));
            }
            _ => return Err(FileError::Unknown { keys: vec![format!("{}.{field}", key.json)] }),
        }
    }
    check::ulimit(name, soft, hard).map_err(FileError::Value)?;
    Ok((name.to_owned(), (soft, hard)))
}
