//! From nodes to instructions.

use crate::flags::Flags;
use crate::instruction::{ArgPair, CommandLine, From, Instruction, KeyValue, Run, Step, Transfer};
use crate::node::{Arguments, Node, is_blank};
use crate::{SyntaxError, health, lines, mount};

/// Understands a node.
pub(crate) fn step(node: Node) -> Result<Step, SyntaxError> {
    let (line, text) = (node.line, node.text.clone());
    Ok(Step { line, text, is_literal: false, instruction: instruction(node)? })
}

fn instruction(node: Node) -> Result<Instruction, SyntaxError> {
    let lower = node.name.to_lowercase();
    if !matches!(lower.as_str(), "add" | "copy" | "run" | "from" | "healthcheck") {
        Flags::read(&node.flags, &[], &[])?;
    }
    Ok(match lower.as_str() {
        "add" => Instruction::Add(transfer("ADD", node)?),
        "arg" => Instruction::Arg(arguments(node.arguments.words)?),
        "cmd" => Instruction::Cmd(command(node.arguments)),
        "copy" => Instruction::Copy(transfer("COPY", node)?),
        "entrypoint" => Instruction::Entrypoint(command(node.arguments)),
        "env" => Instruction::Env(pairs("ENV", node.arguments.words)?),
        "expose" => {
            let mut ports = at_least_one("EXPOSE", node.arguments.words)?;
            ports.sort();
            Instruction::Expose(ports)
        }
        "from" => from(&node)?,
        "healthcheck" => Instruction::Healthcheck(health::read(&node)?),
        "label" => Instruction::Label(pairs("LABEL", node.arguments.words)?),
        "maintainer" => Instruction::Maintainer(single("MAINTAINER", node.arguments)?),
        "onbuild" => onbuild(&node)?,
        "run" => run(node)?,
        "shell" => shell(node.arguments)?,
        "stopsignal" => Instruction::StopSignal(single("STOPSIGNAL", node.arguments)?),
        "user" => Instruction::User(single("USER", node.arguments)?),
        "volume" => volume(node.arguments.words)?,
        "workdir" => Instruction::Workdir(single("WORKDIR", node.arguments)?),
        _ => return Err(SyntaxError::Unknown { name: node.name }),
    })
}

fn at_least_one(name: &'static str, words: Vec<String>) -> Result<Vec<String>, SyntaxError> {
    if words.is_empty() { Err(SyntaxError::AtLeastOne { name }) } else { Ok(words) }
}

fn single(name: &'static str, arguments: Arguments) -> Result<String, SyntaxError> {
    let mut words = arguments.words;
    match (words.pop(), words.is_empty()) {
        (Some(word), true) => Ok(word),
        _ => Err(SyntaxError::ExactlyOne { name }),
    }
}

fn command(arguments: Arguments) -> CommandLine {
    CommandLine { words: arguments.words, by_shell: !arguments.is_json }
}

fn pairs(name: &'static str, words: Vec<String>) -> Result<Vec<KeyValue>, SyntaxError> {
    let words = at_least_one(name, words)?;
    let pair = |pair: &[String]| match pair {
        [key, _] if key.is_empty() => Err(SyntaxError::BlankName { name }),
        [key, value] => Ok(KeyValue { key: key.clone(), value: value.clone() }),
        _ => Err(SyntaxError::TwoArguments { name }),
    };
    words.chunks(2).map(pair).collect()
}

fn arguments(words: Vec<String>) -> Result<Vec<ArgPair>, SyntaxError> {
    let words = at_least_one("ARG", words)?;
    let pair = |word: String| match word.split_once('=') {
        Some(("", _)) => Err(SyntaxError::BlankName { name: "ARG" }),
        Some((key, value)) => Ok(ArgPair { key: key.to_owned(), value: Some(value.to_owned()) }),
        None => Ok(ArgPair { key: word, value: None }),
    };
    words.into_iter().map(pair).collect()
}

fn from(node: &Node) -> Result<Instruction, SyntaxError> {
    let name = match &node.arguments.words[..] {
        [_] => String::new(),
        [_, word, name] if word.eq_ignore_ascii_case("as") => stage_name(name)?,
        _ => return Err(SyntaxError::From),
    };
    let flags = Flags::read(&node.flags, &["platform"], &[])?;
    Ok(Instruction::From(From {
        base: node.arguments.words[0].clone(),
        name,
        platform: flags.value("platform")?.unwrap_or_default().to_owned(),
    }))
}

