//! Build arguments: which `ARG`s are declared where, and with which value.

use std::collections::{BTreeMap, BTreeSet};

use crate::instruction::ArgPair;

/// Known without a declaration. They are kept out of the history, for they may hold secrets.
#[rustfmt::skip]
const BUILTIN: &[&str] = &[
    "HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "FTP_PROXY", "ftp_proxy", "NO_PROXY",
    "no_proxy", "ALL_PROXY", "all_proxy",
];

/// The arguments as they are at one point of a Dockerfile.
#[derive(Debug, Clone, Default)]
pub struct BuildArgs {
    /// `--build-arg`; one without a value stands for nothing.
    given: BTreeMap<String, Option<String>>,
    /// Declared before the first `FROM`.
    meta: BTreeMap<String, Option<String>>,
    /// Declared in this stage so far.
    stage: BTreeMap<String, Option<String>>,
    /// Declared anywhere.
    referenced: BTreeSet<String>,
}

impl BuildArgs {
    /// Begins with what `--build-arg` says.
    pub fn new(given: BTreeMap<String, Option<String>>) -> Self {
        Self { given, ..Self::default() }
    }

    /// An `ARG` before the first `FROM`.
    pub fn declare_meta(&mut self, pair: &ArgPair) {
        self.declare(pair);
        self.meta.insert(pair.key.clone(), pair.value.clone());
    }

    /// An `ARG` of a stage.
    pub fn declare(&mut self, pair: &ArgPair) {
        self.referenced.insert(pair.key.clone());
        self.stage.insert(pair.key.clone(), pair.value.clone());
    }

    /// Forgets what was declared: a stage begins.
    pub fn begin_stage(&mut self) {
        self.stage.clear();
    }

    /// Takes over what another copy of these arguments saw declared.
    pub fn absorb(&mut self, other: &Self) {
        self.referenced.extend(other.referenced.iter().cloned());
    }

    /// The arguments that a `FROM` sees, as `NAME=value`.
    pub fn of_from(&self) -> Vec<String> {
        self.all(&self.meta)
    }

    /// The arguments that an instruction of the stage sees, as `NAME=value`, without those that the
    /// environment has.
    pub fn beside(&self, env: &[String]) -> Vec<String> {
        let hides = |arg: &String| env.iter().any(|entry| key(entry) == key(arg));
        let mut all = self.all(&self.stage);
        all.retain(|arg| !hides(arg));
        all
    }

    /// The words before a command in the history: those of the arguments that were declared.
    pub fn prefix(&self, args: &[String]) -> Vec<String> {
        let is_shown =
            |arg: &&String| self.stage.contains_key(key(arg)) || !BUILTIN.contains(&key(arg));
        let mut shown: Vec<String> = args.iter().filter(is_shown).cloned().collect();
        shown.sort();
        shown.insert(0, format!("|{}", shown.len()));
        shown
    }

    /// What was given and never declared, sorted.
    pub fn unused(&self) -> Vec<&str> {
        let is_unused =
            |name: &&String| !self.referenced.contains(*name) && !BUILTIN.contains(&name.as_str());
        self.given.keys().filter(is_unused).map(String::as_str).collect()
    }

    fn all(&self, declared: &BTreeMap<String, Option<String>>) -> Vec<String> {
        let builtin = BUILTIN.iter().filter(|name| !declared.contains_key(**name)).copied();
        let names = declared.keys().map(String::as_str).chain(builtin);
        names
            .filter_map(|name| {
                let default = || declared.get(name).and_then(Option::as_ref);
                let meta = || self.meta.get(name).and_then(Option::as_ref);
                let given = self.given.get(name).and_then(Option::as_ref);
                let value = given.or_else(default).or_else(meta)?;
                Some(format!("{name}={value}"))
            })
            .collect()
    }
}

fn key(pair: &str) -> &str {
    pair.split_once('=').map_or(pair, |(key, _)| key)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(text: &str) -> ArgPair {
        match text.split_once('=') {
            Some((key, value)) => ArgPair { key: key.into(), value: Some(value.into()) },
            None => ArgPair { key: text.into(), value: None },
        }
    }

    #[test]
    fn values_come_from_the_command_line_then_from_declarations() {
        let given =
            [("a", Some("given")), ("HTTP_PROXY", Some("p")), ("unused", None), ("n", None)];
        let given = given.map(|(key, value)| (key.to_owned(), value.map(str::to_owned)));
        let mut args = BuildArgs::new(BTreeMap::from(given));
        args.declare_meta(&pair("m=meta"));
        args.declare_meta(&pair("n=meta"));
        args.declare_meta(&pair("a=meta"));
        assert_eq!(args.of_from(), ["a=given", "m=meta", "n=meta", "HTTP_PROXY=p"]);
        args.begin_stage();
        args.declare(&pair("m"));
        args.declare(&pair("n=own"));
        args.declare(&pair("e=hidden"));
        args.declare(&pair("none"));
        assert_eq!(args.beside(&["e=env".to_owned()]), ["m=meta", "n=own", "HTTP_PROXY=p"]);
        assert_eq!(args.prefix(&args.beside(&[])), ["|3", "e=hidden", "m=meta", "n=own"]);
        args.declare(&pair("HTTP_PROXY"));
        assert_eq!(
            args.prefix(&args.beside(&["e=".into()])),
            ["|3", "HTTP_PROXY=p", "m=meta", "n=own"]
        );
        assert_eq!(args.unused(), ["unused"]);
    }
}
