//! The daemon's command line, read as dockerd reads it (pflag's rules and words).

use std::fmt::Write as _;

use super::check;
use super::keys::{KEYS, Key, Kind, Slot, parse_bool};

/// The flags that were given, in the order of their names.
#[derive(Debug, Default)]
pub(crate) struct Flags {
    given: Vec<Given>,
}

/// A flag that was given, with all its values.
#[derive(Debug)]
pub(crate) struct Given {
    pub(crate) key: &'static Key,
    pub(crate) values: Vec<String>,
}

/// Why a command line was refused.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum UsageError {
    #[error("unknown flag: --{name}{SEE}")]
    Unknown { name: String },
    #[error("unknown shorthand flag: '{letter}' in -{group}{SEE}")]
    UnknownShort { letter: char, group: String },
    #[error("flag needs an argument: {flag}{SEE}")]
    NeedsValue { flag: String },
    #[error("invalid argument {value:?} for \"{flag}\" flag: {reason}{SEE}")]
    Value { value: String, flag: String, reason: String },
    #[error("bad flag syntax: {text}{SEE}")]
    Syntax { text: String },
    #[error("\"berth daemon\" accepts no arguments.{SEE}")]
    Argument,
}

const SEE: &str = "\nSee 'berth daemon --help'.";

impl Flags {
    /// Reads the arguments after `berth daemon`.
    pub(crate) fn parse(args: &[String]) -> Result<Self, UsageError> {
        let mut flags = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            if let Some(long) = arg.strip_prefix("--") {
                if long.is_empty() {
                    if args.next().is_some() {
                        return Err(UsageError::Argument);
                    }
                    break;
                }
                flags.long(arg, long, &mut args)?;
            } else if let Some(group) = arg.strip_prefix('-').filter(|group| !group.is_empty()) {
                flags.short(group, &mut args)?;
            } else {
                return Err(UsageError::Argument);
            }
        }
        flags.given.sort_by_key(|given| given.key.flag);
        Ok(flags)
    }

    /// The flags that were given, in the order of their names.
    pub(crate) fn given(&self) -> &[Given] {
        &self.given
    }

    /// Whether this flag was given.
    pub(crate) fn is_given(&self, flag: &str) -> bool {
        self.given.iter().any(|given| given.key.flag == flag)
    }

    fn long<'a>(
        &mut self,
        arg: &str,
        long: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), UsageError> {
        if long.starts_with(['-', '=']) {
            return Err(UsageError::Syntax { text: arg.to_owned() });
        }
        let (name, value) = match long.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (long, None),
        };
        let key = KEYS
            .iter()
            .find(|key| !key.flag.is_empty() && key.flag == name)
            .ok_or_else(|| UsageError::Unknown { name: name.to_owned() })?;
        let value = match value {
            Some(value) => value,
            None if key.kind() == Kind::Bool => "true".to_owned(),
            None => {
                rest.next().cloned().ok_or(UsageError::NeedsValue { flag: format!("--{name}") })?
            }
        };
        self.add(key, value)
    }

    fn short<'a>(
        &mut self,
        group: &str,
        rest: &mut impl Iterator<Item = &'a String>,
    ) -> Result<(), UsageError> {
        for (at, letter) in group.char_indices() {
            let key = KEYS
                .iter()
                .find(|key| key.short == Some(letter))
                .ok_or_else(|| UsageError::UnknownShort { letter, group: group.to_owned() })?;
            let after = &group[at + letter.len_utf8()..];
            if let Some(value) = after.strip_prefix('=') {
                return self.add(key, value.to_owned());
            }
            if key.kind() == Kind::Bool {
                self.add(key, "true".to_owned())?;
                continue;
            }
            let value = if after.is_empty() {
                rest.next()
                    .cloned()
                    .ok_or(UsageError::NeedsValue { flag: format!("'{letter}' in -{group}") })?
            } else {
                after.to_owned()
            };
            return self.add(key, value);
        }
        Ok(())
    }

    fn add(&mut self, key: &'static Key, value: String) -> Result<(), UsageError> {
        if let Some(reason) = refusal(key, &value) {
            return Err(UsageError::Value { value, flag: shown_name(key), reason });
        }
        let at = self.given.iter().position(|given| given.key.flag == key.flag);
        match at {
            Some(at) => self.given[at].values.push(value),
            None => self.given.push(Given { key, values: vec![value] }),
        }
        Ok(())
    }
}

impl Given {
    /// What `pflag` prints as the flag's value.
    pub(crate) fn go_display(&self) -> String {
        let last = self.values.last().cloned().unwrap_or_default();
        match self.key.kind() {
            Kind::Bool => parse_bool(&last).map_or(last, |value| value.to_string()),
            Kind::Size => super::keys::parse_size(&last).map_or(last, |size| size.to_string()),
            Kind::Int | Kind::Text => last,
            Kind::List => format!("[{}]", self.values.join(" ")),
            Kind::Map => {
                let mut pairs: Vec<_> =
                    self.values.iter().map(|value| value.replacen('=', ":", 1)).collect();
                pairs.sort();
                format!("map[{}]", pairs.join(" "))
            }
        }
    }
}

/// Why the flag does not take this value.
fn refusal(key: &Key, value: &str) -> Option<String> {
    match (key.kind(), key.slot) {
        (Kind::Bool, _) if parse_bool(value).is_none() => {
            Some(format!("strconv.ParseBool: parsing {value:?}: invalid syntax"))
        }
        (Kind::Int, _) if value.parse::<i64>().is_err() => {
            Some(format!("strconv.ParseInt: parsing {value:?}: invalid syntax"))
        }
        (Kind::Size, _) => super::keys::parse_size(value).err().map(|error| chain(&error)),
        (_, Slot::Ulimits(_)) => check::parse_ulimit(value).err().map(|error| chain(&error)),
        _ => check::flag_value(key.flag, value).err().map(|error| chain(&error)),
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    berth_types::kind::chain(error)
}

fn shown_name(key: &Key) -> String {
    match key.short {
        Some(letter) => format!("-{letter}, --{}", key.flag),
        None => format!("--{}", key.flag),
    }
}

/// The text of `berth daemon --help`.
pub(crate) fn help() -> String {
    let mut text =
        String::from("Usage:  berth daemon [OPTIONS]\n\nRun the container engine.\n\nOptions:\n");
    let mut keys: Vec<_> = KEYS
        .iter()
        .filter(|key| !key.flag.is_empty() && !matches!(key.slot, Slot::Refused(_)))
        .collect();
    keys.sort_by_key(|key| key.flag);
    for key in keys {
        let letter = key.short.map_or_else(|| "    ".to_owned(), |letter| format!("-{letter}, "));
        let kind = match key.kind() {
            Kind::Bool => "",
            Kind::Int => " int",
            Kind::Size => " bytes",
            Kind::Text => " string",
            Kind::List => " list",
            Kind::Map => " map",
        };
        let left = format!("  {letter}--{}{kind}", key.flag);
        writeln!(text, "{left:<42}  {}", key.help).expect("writing to memory");
    }
    text.push_str(
        "\nExamples:\n  berth daemon\n  berth daemon --data-root /srv/berth -H unix:///run/berth.sock \
         -H tcp://127.0.0.1:2375\n  berth daemon --validate --config-file /etc/berth/daemon.json\n",
    );
    text
}