fn stage_name(name: &str) -> Result<String, SyntaxError> {
    let lower = name.to_lowercase();
    let is_name = lower.starts_with(|c: char| c.is_ascii_lowercase())
        && lower
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_' | '.'));
    if is_name { Ok(lower) } else { Err(SyntaxError::StageName { name: name.to_owned() }) }
}

fn onbuild(node: &Node) -> Result<Instruction, SyntaxError> {
    let trigger = node.rest.split(is_blank).next().unwrap_or_default().to_uppercase();
    match trigger.as_str() {
        "" => Err(SyntaxError::AtLeastOne { name: "ONBUILD" }),
        "ONBUILD" => Err(SyntaxError::OnbuildChain),
        "MAINTAINER" | "FROM" => Err(SyntaxError::OnbuildTrigger { name: trigger }),
        _ => {
            let mut text = node.rest.clone();
            for heredoc in &node.heredocs {
                text.extend(["\n", &heredoc.content, &heredoc.name]);
            }
            Ok(Instruction::Onbuild(text))
        }
    }
}

fn run(node: Node) -> Result<Instruction, SyntaxError> {
    let flags = Flags::read(&node.flags, &["mount", "network", "security"], &["mount"])?;
    let mounts = flags.values("mount")?.into_iter().map(mount::read).collect::<Result<_, _>>()?;
    Ok(Instruction::Run(Run {
        mounts,
        network: flags.value("network")?.map(str::to_owned),
        security: flags.value("security")?.map(str::to_owned),
        command: command(node.arguments),
        heredocs: node.heredocs,
    }))
}

fn shell(arguments: Arguments) -> Result<Instruction, SyntaxError> {
    let is_json = arguments.is_json;
    let words = at_least_one("SHELL", arguments.words)?;
    if is_json {
        Ok(Instruction::Shell(words))
    } else {
        Err(SyntaxError::NotJson { name: "SHELL" })
    }
}

fn volume(words: Vec<String>) -> Result<Instruction, SyntaxError> {
    let words = at_least_one("VOLUME", words)?;
    let paths: Vec<String> = words.iter().map(|path| path.trim().to_owned()).collect();
    if paths.iter().any(String::is_empty) {
        return Err(SyntaxError::EmptyVolume);
    }
    Ok(Instruction::Volume(paths))
}

#[rustfmt::skip]
const TRANSFER_FLAGS: &[&str] = &[
    "chown", "chmod", "from", "link", "parents", "exclude", "keep-git-dir", "checksum", "unpack",
];

fn transfer(name: &'static str, node: Node) -> Result<Transfer, SyntaxError> {
    let mut words = node.arguments.words;
    if words.len() < 2 {
        return Err(SyntaxError::NoDestination { name });
    }
    let of_copy = ["from", "parents"];
    let of_add = ["keep-git-dir", "checksum", "unpack"];
    let foreign: &[&str] = if name == "COPY" { &of_add } else { &of_copy };
    let known: Vec<&str> =
        TRANSFER_FLAGS.iter().copied().filter(|flag| !foreign.contains(flag)).collect();
    let flags = Flags::read(&node.flags, &known, &["exclude"])?;
    let unsupported = ["parents", "exclude", "keep-git-dir", "checksum", "unpack"]
        .into_iter()
        .find(|flag| node.flags.iter().any(|word| names(word, flag)));
    let destination = words.pop().unwrap_or_default();
    let sources =
        words.into_iter().filter(|word| node.heredocs.is_empty() || lines::heredoc(word).is_none());
    Ok(Transfer {
        sources: sources.collect(),
        destination,
        from: flags.value("from")?.unwrap_or_default().to_owned(),
        chown: flags.value("chown")?.unwrap_or_default().to_owned(),
        chmod: flags.value("chmod")?.unwrap_or_default().to_owned(),
        link: flags.boolean("link")?,
        unsupported,
        heredocs: node.heredocs,
    })
}

fn names(word: &str, flag: &str) -> bool {
    word.strip_prefix("--").is_some_and(|word| word.split('=').next() == Some(flag))
}
