//! Seccomp: Docker's default profile, profiles given by a client, their OCI form, and the program
//! that the kernel runs.

mod compile;
mod default;
mod newer;
mod profile;
#[cfg(test)]
mod tests;

use serde_json::{Value, json};

pub use compile::{Filter, compile, filter};
pub use profile::{Action, Arg, Condition, Op, Profile, Rule, SubArches};

/// Why a profile was refused. The texts are Docker's, word for word.
#[expect(missing_docs, reason = "the messages name the fields")]
#[derive(Debug, thiserror::Error)]
pub enum ProfileError {
    #[error("decoding seccomp profile failed")]
    Decode(#[from] serde_json::Error),
    #[error(
        "both 'architectures' and 'archMap' are specified in the seccomp profile, use either 'architectures' or 'archMap'"
    )]
    BothArchitectures,
    #[error(
        "both 'name' and 'names' are specified in the seccomp profile, use either 'name' or 'names'"
    )]
    BothNames,
    #[error("a rule of the seccomp profile has no action: {names:?}")]
    NoAction { names: Vec<String> },
    #[error("invalid kernel version: {text:?}")]
    Kernel { text: String },
    #[error("{field} is not supported by this version of berth")]
    Unsupported { field: &'static str },
    #[error("unknown seccomp flag {name:?}")]
    Flag { name: String },
    #[error("the seccomp filter cannot be compiled")]
    Compile(#[from] libseccomp::error::SeccompError),
    #[error("the seccomp filter cannot be read back")]
    Export(#[source] std::io::Error),
}

/// What the conditions of a profile are held against.
#[derive(Debug, Clone, Copy)]
pub struct Circumstances<'a> {
    /// The container's bounding set.
    pub caps: &'a [String],
    /// Docker's name of this machine's architecture: `amd64`, `arm64` …
    pub arch: &'a str,
    /// The running kernel's `(major, minor)`.
    pub kernel: (u32, u32),
}

/// Docker's name of the architecture this program was built for.
pub const fn native_arch() -> &'static str {
    if cfg!(target_arch = "x86_64") {
        "amd64"
    } else if cfg!(target_arch = "aarch64") {
        "arm64"
    } else if cfg!(target_arch = "riscv64") {
        "riscv64"
    } else if cfg!(target_arch = "s390x") {
        "s390x"
    } else if cfg!(target_arch = "powerpc64") {
        "ppc64le"
    } else if cfg!(target_arch = "arm") {
        "arm"
    } else {
        "x86"
    }
}

fn libseccomp_arch(arch: &str) -> Option<&'static str> {
    Some(match arch {
        "x86" => "SCMP_ARCH_X86",
        "amd64" => "SCMP_ARCH_X86_64",
        "arm" => "SCMP_ARCH_ARM",
        "arm64" => "SCMP_ARCH_AARCH64",
        "ppc64le" => "SCMP_ARCH_PPC64LE",
        "riscv64" => "SCMP_ARCH_RISCV64",
        "s390x" => "SCMP_ARCH_S390X",
        _ => return None,
    })
}

/// The OCI form of Docker's default profile.
pub fn builtin(around: Circumstances<'_>) -> Result<Option<Value>, ProfileError> {
    translate(&default::profile(), around)
}

/// The OCI form of a profile in Docker's JSON; `None` when it filters nothing.
pub fn custom(text: &str, around: Circumstances<'_>) -> Result<Option<Value>, ProfileError> {
    translate(&serde_json::from_str(text)?, around)
}

