//! What can be wrong with a Dockerfile.

use berth_types::duration::DurationError;
use berth_types::{Classify, ErrorKind};

use crate::words::WordError;

/// Why an instruction was refused. The texts are Docker's, without the place.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SyntaxError {
    #[error("file with no instructions")]
    Empty,
    #[error("dockerfile line greater than maximum allowed size of 65535")]
    LongLine,
    #[error("only one {name} parser directive can be used")]
    DirectiveTwice { name: String },
    #[error("invalid escape token '{token}' does not match ` or \\")]
    EscapeToken { token: String },
    #[error("unterminated heredoc")]
    HeredocEnd,
    #[error("unknown instruction: {name}")]
    Unknown { name: String },
    #[error("{name} is not a valid change command")]
    NotAChange { name: String },
    #[error("{name} requires at least one argument")]
    AtLeastOne { name: &'static str },
    #[error("{name} requires exactly one argument")]
    ExactlyOne { name: &'static str },
    #[error(
        "{name} requires at least two arguments, but only one was provided. Destination could not \
         be determined"
    )]
    NoDestination { name: &'static str },
    #[error("{name} must have two arguments")]
    TwoArguments { name: &'static str },
    #[error("{name} names can not be blank")]
    BlankName { name: &'static str },
    #[error("{name} requires the arguments to be in JSON form")]
    NotJson { name: &'static str },
    #[error("FROM requires either one or three arguments")]
    From,
    #[error(
        "invalid name for build stage: {name:?}, name can't start with a number or contain symbols"
    )]
    StageName { name: String },
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
    #[error("expecting boolean value for flag {flag}, not: {value}")]
    FlagBool { flag: String, value: String },
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
    #[error("onbuild trigger should be a single expression")]
    OnbuildSingle,
    #[error("VOLUME specified can not be an empty string")]
    EmptyVolume,
    #[error("invalid signal: {signal}")]
    Signal { signal: String },
    #[error("cannot normalize nothing")]
    EmptyWorkdir,
    #[error("no build stage in current context")]
    NoStage,
    #[error("invalid field '{field}' must be a key=value pair")]
    MountField { field: String },
    #[error("unexpected key '{key}' in '{field}'")]
    MountKey { key: String, field: String },
    #[error("invalid value for {key}: {value}")]
    MountValue { key: String, value: String },
    #[error("unsupported mount type {kind:?}")]
    MountType { kind: String },
    #[error("target path is required for mount type {kind:?}")]
    MountTarget { kind: String },
    #[error(transparent)]
    Word(#[from] WordError),
}

/// A Dockerfile that cannot be built, with the place where Docker names it.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BuildError {
    /// Found while the whole text was split up.
    #[error("failed to parse Dockerfile: {0}")]
    Text(SyntaxError),
    #[error("dockerfile parse error on line {line}: {error}")]
    Line { line: usize, error: SyntaxError },
    #[error("{0}")]
    Plain(SyntaxError),
    #[error("target stage {name:?} could not be found")]
    Target { name: String },
}

impl Classify for SyntaxError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}

impl Classify for BuildError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::InvalidParameter
    }
}
