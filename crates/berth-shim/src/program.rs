//! The program of a container's process: found, and executed in this process's place.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

use rustix::io::Errno;
use signal_hook::consts::FORBIDDEN;

use crate::lookup::{go_text, look_path};

/// A program with its arguments and environment.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Program<'a> {
    /// Its name first.
    pub(crate) args: &'a [String],
    pub(crate) env: &'a [String],
    /// Who runs it: for `HOME`.
    pub(crate) uid: u32,
}

impl Program<'_> {
    /// Whether it can be run, or the text that runc prints.
    pub(crate) fn check(&self) -> Result<(), String> {
        let name = self.args.first().map_or("", String::as_str);
        look_path(name, self.env).map(drop)
    }

    /// Executes it; what comes back is why not, as runc prints it.
    pub(crate) fn execute(&self) -> String {
        let name = self.args.first().map_or("", String::as_str);
        let path = match look_path(name, self.env) {
            Ok(path) => path,
            Err(text) => return text,
        };
        let errno = self.try_execute(&path).err().unwrap_or(Errno::INVAL);
        format!("exec {}: {}", path.display(), go_text(errno))
    }

    fn try_execute(&self, path: &Path) -> Result<(), Errno> {
        let invalid = |_nul| Errno::INVAL;
        let strings = |texts: &[String]| {
            let texts = texts.iter().map(|text| CString::new(text.as_bytes()));
            texts.collect::<Result<Vec<_>, _>>().map_err(invalid)
        };
        let path = CString::new(path.as_os_str().as_bytes()).map_err(invalid)?;
        let (args, env) = (strings(self.args)?, strings(&with_home(self.env, self.uid))?);
        reset_signals().map_err(|error| Errno::from_io_error(&error).unwrap_or(Errno::INVAL))?;
        match nix::unistd::execve(&path, &args, &env) {
            Err(errno) => Err(Errno::from_raw_os_error(errno as i32)),
        }
    }
}

/// Rust's runtime ignores SIGPIPE, and whoever started the daemon may have had others ignored: an
/// execve keeps that, but it resets what has a handler.
fn reset_signals() -> io::Result<()> {
    for signal in (1..32).filter(|signal| !FORBIDDEN.contains(signal)) {
        signal_hook::flag::register(signal, Arc::new(AtomicBool::new(false)))?;
    }
    Ok(())
}

/// runc adds `HOME` from the container's `/etc/passwd`, last.
fn with_home(env: &[String], uid: u32) -> Vec<String> {
    let mut env = env.to_vec();
    if env.iter().any(|pair| pair.strip_prefix("HOME=").is_some_and(|home| !home.is_empty())) {
        return env;
    }
    env.retain(|pair| !pair.starts_with("HOME="));
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
    let home = passwd.lines().find_map(|line| {
        let fields: Vec<_> = line.split(':').collect();
        (fields.len() >= 6 && fields[2].parse() == Ok(uid)).then(|| fields[5].to_owned())
    });
    let home = home.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned());
    env.push(format!("HOME={home}"));
    env
}
