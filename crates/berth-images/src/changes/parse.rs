//! From the text of the changes to instructions.

use super::{ChangesError, HealthFlags, health, words};

use berth_api::container::HealthConfig;

/// One instruction, its arguments not expanded yet.
#[derive(Debug)]
pub(super) enum Instruction {
    Cmd(Arguments),
    Entrypoint(Arguments),
    Env(Vec<KeyValue>),
    Expose(Vec<String>),
    Healthcheck(HealthConfig),
    Label(Vec<KeyValue>),
    Onbuild(String),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// `name=value`.
#[derive(Debug)]
pub(super) struct KeyValue {
    pub(super) key: String,
    pub(super) value: String,
}

/// A JSON array's items, or the whole text as one.
#[derive(Debug)]
pub(super) struct Arguments {
    pub(super) words: Vec<String>,
    pub(super) is_json: bool,
}

/// Splits the text into lines, joins continued ones, and reads each instruction.
pub(super) fn parse(text: &str) -> Result<Vec<Instruction>, ChangesError> {
    let lines = logical_lines(text);
    if lines.is_empty() {
        return Err(ChangesError::Empty);
    }
    // Syntax is looked at before names, as Docker does: its parser runs over the whole first.
    lines.iter().map(|line| instruction(line)).collect()
}

fn logical_lines(text: &str) -> Vec<String> {
    let mut lines = Vec::new();
    let mut raw = text.trim_start_matches('\u{feff}').lines();
    while let Some(first) = raw.next() {
        let first = first.trim_start();
        if first.is_empty() || first.starts_with('#') {
            continue;
        }
        let (mut line, mut goes_on) = continuation(first);
        while goes_on {
            let Some(next) = raw.next() else { break };
            if next.trim().is_empty() || next.trim_start().starts_with('#') {
                continue;
            }
            let (part, more) = continuation(next);
            line.push_str(&part);
            goes_on = more;
        }
        if !line.trim().is_empty() {
            lines.push(line);
        }
    }
    lines
}

/// The line without a backslash at its end that continues it, and whether there was one.
fn continuation(line: &str) -> (String, bool) {
    let trimmed = line.trim_end_matches([' ', '\t']);
    match trimmed.strip_suffix('\\') {
        Some(kept) if !kept.ends_with('\\') => (kept.to_owned(), true),
        _ => (line.to_owned(), false),
    }
}

fn instruction(line: &str) -> Result<Instruction, ChangesError> {
    let line = line.trim();
    let (name, rest) = line.split_once(is_blank).unwrap_or((line, ""));
    let (flags, rest) = split_flags(rest.trim_start_matches(is_blank));
    let lower = name.to_lowercase();
    if lower != "healthcheck" {
        refuse_flags(&flags)?;
    }
    Ok(match lower.as_str() {
        "cmd" => Instruction::Cmd(maybe_json(rest)?),
        "entrypoint" => Instruction::Entrypoint(maybe_json(rest)?),
        "env" => Instruction::Env(pairs("ENV", rest)?),
        "label" => Instruction::Label(pairs("LABEL", rest)?),
        "expose" => {
            let mut ports = fields(rest);
            if ports.is_empty() {
                return Err(ChangesError::AtLeastOne { name: "EXPOSE" });
            }
            ports.sort();
            Instruction::Expose(ports)
        }
        "healthcheck" => Instruction::Healthcheck(healthcheck(&flags, rest)?),
        "onbuild" => onbuild(rest)?,
        "stopsignal" => Instruction::StopSignal(single("STOPSIGNAL", rest)?),
        "user" => Instruction::User(single("USER", rest)?),
        "volume" => volume(rest)?,
        "workdir" => Instruction::Workdir(single("WORKDIR", rest)?),
        _ => return Err(ChangesError::NotAChange { name: name.to_owned() }),
    })
}

fn is_blank(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\u{b}' | '\u{c}' | '\r')
}

fn fields(text: &str) -> Vec<String> {
    text.split(is_blank).filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// Takes the words that begin with `--` off the front.
fn split_flags(mut rest: &str) -> (Vec<String>, &str) {
    let mut flags = Vec::new();
    while rest.starts_with("--") {
        let end = rest.find(is_blank).unwrap_or(rest.len());
        let (flag, tail) = rest.split_at(end);
        rest = tail.trim_start_matches(is_blank);
        if flag == "--" {
            break;
        }
        flags.push(flag.to_owned());
    }
    (flags, rest.trim_end())
}

fn refuse_flags(flags: &[String]) -> Result<(), ChangesError> {
    match flags.first() {
        None => Ok(()),
        Some(flag) => {
            let name = flag.trim_start_matches("--").split('=').next().unwrap_or_default();
            Err(ChangesError::UnknownFlag { flag: name.to_owned() })
        }
    }
}

/// A JSON array of strings; anything else is one word. `None` when it only looks like JSON.
fn json_array(text: &str) -> Result<Option<Vec<String>>, ChangesError> {
    if !text.trim_start().starts_with('[') {
        return Ok(None);
    }
    let Ok(items) = serde_json::from_str::<Vec<serde_json::Value>>(text) else { return Ok(None) };
    items
        .into_iter()
        .map(|item| match item {
            serde_json::Value::String(text) => Ok(text),
            _ => Err(ChangesError::NotStrings),
        })
        .collect::<Result<Vec<_>, _>>()
        .map(Some)
}

fn maybe_json(text: &str) -> Result<Arguments, ChangesError> {
    if let Some(words) = json_array(text)? {
        return Ok(Arguments { words, is_json: true });
    }
    let words = if text.is_empty() { Vec::new() } else { vec![text.to_owned()] };
    Ok(Arguments { words, is_json: false })
}

fn single(name: &'static str, text: &str) -> Result<String, ChangesError> {
    if text.is_empty() { Err(ChangesError::ExactlyOne { name }) } else { Ok(text.to_owned()) }
}

fn pairs(name: &'static str, text: &str) -> Result<Vec<KeyValue>, ChangesError> {
    let words = words::split(text);
    let Some(first) = words.first() else { return Err(ChangesError::AtLeastOne { name }) };
    if !first.contains('=') {
        // The old form: the name, then everything else as its value.
        let Some((key, value)) = text.split_once(is_blank) else {
            return Err(ChangesError::TwoArguments { name });
        };
        let value = value.trim_start_matches(is_blank).to_owned();
        return Ok(vec![KeyValue { key: key.to_owned(), value }]);
    }
    words
        .into_iter()
        .map(|word| match word.split_once('=') {
            None => Err(ChangesError::NoEquals { word }),
            Some(("", _)) => Err(ChangesError::BlankName { name }),
            Some((key, value)) => Ok(KeyValue { key: key.to_owned(), value: value.to_owned() }),
        })
        .collect()
}

fn volume(text: &str) -> Result<Instruction, ChangesError> {
    let paths = json_array(text)?.unwrap_or_else(|| fields(text));
    if paths.is_empty() {
        return Err(ChangesError::AtLeastOne { name: "VOLUME" });
    }
    let paths: Vec<String> = paths.iter().map(|path| path.trim().to_owned()).collect();
    if paths.iter().any(String::is_empty) {
        return Err(ChangesError::EmptyVolume);
    }
    Ok(Instruction::Volume(paths))
}

fn onbuild(text: &str) -> Result<Instruction, ChangesError> {
    if text.is_empty() {
        return Err(ChangesError::AtLeastOne { name: "ONBUILD" });
    }
    let trigger = text.split(is_blank).next().unwrap_or_default().to_uppercase();
    match trigger.as_str() {
        "ONBUILD" => Err(ChangesError::OnbuildChain),
        "MAINTAINER" | "FROM" => Err(ChangesError::OnbuildTrigger { name: trigger }),
        _ => Ok(Instruction::Onbuild(text.to_owned())),
    }
}

fn healthcheck(flags: &[String], text: &str) -> Result<HealthConfig, ChangesError> {
    if text.is_empty() {
        return Err(ChangesError::AtLeastOne { name: "HEALTHCHECK" });
    }
    let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let kind = kind.to_uppercase();
    let line = maybe_json(rest.trim_start())?;
    if kind == "NONE" {
        return health(&kind, line, &HealthFlags::default());
    }
    health(&kind, line, &health_flags(flags)?)
}

fn health_flags(flags: &[String]) -> Result<HealthFlags, ChangesError> {
    let mut parsed = HealthFlags::default();
    let mut seen: Vec<&str> = Vec::new();
    for flag in flags {
        let (name, value) = match flag[2..].split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (&flag[2..], None),
        };
        let known = ["interval", "timeout", "start-period", "start-interval", "retries"];
        let Some(known) = known.into_iter().find(|known| *known == name) else {
            return Err(ChangesError::UnknownFlag { flag: name.to_owned() });
        };
        if seen.contains(&name) {
            return Err(ChangesError::DuplicateFlag { flag: name.to_owned() });
        }
        seen.push(name);
        let Some(value) = value else {
            return Err(ChangesError::FlagValue { flag: flag.clone() });
        };
        match known {
            "interval" => parsed.interval = interval(known, value)?,
            "timeout" => parsed.timeout = interval(known, value)?,
            "start-period" => parsed.start_period = interval(known, value)?,
            "start-interval" => parsed.start_interval = interval(known, value)?,
            _ => parsed.retries = retries(value)?,
        }
    }
    Ok(parsed)
}

fn interval(flag: &'static str, text: &str) -> Result<i64, ChangesError> {
    const SHORTEST: i64 = 1_000_000;
    if text.is_empty() {
        return Ok(0);
    }
    let nanos = berth_types::duration::parse_go(text)?;
    if nanos != 0 && nanos < SHORTEST {
        return Err(ChangesError::HealthInterval { flag });
    }
    Ok(nanos)
}

fn retries(text: &str) -> Result<i64, ChangesError> {
    use std::num::IntErrorKind;
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<i32>() {
        Ok(count) if count < 0 => Err(ChangesError::NegativeRetries { count: count.into() }),
        Ok(count) => Ok(count.into()),
        Err(error) => {
            let problem = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Err(ChangesError::Retries { text: text.to_owned(), problem })
        }
    }
}
