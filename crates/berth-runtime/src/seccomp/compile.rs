//! From the OCI form of a filter to the program that the kernel runs, once for each filter.

use std::collections::HashMap;
use std::io::{self, Read as _, Seek as _};
use std::sync::{Arc, Mutex, PoisonError};

use libseccomp::error::SeccompError;
use libseccomp::{
    ScmpAction, ScmpArch, ScmpArgCompare, ScmpCompareOp, ScmpFilterContext, ScmpSyscall,
};
use rustix::fs::MemfdFlags;
use serde_json::Value;

use super::newer::Newer;
use super::profile::{Arg, Op};
use super::{Circumstances, ProfileError};

/// `SECCOMP_FILTER_FLAG_…` bits of the kernel.
const FLAGS: [(&str, u32); 4] = [
    ("SECCOMP_FILTER_FLAG_TSYNC", 1),
    ("SECCOMP_FILTER_FLAG_LOG", 1 << 1),
    ("SECCOMP_FILTER_FLAG_SPEC_ALLOW", 1 << 2),
    ("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV", 1 << 5),
];
/// libseccomp's level that arranges calls in a binary tree: some ten comparisons for each system
/// call of a container instead of some hundreds.
const BINARY_TREE: u32 = 2;
const EPERM: i32 = 1;
/// Filters that are remembered; daemons have a handful.
const REMEMBERED: usize = 64;

/// A compiled filter.
#[derive(Debug, Clone, PartialEq)]
pub struct Filter {
    /// Its OCI form.
    pub oci: Value,
    /// The program, as `seccomp(2)` takes it on this machine.
    pub program: Vec<u8>,
    /// `SECCOMP_FILTER_FLAG_…` bits to install it with.
    pub flags: u32,
}

type Key = (Option<String>, Vec<String>, (u32, u32));

/// Compiling takes ten times as long as starting a process; the same profile for the same
/// capabilities gives the same filter.
static KNOWN: Mutex<Option<HashMap<Key, Option<Arc<Filter>>>>> = Mutex::new(None);

/// The filter of a profile in Docker's JSON, or of Docker's own; `None` when it filters nothing.
pub fn filter(
    profile: Option<&str>,
    around: Circumstances<'_>,
) -> Result<Option<Arc<Filter>>, ProfileError> {
    let key = (profile.map(str::to_owned), around.caps.to_vec(), around.kernel);
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    let known = known.get_or_insert_default();
    if let Some(filter) = known.get(&key) {
        return Ok(filter.clone());
    }
    let oci = match profile {
        None => super::builtin(around)?,
        Some(text) => super::custom(text, around)?,
    };
    let filter = oci.map(compile).transpose()?.map(Arc::new);
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(key, filter.clone());
    Ok(filter)
}

/// Compiles the OCI form.
pub fn compile(oci: Value) -> Result<Filter, ProfileError> {
    let program = program(&oci)?;
    let names: Vec<&str> = strings(&oci["flags"]).collect();
    let mut flags = 0;
    for name in names {
        let bit = FLAGS.iter().find(|(known, _)| *known == name).map(|(_, bit)| bit);
        flags |= bit.ok_or_else(|| ProfileError::Flag { name: name.to_owned() })?;
    }
    Ok(Filter { oci, program, flags })
}

fn program(oci: &Value) -> Result<Vec<u8>, ProfileError> {
    let default = action(oci, "defaultAction", "defaultErrnoRet")?;
    let mut context = ScmpFilterContext::new(default)?;
    context.set_ctl_optimize(BINARY_TREE)?;
    let mut archs = vec![ScmpArch::native()];
    for name in strings(&oci["architectures"]) {
        let arch = name.parse::<ScmpArch>()?;
        context.add_arch(arch)?;
        archs.push(arch);
    }
    let mut newer = Newer::new(archs);
    for rule in oci["syscalls"].as_array().into_iter().flatten() {
        let action = action(rule, "action", "errnoRet")?;
        // libseccomp refuses rules that say what goes without saying.
        if action == default {
            strings(&rule["names"]).for_each(|name| newer.see(name));
            continue;
        }
        let args: Vec<Arg> = rule.get("args").map(Arg::list).transpose()?.unwrap_or_default();
        for name in strings(&rule["names"]) {
            newer.see(name);
            let Ok(call) = ScmpSyscall::from_name(name) else {
                newer.decide(name, action, args.is_empty());
                continue;
            };
            add(&mut context, action, call, &args)?;
        }
    }
    let program = export(&context).map_err(ProfileError::Export)?;
    if matches!(default, ScmpAction::Errno(EPERM)) {
        return Ok([newer.prefix(), program].concat());
    }
    Ok(program)
}

/// libseccomp takes one comparison an argument in a rule. Several of one argument become rules of
/// their own, as runc makes them: any of them is enough.
fn add(
    context: &mut ScmpFilterContext,
    action: ScmpAction,
    call: ScmpSyscall,
    args: &[Arg],
) -> Result<(), SeccompError> {
    let comparisons: Vec<ScmpArgCompare> = args.iter().map(comparison).collect();
    let repeated = args
        .iter()
        .enumerate()
        .any(|(at, arg)| args[..at].iter().any(|earlier| earlier.index == arg.index));
    if !repeated {
        context.add_rule_conditional(action, call, &comparisons)?;
        return Ok(());
    }
    for one in &comparisons {
        context.add_rule_conditional(action, call, std::slice::from_ref(one))?;
    }
    Ok(())
}

fn comparison(arg: &Arg) -> ScmpArgCompare {
    let (op, datum) = match arg.op {
        Op::Ne => (ScmpCompareOp::NotEqual, arg.value),
        Op::Lt => (ScmpCompareOp::Less, arg.value),
        Op::Le => (ScmpCompareOp::LessOrEqual, arg.value),
        Op::Eq => (ScmpCompareOp::Equal, arg.value),
        Op::Ge => (ScmpCompareOp::GreaterEqual, arg.value),
        Op::Gt => (ScmpCompareOp::Greater, arg.value),
        Op::MaskedEq => (ScmpCompareOp::MaskedEqual(arg.value), arg.value_two),
    };
    ScmpArgCompare::new(arg.index, op, datum)
}

fn action(of: &Value, key: &str, errno: &str) -> Result<ScmpAction, ProfileError> {
    let name = of[key].as_str().unwrap_or_default();
    let number = of[errno].as_i64().and_then(|number| i32::try_from(number).ok());
    Ok(ScmpAction::from_str(name, Some(number.unwrap_or(EPERM)))?)
}

fn export(context: &ScmpFilterContext) -> io::Result<Vec<u8>> {
    let memory = rustix::fs::memfd_create("seccomp.bpf", MemfdFlags::CLOEXEC)?;
    let mut file = std::fs::File::from(memory);
    context.export_bpf(&file).map_err(io::Error::other)?;
    let mut program = Vec::new();
    file.rewind()?;
    file.read_to_end(&mut program)?;
    Ok(program)
}

fn strings(list: &Value) -> impl Iterator<Item = &str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str)
}
