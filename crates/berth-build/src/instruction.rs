//! What instructions say.

use berth_api::container::HealthConfig;

use crate::lines::Heredoc;
use crate::words::{self, Context};
use crate::{SyntaxError, mount};

/// An instruction and where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// The line it begins at, counted from 1.
    pub line: usize,
    /// The line itself, as the build prints it.
    pub text: String,
    /// Whether its words mean themselves, `$` included.
    pub is_literal: bool,
    /// What it says.
    pub instruction: Instruction,
}

/// An instruction, its words not expanded yet.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Docker's and stand in its reference")]
pub enum Instruction {
    Add(Transfer),
    Arg(Vec<ArgPair>),
    Cmd(CommandLine),
    Copy(Transfer),
    Entrypoint(CommandLine),
    Env(Vec<KeyValue>),
    Expose(Vec<String>),
    From(From),
    Healthcheck(HealthConfig),
    Label(Vec<KeyValue>),
    Maintainer(String),
    Onbuild(String),
    Run(Run),
    Shell(Vec<String>),
    StopSignal(String),
    User(String),
    Volume(Vec<String>),
    Workdir(String),
}

/// `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct KeyValue {
    pub key: String,
    pub value: String,
}

/// `name[=value]`.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names say it")]
pub struct ArgPair {
    pub key: String,
    pub value: Option<String>,
}

/// A program and its arguments, or a line for the shell.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandLine {
    /// The words; a line for the shell is one.
    pub words: Vec<String>,
    /// Whether the shell runs it.
    pub by_shell: bool,
}

/// `FROM`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct From {
    /// The image or stage.
    pub base: String,
    /// The stage's own name, in lower case; empty for none.
    pub name: String,
    /// `--platform`.
    pub platform: String,
}

/// `RUN`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Run {
    /// What is run.
    pub command: CommandLine,
    /// Its here-documents.
    pub heredocs: Vec<Heredoc>,
    /// `--mount`.
    pub mounts: Vec<Mount>,
    /// `--network`.
    pub network: Option<String>,
    /// `--security`.
    pub security: Option<String>,
}

/// `ADD` and `COPY`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transfer {
    /// What is copied.
    pub sources: Vec<String>,
    /// Where to.
    pub destination: String,
    /// Files that stand in the Dockerfile itself.
    pub heredocs: Vec<Heredoc>,
    /// `--from`; empty for the build's context.
    pub from: String,
    /// `--chown`.
    pub chown: String,
    /// `--chmod`.
    pub chmod: String,
    /// `--link`.
    pub link: bool,
    /// A flag that no classic builder knows, if there is one.
    pub unsupported: Option<&'static str>,
}

/// `RUN --mount`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Mount {
    /// What the flag says.
    pub text: String,
    /// What is mounted.
    pub kind: MountKind,
    /// Where.
    pub target: String,
    /// `source`, below `from`.
    pub source: String,
    /// The stage or image it comes from; empty for the context.
    pub from: String,
    /// Which cache or secret; its target when not said.
    pub id: String,
    /// Whether what is written is kept; only sensible for caches.
    pub read_only: Option<bool>,
    /// Whether a missing secret is an error.
    pub required: bool,
    /// Who shares a cache.
    pub sharing: Sharing,
    /// `size` of a tmpfs.
    pub size: Option<u64>,
    /// `mode`.
    pub mode: Option<u32>,
    /// `uid`.
    pub uid: u32,
    /// `gid`.
    pub gid: u32,
    /// The variable that gets a secret.
    pub env: String,
}

/// What `RUN --mount` mounts.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Docker's")]
pub enum MountKind {
    #[default]
    Bind,
    Cache,
    Tmpfs,
    Secret,
    Ssh,
}

/// Who may use a cache at the same time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[expect(missing_docs, reason = "the names are Docker's")]
pub enum Sharing {
    #[default]
    Shared,
    Private,
    Locked,
}

impl Instruction {
    /// The name in upper case.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Add(_) => "ADD",
            Self::Arg(_) => "ARG",
            Self::Cmd(_) => "CMD",
            Self::Copy(_) => "COPY",
            Self::Entrypoint(_) => "ENTRYPOINT",
            Self::Env(_) => "ENV",
            Self::Expose(_) => "EXPOSE",
            Self::From(_) => "FROM",
            Self::Healthcheck(_) => "HEALTHCHECK",
            Self::Label(_) => "LABEL",
            Self::Maintainer(_) => "MAINTAINER",
            Self::Onbuild(_) => "ONBUILD",
            Self::Run(_) => "RUN",
            Self::Shell(_) => "SHELL",
            Self::StopSignal(_) => "STOPSIGNAL",
            Self::User(_) => "USER",
            Self::Volume(_) => "VOLUME",
            Self::Workdir(_) => "WORKDIR",
        }
    }

    /// Expands the words of the instructions that have variables. All see the same values.
    pub fn expand(&mut self, context: Context<'_>) -> Result<(), SyntaxError> {
        let word = |text: &mut String| {
            *text = words::expand(text, context)?;
            Ok::<_, SyntaxError>(())
        };
        match self {
            Self::Env(pairs) | Self::Label(pairs) => {
                for pair in pairs {
                    word(&mut pair.key)?;
                    word(&mut pair.value)?;
                }
            }
            Self::Add(transfer) | Self::Copy(transfer) => {
                word(&mut transfer.chown)?;
                word(&mut transfer.chmod)?;
                transfer.sources.iter_mut().try_for_each(word)?;
                word(&mut transfer.destination)?;
                for heredoc in transfer.heredocs.iter_mut().filter(|heredoc| heredoc.expand) {
                    heredoc.content = words::expand_text(&heredoc.content, context)?;
                }
            }
            Self::Arg(pairs) => {
                for pair in pairs {
                    word(&mut pair.key)?;
                    pair.value.as_mut().map_or(Ok(()), word)?;
                }
            }
            Self::Expose(ports) => {
                let mut expanded = Vec::with_capacity(ports.len());
                for port in ports.iter() {
                    expanded.extend(words::expand_split(port, context)?);
                }
                *ports = expanded;
            }
            Self::Run(run) => {
                run.mounts.iter_mut().try_for_each(|given| mount::expand(given, context))?;
            }
            Self::Volume(paths) => paths.iter_mut().try_for_each(word)?,
            Self::StopSignal(text) | Self::User(text) | Self::Workdir(text) => word(text)?,
            Self::Cmd(_)
            | Self::Entrypoint(_)
            | Self::From(_)
            | Self::Healthcheck(_)
            | Self::Maintainer(_)
            | Self::Onbuild(_)
            | Self::Shell(_) => {}
        }
        Ok(())
    }
}
