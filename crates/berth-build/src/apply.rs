//! What an instruction does to a configuration, and the words for it in the history.

use berth_api::container::ContainerConfig;
use berth_api::{Empty, StrSlice};

use crate::instruction::{CommandLine, Instruction, KeyValue};
use crate::{SyntaxError, ports, quote};

/// The `PATH` of images that have none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A configuration that instructions change one after the other.
#[derive(Debug, Clone, Default)]
pub struct Changing {
    /// The configuration.
    pub config: ContainerConfig,
    /// Whether `CMD` came before: a later `ENTRYPOINT` then keeps it.
    pub cmd_set: bool,
}

/// The instruction's words in the history; `None` for those that do more than change the
/// configuration. Nothing is changed by one that fails.
pub fn apply(
    state: &mut Changing,
    instruction: &Instruction,
) -> Result<Option<String>, SyntaxError> {
    let config = &mut state.config;
    Ok(Some(match instruction {
        Instruction::Arg(pairs) => {
            let pair = |(key, value): (&String, &Option<String>)| match value {
                Some(value) => format!("{key}={value}"),
                None => key.clone(),
            };
            let pairs: Vec<String> = pairs.iter().map(|p| pair((&p.key, &p.value))).collect();
            format!("ARG {}", pairs.join(" "))
        }
        Instruction::Cmd(line) => {
            config.cmd = command(config, line);
            state.cmd_set |= !line.words.is_empty();
            format!("CMD {}", quote::list(&config.cmd))
        }
        Instruction::Entrypoint(line) => {
            let is_empty = line.words.is_empty();
            config.entrypoint = if is_empty { StrSlice::default() } else { command(config, line) };
            if !state.cmd_set {
                config.cmd = StrSlice::default();
            }
            format!("ENTRYPOINT {}", quote::list(&config.entrypoint))
        }
        Instruction::Env(pairs) => {
            for pair in pairs {
                set_env(config, pair);
            }
            listed("ENV", pairs)
        }
        Instruction::Label(pairs) => {
            for KeyValue { key, value } in pairs {
                config.labels.insert(key.clone(), value.clone());
            }
            listed("LABEL", pairs)
        }
        Instruction::Expose(specs) => {
            let parsed: Vec<_> =
                specs.iter().map(|spec| ports::parse(spec)).collect::<Result<_, _>>()?;
            for port in parsed.into_iter().flatten() {
                config.exposed_ports.insert(port, Empty {});
            }
            format!("EXPOSE {}", specs.join(" "))
        }
        Instruction::Healthcheck(health) => {
            config.healthcheck = Some(health.clone());
            format!("HEALTHCHECK {}", quote::health(health))
        }
        Instruction::Maintainer(name) => format!("MAINTAINER {name}"),
        Instruction::Onbuild(text) => {
            config.on_build.push(text.clone());
            format!("ONBUILD {text}")
        }
        Instruction::Shell(words) => {
            config.shell = words.clone().into();
            format!("SHELL [{}]", words.join(" "))
        }
        Instruction::StopSignal(signal) => {
            if !is_signal(signal) {
                return Err(SyntaxError::Signal { signal: signal.clone() });
            }
            config.stop_signal.clone_from(signal);
            format!("STOPSIGNAL {signal}")
        }
        Instruction::User(user) => {
            config.user.clone_from(user);
            format!("USER {user}")
        }
        Instruction::Volume(paths) => {
            if paths.iter().any(String::is_empty) {
                return Err(SyntaxError::EmptyVolume);
            }
            for path in paths {
                config.volumes.insert(path.clone(), Empty {});
            }
            format!("VOLUME [{}]", paths.join(" "))
        }
        Instruction::Workdir(path) => {
            config.working_dir = join_workdir(&config.working_dir, path)?;
            format!("WORKDIR {}", config.working_dir)
        }
        Instruction::Add(_) | Instruction::Copy(_) | Instruction::From(_) | Instruction::Run(_) => {
            return Ok(None);
        }
    }))
}

fn listed(name: &str, pairs: &[KeyValue]) -> String {
    let pair = |KeyValue { key, value }: &KeyValue| format!(" {key}={value}");
    let pairs: String = pairs.iter().map(pair).collect();
    format!("{name}{pairs}")
}

fn set_env(config: &mut ContainerConfig, KeyValue { key, value }: &KeyValue) {
    let new = format!("{key}={value}");
    let env = &mut config.env;
    match env.iter_mut().find(|old| old.split('=').next() == Some(key.as_str())) {
        Some(old) => *old = new,
        None => env.push(new),
    }
}

/// The shell that runs lines.
pub fn shell(config: &ContainerConfig) -> Vec<String> {
    if config.shell.is_empty() {
        return vec!["/bin/sh".to_owned(), "-c".to_owned()];
    }
    config.shell.to_vec()
}

/// The words of a command: a JSON array stands for itself, other text is a line for the shell.
pub fn command(config: &ContainerConfig, line: &CommandLine) -> StrSlice {
    if !line.by_shell {
        return line.words.clone().into();
    }
    let mut words = shell(config);
    words.extend(line.words.iter().cloned());
    words.into()
}

/// The command of a step that runs nothing, for the history: `#(nop) ` and the words, two words
/// of their own.
pub fn nop(config: &ContainerConfig, words: &str) -> StrSlice {
    let mut command = shell(config);
    command.extend(["#(nop) ".to_owned(), words.to_owned()]);
    command.into()
}

/// As [`nop`], but one word: so it is for the steps that change files without a command.
pub fn nop_of_files(config: &ContainerConfig, words: &str) -> StrSlice {
    let mut command = shell(config);
    command.push(format!("#(nop) {words}"));
    command.into()
}

/// A relative directory is one below the present one; an absolute one stays as it is written.
fn join_workdir(current: &str, asked: &str) -> Result<String, SyntaxError> {
    if asked.is_empty() {
        return Err(SyntaxError::EmptyWorkdir);
    }
    if asked.starts_with('/') {
        return Ok(asked.to_owned());
    }
    Ok(clean(&format!("/{current}/{asked}")))
}

/// Go's `filepath.Clean` of an absolute path.
pub fn clean(path: &str) -> String {
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            name => parts.push(name),
        }
    }
    format!("/{}", parts.join("/"))
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
        name.strip_prefix(base)
            .is_some_and(|offset| offset.parse::<u8>().is_ok_and(|n| (1..=most).contains(&n)))
    };
    real_time("RTMIN+", 15) || real_time("RTMAX-", 14) || matches!(name, "RTMIN" | "RTMAX")
}

#[rustfmt::skip]
const SIGNALS: &[&str] = &[
    "ABRT", "ALRM", "BUS", "CHLD", "CLD", "CONT", "FPE", "HUP", "ILL", "INT", "IO", "IOT", "KILL",
    "PIPE", "POLL", "PROF", "PWR", "QUIT", "SEGV", "STKFLT", "STOP", "SYS", "TERM", "TRAP", "TSTP",
    "TTIN", "TTOU", "URG", "USR1", "USR2", "VTALRM", "WINCH", "XCPU", "XFSZ",
];

#[cfg(test)]
mod tests;
