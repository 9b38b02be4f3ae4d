//! A whole Dockerfile.

use std::collections::BTreeMap;

use crate::instruction::{From, Instruction, KeyValue, Step};
use crate::lines::{self, Text};
use crate::node::Node;
use crate::{BuildError, SyntaxError, read};

/// A Dockerfile, understood.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dockerfile {
    /// What continues a line and escapes a character.
    pub escape: char,
    /// The `ARG`s before the first `FROM`.
    pub meta_args: Vec<Step>,
    /// The stages, in order.
    pub stages: Vec<Stage>,
    /// What Docker warns of, as it prints it.
    pub warnings: Vec<String>,
}

/// A `FROM` and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// The line of the `FROM`, as the build prints it.
    pub text: String,
    /// What it says.
    pub from: From,
    /// What follows it.
    pub steps: Vec<Step>,
}

/// Splits a text into nodes. Syntax is checked for all of it before anything is understood.
fn nodes(text: &str) -> Result<(Vec<Node>, char, Vec<String>), SyntaxError> {
    let Text { escape, lines, warnings } = lines::split(text)?;
    let nodes = lines.into_iter().map(|line| Node::read(line, escape));
    Ok((nodes.collect::<Result<_, _>>()?, escape, warnings))
}

impl Dockerfile {
    /// Reads a Dockerfile.
    pub fn parse(text: &str) -> Result<Self, BuildError> {
        let (nodes, escape, warnings) = nodes(text).map_err(BuildError::Text)?;
        let mut file = Self { escape, meta_args: Vec::new(), stages: Vec::new(), warnings };
        for node in nodes {
            let line = node.line;
            let step = read::step(node).map_err(|error| BuildError::Line { line, error })?;
            match (step.instruction, file.stages.last_mut()) {
                (Instruction::From(from), _) => {
                    file.stages.push(Stage { text: step.text, from, steps: Vec::new() });
                }
                (instruction, Some(stage)) => stage.steps.push(Step { instruction, ..step }),
                (instruction @ Instruction::Arg(_), None) => {
                    file.meta_args.push(Step { instruction, ..step });
                }
                (_, None) => return Err(BuildError::Plain(SyntaxError::NoStage)),
            }
        }
        if file.stages.is_empty() {
            return Err(BuildError::Plain(SyntaxError::NoStage));
        }
        Ok(file)
    }

    /// Leaves out the stages behind the one of this name or number.
    pub fn cut_after(&mut self, target: &str) -> Result<(), BuildError> {
        let by_name = |stage: &Stage| {
            !stage.from.name.is_empty() && stage.from.name.eq_ignore_ascii_case(target)
        };
        let at = self.stages.iter().position(by_name);
        let at = at.or_else(|| target.parse().ok().filter(|&number| number < self.stages.len()));
        let at = at.ok_or_else(|| BuildError::Target { name: target.to_owned() })?;
        self.stages.truncate(at + 1);
        Ok(())
    }

    /// Adds a `LABEL` for each of these to the last stage, in the order of their names. They mean
    /// what they say: variables are not looked for.
    pub fn add_labels(&mut self, labels: &BTreeMap<String, String>) {
        let Some(stage) = self.stages.last_mut() else { return };
        for (key, value) in labels {
            let pair = KeyValue { key: key.clone(), value: value.clone() };
            stage.steps.push(Step {
                line: 0,
                text: format!("LABEL {key}={value}"),
                is_literal: true,
                instruction: Instruction::Label(vec![pair]),
            });
        }
    }

    /// How many steps there are, as `Step N/M` counts them.
    pub fn steps(&self) -> usize {
        self.meta_args.len() + self.stages.iter().map(|stage| 1 + stage.steps.len()).sum::<usize>()
    }
}

/// Reads what an `ONBUILD` of the base image says.
pub fn trigger(text: &str) -> Result<Step, BuildError> {
    let (mut nodes, ..) = nodes(text).map_err(BuildError::Plain)?;
    match (nodes.pop(), nodes.is_empty()) {
        (Some(node), true) => read::step(node).map_err(BuildError::Plain),
        _ => Err(BuildError::Plain(SyntaxError::OnbuildSingle)),
    }
}

/// Reads the instructions of `commit --change` and `import --change`. Those that need more than a
/// configuration are refused.
pub fn changes(text: &str) -> Result<Vec<Step>, SyntaxError> {
    let (nodes, ..) = nodes(text)?;
    for node in &nodes {
        let lower = node.name.to_lowercase();
        if !CHANGES.contains(&lower.as_str()) {
            return Err(SyntaxError::NotAChange { name: node.name.clone() });
        }
    }
    nodes.into_iter().map(read::step).collect()
}

#[rustfmt::skip]
const CHANGES: &[&str] = &[
    "cmd", "entrypoint", "env", "expose", "healthcheck", "label", "onbuild", "stopsignal", "user",
    "volume", "workdir",
];

#[cfg(test)]
mod tests;
