//! Docker's profile format: an OCI seccomp section whose rules carry conditions.

use serde::{Deserialize, Deserializer, Serialize};

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Action {
    /// End the thread.
    #[serde(rename = "SCMP_ACT_KILL")]
    Kill,
    /// End the process.
    #[serde(rename = "SCMP_ACT_KILL_PROCESS")]
    KillProcess,
    /// End the thread.
    #[serde(rename = "SCMP_ACT_KILL_THREAD")]
    KillThread,
    /// Send `SIGSYS`.
    #[serde(rename = "SCMP_ACT_TRAP")]
    Trap,
    /// Fail with an error number.
    #[serde(rename = "SCMP_ACT_ERRNO")]
    Errno,
    /// Ask a tracer.
    #[serde(rename = "SCMP_ACT_TRACE")]
    Trace,
    /// Let it through.
    #[serde(rename = "SCMP_ACT_ALLOW")]
    Allow,
    /// Let it through and log it.
    #[serde(rename = "SCMP_ACT_LOG")]
    Log,
    /// Ask a listener.
    #[serde(rename = "SCMP_ACT_NOTIFY")]
    Notify,
}

/// How an argument is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Op {
    /// Not equal.
    #[serde(rename = "SCMP_CMP_NE")]
    Ne,
    /// Less.
    #[serde(rename = "SCMP_CMP_LT")]
    Lt,
    /// Less or equal.
    #[serde(rename = "SCMP_CMP_LE")]
    Le,
    /// Equal.
    #[serde(rename = "SCMP_CMP_EQ")]
    Eq,
    /// Greater or equal.
    #[serde(rename = "SCMP_CMP_GE")]
    Ge,
    /// Greater.
    #[serde(rename = "SCMP_CMP_GT")]
    Gt,
    /// Under the mask `value`, equal to `value_two`.
    #[serde(rename = "SCMP_CMP_MASKED_EQ")]
    MaskedEq,
}

/// One comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Arg {
    /// Which argument, from zero.
    pub index: u32,
    /// The value, or the mask.
    pub value: u64,
    /// The value under the mask.
    #[serde(default)]
    pub value_two: u64,
    /// How.
    pub op: Op,
}

impl Arg {
    /// The comparisons of a rule in OCI form.
    pub(crate) fn list(value: &serde_json::Value) -> serde_json::Result<Vec<Self>> {
        Vec::deserialize(value)
    }
}

/// When a rule counts. An empty part says nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Machines, by Docker's names.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub arches: Vec<String>,
    /// Capabilities of the container.
    #[serde(default, deserialize_with = "null_is_empty")]
    pub caps: Vec<String>,
    /// The oldest kernel, `major.minor`.
    #[serde(default)]
    pub min_kernel: Option<String>,
}

/// One rule.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rule {
    /// The older format's single call.
    pub name: String,
    /// The calls.
    #[serde(deserialize_with = "null_is_empty")]
    pub names: Vec<String>,
    /// What happens; required.
    pub action: Option<Action>,
    /// The error number of [`Action::Errno`] and [`Action::Trace`].
    pub errno_ret: Option<u32>,
    /// All of these must hold.
    #[serde(deserialize_with = "null_is_empty")]
    pub args: Vec<Arg>,
    /// The rule counts only when all of this holds.
    #[serde(deserialize_with = "null_is_empty")]
    pub includes: Condition,
    /// The rule does not count when any of this holds.
    #[serde(deserialize_with = "null_is_empty")]
    pub excludes: Condition,
}

/// A machine and the ones whose programs it also runs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubArches {
    /// The machine.
    pub architecture: String,
    /// The others.
    #[serde(default)]
    pub sub_architectures: Option<Vec<String>>,
}

/// A whole profile.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Profile {
    /// What happens to a call that no rule names.
    pub default_action: Option<Action>,
    /// Its error number.
    pub default_errno_ret: Option<u32>,
    /// Machines outright.
    #[serde(deserialize_with = "null_is_empty")]
    pub architectures: Vec<String>,
    /// Or by the machine this is.
    #[serde(deserialize_with = "null_is_empty")]
    pub arch_map: Vec<SubArches>,
    /// Flags for the filter.
    #[serde(deserialize_with = "null_is_empty")]
    pub flags: Vec<String>,
    /// Where a listener for [`Action::Notify`] is.
    pub listener_path: String,
    /// Passed to that listener.
    pub listener_metadata: String,
    /// The rules.
    #[serde(deserialize_with = "null_is_empty")]
    pub syscalls: Vec<Rule>,
}

/// Go writes an empty list or object as `null`.
fn null_is_empty<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::deserialize(deserializer)?.unwrap_or_default())
}
