//! `--change`: Dockerfile instructions that alter a configuration without running anything.

mod parse;
mod ports;
mod words;

use berth_api::container::{ContainerConfig, HealthConfig};
use berth_api::{Empty, StrSlice};
use berth_types::duration::DurationError;

use parse::{Arguments, Instruction, KeyValue};
use words::{WordError, expand, expand_split};

/// Why a change was refused. The texts are Docker's.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangesError {
    #[error("file with no instructions")]
    Empty,
    #[error("{name} is not a valid change command")]
    NotAChange { name: String },
    #[error("{name} requires at least one argument")]
    AtLeastOne { name: &'static str },
    #[error("{name} requires exactly one argument")]
    ExactlyOne { name: &'static str },
    #[error("{name} must have two arguments")]
    TwoArguments { name: &'static str },
    #[error("{name} names can not be blank")]
    BlankName { name: &'static str },
    #[error("Syntax error - can't find = in {word:?}. Must be of the form: name=value")]
    NoEquals { word: String },
    #[error("when using JSON array syntax, arrays must be comprised of strings only")]
    NotStrings,
    #[error("unknown flag: --{flag}")]
    UnknownFlag { flag: String },
    #[error("duplicate flag specified: {flag}")]
    DuplicateFlag { flag: String },
    #[error("missing a value on flag: {flag}")]
    FlagValue { flag: String },
    #[error("HEALTHCHECK NONE takes no arguments")]
    HealthNone,
    #[error("Missing command after HEALTHCHECK CMD")]
    HealthCommand,
    #[error("Unknown type {kind:?} in HEALTHCHECK (try CMD)")]
    HealthType { kind: String },
    #[error("Interval {flag:?} cannot be less than 1ms")]
    HealthInterval { flag: &'static str },
    #[error(transparent)]
    Duration(#[from] DurationError),
    #[error("--retries cannot be negative ({count})")]
    NegativeRetries { count: i64 },
    #[error("strconv.ParseInt: parsing {text:?}: {problem}")]
    Retries { text: String, problem: &'static str },
    #[error("no port specified: {text}<empty>")]
    NoPort { text: String },
    #[error("invalid proto: {proto}")]
    Protocol { proto: String },
    #[error("invalid IP address: {text}")]
    HostAddress { text: String },
    #[error("invalid containerPort: {text}")]
    ContainerPort { text: String },
    #[error("invalid hostPort: {text}")]
    HostPort { text: String },
    #[error("invalid ranges specified for container and host Ports: {container} and {host}")]
    PortRanges { container: String, host: String },
    #[error("Chaining ONBUILD via `ONBUILD ONBUILD` isn't allowed")]
    OnbuildChain,
    #[error("{name} isn't allowed as an ONBUILD trigger")]
    OnbuildTrigger { name: String },
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("invalid signal: {signal}")]
    Signal { signal: String },
    #[error("cannot normalize nothing")]
    EmptyWorkdir,
    #[error(transparent)]
    Word(#[from] WordError),
}

/// Applies `changes`, as given by `--change`, to `config`. Nothing changes when one is refused.
pub fn apply(config: &mut ContainerConfig, changes: &[String]) -> Result<(), ChangesError> {
    if changes.is_empty() {
        return Ok(());
    }
    let instructions = parse::parse(&changes.join("\n"))?;
    let mut state = State { config: config.clone(), cmd_set: false };
    for instruction in instructions {
        state.apply(instruction)?;
    }
    *config = state.config;
    Ok(())
}

struct State {
    config: ContainerConfig,
    /// Whether `CMD` came before: a later `ENTRYPOINT` then keeps it.
    cmd_set: bool,
}

impl State {
    fn apply(&mut self, instruction: Instruction) -> Result<(), ChangesError> {
        match instruction {
            Instruction::Cmd(line) => {
                self.cmd_set |= !line.words.is_empty();
                self.config.cmd = self.command(line);
            }
            Instruction::Entrypoint(line) => {
                let is_empty = line.words.is_empty();
                self.config.entrypoint =
                    if is_empty { StrSlice::default() } else { self.command(line) };
                if !self.cmd_set {
                    self.config.cmd = StrSlice::default();
                }
            }
            Instruction::Env(pairs) => {
                for KeyValue { key, value } in self.expand_pairs(pairs)? {
                    self.set_env(&key, &value);
                }
            }
            Instruction::Label(pairs) => {
                for KeyValue { key, value } in self.expand_pairs(pairs)? {
                    self.config.labels.insert(key, value);
                }
            }
            Instruction::Expose(words) => {
                for word in words {
                    for spec in expand_split(&word, &self.config.env)? {
                        for port in ports::parse(&spec)? {
                            self.config.exposed_ports.insert(port, Empty {});
                        }
                    }
                }
            }
            Instruction::Healthcheck(health) => self.config.healthcheck = Some(health),
            Instruction::Onbuild(text) => self.config.on_build.push(text),
            Instruction::StopSignal(signal) => {
                let signal = expand(&signal, &self.config.env)?;
                if !is_signal(&signal) {
                    return Err(ChangesError::Signal { signal });
                }
                self.config.stop_signal = signal;
            }
            Instruction::User(user) => self.config.user = expand(&user, &self.config.env)?,
            Instruction::Volume(paths) => {
                for path in paths {
                    let path = expand(&path, &self.config.env)?;
                    if path.is_empty() {
                        return Err(ChangesError::EmptyVolume);
                    }
                    self.config.volumes.insert(path, Empty {});
                }
            }
            Instruction::Workdir(path) => {
                let path = expand(&path, &self.config.env)?;
                self.config.working_dir = join_workdir(&self.config.working_dir, &path)?;
            }
        }
        Ok(())
    }

    /// A JSON array stands for itself; other text is a line for the shell.
    fn command(&self, line: Arguments) -> StrSlice {
        if line.is_json {
            return line.words.into();
        }
        let mut words: Vec<String> = if self.config.shell.is_empty() {
            vec!["/bin/sh".to_owned(), "-c".to_owned()]
        } else {
            self.config.shell.to_vec()
        };
        words.extend(line.words);
        words.into()
    }

    fn expand_pairs(&self, pairs: Vec<KeyValue>) -> Result<Vec<KeyValue>, ChangesError> {
        let env = &self.config.env;
        pairs
            .into_iter()
            .map(|pair| {
                Ok(KeyValue { key: expand(&pair.key, env)?, value: expand(&pair.value, env)? })
            })
            .collect()
    }

    fn set_env(&mut self, key: &str, value: &str) {
        let new = format!("{key}={value}");
        let env = &mut self.config.env;
        match env.iter_mut().find(|old| old.split('=').next() == Some(key)) {
            Some(old) => *old = new,
            None => env.push(new),
        }
    }
}

fn join_workdir(current: &str, asked: &str) -> Result<String, ChangesError> {
    if asked.is_empty() {
        return Err(ChangesError::EmptyWorkdir);
    }
    let joined =
        if asked.starts_with('/') { asked.to_owned() } else { format!("/{current}/{asked}") };
    let mut parts: Vec<&str> = Vec::new();
    for part in joined.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    Ok(format!("/{}", parts.join("/")))
}

/// Whether Docker knows this signal: a number above zero, or a name with or without `SIG`.
fn is_signal(text: &str) -> bool {
    if let Ok(number) = text.parse::<i32>() {
        return number != 0;
    }
    let upper = text.to_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    if SIGNALS.contains(&name) {
        return true;
    }
    let real_time = |base: &str, most: u8| {
        name.strip_prefix(base).is_some_and(|offset| {
            offset.is_empty() || offset.parse::<u8>().is_ok_and(|n| (1..=most).contains(&n))
        })
    };
    real_time("RTMIN+", 15) && name != "RTMIN+"
        || real_time("RTMAX-", 14) && name != "RTMAX-"
        || matches!(name, "RTMIN" | "RTMAX")
}

#[rustfmt::skip]
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

/// Kept apart from [`parse`] because its flags have types.
fn health(kind: &str, line: Arguments, flags: &HealthFlags) -> Result<HealthConfig, ChangesError> {
    match kind {
        "NONE" if line.words.is_empty() => {
            Ok(HealthConfig { test: vec![kind.to_owned()].into(), ..HealthConfig::default() })
        }
        "NONE" => Err(ChangesError::HealthNone),
        "CMD" if line.words.is_empty() => Err(ChangesError::HealthCommand),
        "CMD" => {
            let first = if line.is_json { "CMD" } else { "CMD-SHELL" };
            let mut test = vec![first.to_owned()];
            test.extend(line.words);
            Ok(HealthConfig {
                test: test.into(),
                interval: flags.interval,
                timeout: flags.timeout,
                start_period: flags.start_period,
                start_interval: flags.start_interval,
                retries: flags.retries,
            })
        }
        other => Err(ChangesError::HealthType { kind: other.to_owned() }),
    }
}

/// The flags of `HEALTHCHECK`; times in nanoseconds.
#[derive(Debug, Default)]
struct HealthFlags {
    interval: i64,
    timeout: i64,
    start_period: i64,
    start_interval: i64,
    retries: i64,
}

#[cfg(test)]
mod tests;
