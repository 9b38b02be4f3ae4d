//! `HEALTHCHECK`.

use std::num::IntErrorKind;

use berth_api::container::HealthConfig;

use crate::SyntaxError;
use crate::flags::Flags;
use crate::node::{Arguments, Node, json_array};

const FLAGS: &[&str] = &["interval", "timeout", "start-period", "start-interval", "retries"];

pub(crate) fn read(node: &Node) -> Result<HealthConfig, SyntaxError> {
    let text = node.rest.as_str();
    if text.is_empty() {
        return Err(SyntaxError::AtLeastOne { name: "HEALTHCHECK" });
    }
    let (kind, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim_start();
    let line = json_array(rest)?;
    let is_json = line.is_some();
    let words = match line {
        Some(Arguments { words, .. }) => words,
        None if rest.is_empty() => Vec::new(),
        None => vec![rest.to_owned()],
    };
    let kind = kind.to_uppercase();
    match kind.as_str() {
        "NONE" if words.is_empty() => {
            Flags::read(&node.flags, FLAGS, &[])?;
            Ok(HealthConfig { test: vec![kind].into(), ..HealthConfig::default() })
        }
        "NONE" => Err(SyntaxError::HealthNone),
        "CMD" => {
            let flags = Flags::read(&node.flags, FLAGS, &[])?;
            if words.is_empty() {
                return Err(SyntaxError::HealthCommand);
            }
            let mut test = vec![if is_json { "CMD" } else { "CMD-SHELL" }.to_owned()];
            test.extend(words);
            Ok(HealthConfig {
                test: test.into(),
                interval: interval(&flags, "interval")?,
                timeout: interval(&flags, "timeout")?,
                start_period: interval(&flags, "start-period")?,
                start_interval: interval(&flags, "start-interval")?,
                retries: retries(&flags)?,
            })
        }
        _ => Err(SyntaxError::HealthType { kind }),
    }
}

/// In nanoseconds.
fn interval(flags: &Flags, flag: &'static str) -> Result<i64, SyntaxError> {
    const SHORTEST: i64 = 1_000_000;
    let text = flags.value(flag)?.unwrap_or_default();
    if text.is_empty() {
        return Ok(0);
    }
    let nanos = berth_types::duration::parse_go(text)?;
    if nanos != 0 && nanos < SHORTEST {
        return Err(SyntaxError::HealthInterval { flag });
    }
    Ok(nanos)
}

fn retries(flags: &Flags) -> Result<i64, SyntaxError> {
    let text = flags.value("retries")?.unwrap_or_default();
    if text.is_empty() {
        return Ok(0);
    }
    match text.parse::<i32>() {
        Ok(count) if count < 0 => Err(SyntaxError::NegativeRetries { count: count.into() }),
        Ok(count) => Ok(count.into()),
        Err(error) => {
            let problem = match error.kind() {
                IntErrorKind::PosOverflow | IntErrorKind::NegOverflow => "value out of range",
                _ => "invalid syntax",
            };
            Err(SyntaxError::Retries { text: text.to_owned(), problem })
        }
    }
}
