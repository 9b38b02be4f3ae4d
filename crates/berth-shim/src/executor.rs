//! The last step inside the container: find the program, execute it.

use std::collections::HashMap;
use std::ffi::CString;
use std::os::unix::ffi::OsStrExt as _;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use libcontainer::workload::{
    Executor, ExecutorError, ExecutorSetEnvsError, ExecutorValidationError,
};
use oci_spec::runtime::{Process, Spec};
use signal_hook::consts::FORBIDDEN;

use crate::confine::Confinement;
use crate::error::failure;
use crate::lookup::look_path;
use crate::status::Report;

/// Tells the watcher in runc's words when there is no such program.
#[derive(Debug, Clone)]
pub(crate) struct Launch {
    pub(crate) report: Report,
    /// The exit code of other failures: 128 for a container, 126 for an exec.
    pub(crate) otherwise: i32,
    /// Whether nobody listens any more when the program is executed, as with a container's init
    /// after its start; then the container's standard error is told.
    pub(crate) late: bool,
    /// What the program must not have.
    pub(crate) confinement: Rc<Confinement>,
}

fn args_and_env(spec: &Spec) -> (&[String], Vec<String>) {
    let process = spec.process().as_ref();
    let args = process.and_then(|process| process.args().as_deref()).unwrap_or_default();
    let env = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
    (args, env.to_vec())
}

/// runc adds `HOME` from the container's `/etc/passwd`, last.
fn with_home(mut env: Vec<String>, spec: &Spec) -> Vec<String> {
    if env.iter().any(|pair| pair.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        return env;
    }
    env.retain(|pair| !pair.starts_with("HOME="));
    let uid = spec.process().as_ref().map_or(0, |process| process.user().uid());
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid)).then(|| fields[5].to_owned())
    });
    let home = home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    env.push(format!("HOME={home}"));
    env
}

impl Executor for Launch {
    /// The first thing of ours that runs inside the container, with all that libcontainer needed
    /// still held: gives it up, and then looks for the program with what is left.
    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let process = spec.process().as_ref();
        let no_new_privileges = process.and_then(Process::no_new_privileges).unwrap_or(false);
        if let Err(error) = self.confinement.put_on(no_new_privileges) {
            let told = error.failure(self.otherwise);
            self.report.failure(&told);
            return Err(ExecutorValidationError::ArgValidationError(told.message));
        }
        let (args, env) = args_and_env(spec);
        let program = args.first().map_or("", String::as_str);
        match look_path(program, &env) {
            Ok(_) => Ok(()),
            Err(text) => {
                self.report.failure(&failure(text.clone(), self.otherwise));
                Err(ExecutorValidationError::ArgValidationError(text))
            }
        }
    }

    /// Nothing: the environment is given with the program, in its order.
    fn setup_envs(&self, _: HashMap<String, String>) -> Result<(), ExecutorSetEnvsError> {
        Ok(())
    }

    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let (args, env) = args_and_env(spec);
        let name = args.first().ok_or(ExecutorError::InvalidArg)?;
        let path = look_path(name, &env).map_err(ExecutorError::Other)?;
        let env = with_home(env, spec);
        let path = CString::new(path.as_os_str().as_bytes()).or(Err(ExecutorError::InvalidArg))?;
        // Rust's runtime ignores SIGPIPE, and whoever started the daemon may have had others
        // ignored: an execve keeps that, but it resets what has a handler.
        for signal in (1..32).filter(|signal| !FORBIDDEN.contains(signal)) {
            signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))
                .map_err(|error| ExecutorError::Other(error.to_string()))?;
        }
        let Err(errno) = nix::unistd::execve(&path, &strings(args)?, &strings(&env)?);
        let cause = crate::lookup::go_text(rustix::io::Errno::from_raw_os_error(errno as i32));
        let text = format!("exec {}: {cause}", path.to_string_lossy());
        if self.late {
            crate::say(&text);
        } else {
            self.report.failure(&failure(text.clone(), self.otherwise));
        }
        end_as_runc_does()
    }
}

#[expect(clippy::exit, reason = "libcontainer would end this process with 255, runc ends with 1")]
fn end_as_runc_does() -> ! {
    std::process::exit(1)
}

fn strings(texts: &[String]) -> Result<Vec<CString>, ExecutorError> {
    texts
        .iter()
        .map(|text| CString::new(text.as_bytes()).or(Err(ExecutorError::InvalidArg)))
        .collect()
}