/// The OCI form of `profile` under these circumstances; `None` when it filters nothing.
pub fn translate(
    profile: &Profile,
    around: Circumstances<'_>,
) -> Result<Option<Value>, ProfileError> {
    if profile.default_action.is_none() && profile.syscalls.is_empty() {
        return Ok(None);
    }
    let default_action = profile.default_action.ok_or(ProfileError::NoAction { names: vec![] })?;
    if !profile.listener_path.is_empty() || !profile.listener_metadata.is_empty() {
        return Err(ProfileError::Unsupported { field: "seccomp listenerPath" });
    }
    let mut syscalls = Vec::new();
    for rule in &profile.syscalls {
        let rule = Named::of(rule)?;
        if rule.counts(around)? {
            syscalls.push(rule.to_oci());
        }
    }
    let mut oci = json!({
        "defaultAction": default_action,
        "architectures": architectures(profile, around.arch)?,
        "syscalls": syscalls,
    });
    if let Some(errno) = profile.default_errno_ret {
        oci["defaultErrnoRet"] = json!(errno);
    }
    if !profile.flags.is_empty() {
        oci["flags"] = json!(profile.flags);
    }
    Ok(Some(oci))
}

fn architectures(profile: &Profile, arch: &str) -> Result<Vec<String>, ProfileError> {
    if !profile.architectures.is_empty() && !profile.arch_map.is_empty() {
        return Err(ProfileError::BothArchitectures);
    }
    let native = libseccomp_arch(arch);
    let entry = profile.arch_map.iter().find(|entry| Some(entry.architecture.as_str()) == native);
    let mut list = profile.architectures.clone();
    if let Some(entry) = entry {
        list.push(entry.architecture.clone());
        list.extend(entry.sub_architectures.iter().flatten().cloned());
    }
    Ok(list)
}

/// A rule with its names settled.
struct Named<'a> {
    names: Vec<&'a str>,
    action: Action,
    rule: &'a Rule,
}

impl<'a> Named<'a> {
    fn of(rule: &'a Rule) -> Result<Self, ProfileError> {
        let names: Vec<&str> = if rule.name.is_empty() {
            rule.names.iter().map(String::as_str).collect()
        } else if rule.names.is_empty() {
            vec![&rule.name]
        } else {
            return Err(ProfileError::BothNames);
        };
        let Some(action) = rule.action else {
            let names = names.into_iter().map(str::to_owned).collect();
            return Err(ProfileError::NoAction { names });
        };
        if action == Action::Notify {
            return Err(ProfileError::Unsupported { field: "seccomp action SCMP_ACT_NOTIFY" });
        }
        Ok(Self { names, action, rule })
    }

    fn counts(&self, around: Circumstances<'_>) -> Result<bool, ProfileError> {
        let Rule { includes, excludes, .. } = self.rule;
        let here = |arches: &[String]| arches.iter().any(|arch| arch == around.arch);
        if here(&excludes.arches)
            || excludes.caps.iter().any(|cap| around.caps.contains(cap))
            || kernel_reaches(excludes.min_kernel.as_deref(), around.kernel)? == Some(true)
        {
            return Ok(false);
        }
        Ok((includes.arches.is_empty() || here(&includes.arches))
            && includes.caps.iter().all(|cap| around.caps.contains(cap))
            && kernel_reaches(includes.min_kernel.as_deref(), around.kernel)? != Some(false))
    }

    fn to_oci(&self) -> Value {
        let mut oci = json!({ "names": self.names, "action": self.action });
        if let Some(errno) = self.rule.errno_ret {
            oci["errnoRet"] = json!(errno);
        }
        if !self.rule.args.is_empty() {
            oci["args"] = json!(self.rule.args);
        }
        oci
    }
}

/// Whether the running kernel is at least `wanted`; `None` when nothing is wanted.
fn kernel_reaches(wanted: Option<&str>, running: (u32, u32)) -> Result<Option<bool>, ProfileError> {
    let Some(text) = wanted.filter(|text| !text.is_empty()) else {
        return Ok(None);
    };
    let parsed = text
        .split_once('.')
        .and_then(|(major, minor)| Some((major.parse().ok()?, minor.parse().ok()?)));
    let wanted: (u32, u32) =
        parsed.ok_or_else(|| ProfileError::Kernel { text: text.to_owned() })?;
    Ok(Some(running >= wanted))
}
