//! The watcher's program, opened once.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The watcher's program, as this daemon found it when it started.
///
/// It is executed through a read-only mount of its own that no mount namespace has. A container
/// can get the program executed inside itself (its `/bin/sh` may be a link to `/proc/self/exe`),
/// and could then open the file behind `/proc/PID/exe`; through this mount nobody opens it for
/// writing. A program that an upgrade replaces meanwhile is not mixed with this daemon either.
#[derive(Debug)]
pub struct Program {
    path: PathBuf,
    sealed: Option<OwnedFd>,
}

impl Program {
    /// Opens it. Without the rights for such a mount, or with a kernel before 5.12, the program is
    /// executed where it is, and the error says so.
    pub fn open(path: &Path) -> (Self, Option<io::Error>) {
        let path = path.to_owned();
        match berth_sys::mount::read_only_clone(&path) {
            Ok(sealed) => (Self { path, sealed: Some(sealed) }, None),
            Err(error) => (Self { path, sealed: None }, Some(error)),
        }
    }

    /// Executed where it is.
    #[cfg(test)]
    pub(super) fn where_it_is(path: &Path) -> Self {
        Self { path: path.to_owned(), sealed: None }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// A command that runs it.
    pub(super) fn command(&self) -> Command {
        let Some(sealed) = &self.sealed else { return Command::new(&self.path) };
        let mut command = Command::new(format!("/proc/self/fd/{}", sealed.as_raw_fd()));
        command.arg0(&self.path);
        command
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::StatVfsMountFlags;

    #[test]
    fn root_the_program_runs_and_cannot_be_opened_for_writing() {
        let test = "root_the_program_runs_and_cannot_be_opened_for_writing";
        if !rustix::process::geteuid().is_root() {
            testkit::skip(test, "needs root");
            return;
        }
        let (program, error) = Program::open(Path::new("/bin/cat"));
        assert!(error.is_none(), "{error:?}");
        let output = program.command().arg("/proc/self/cmdline").output().unwrap();
        assert_eq!(output.stdout, b"/bin/cat\0/proc/self/cmdline\0");
        let mut child = program.command().stdin(std::process::Stdio::piped()).spawn().unwrap();
        let exe = rustix::fs::statvfs(format!("/proc/{}/exe", child.id())).unwrap();
        drop(child.stdin.take());
        assert!(child.wait().unwrap().success());
        assert!(exe.f_flag.contains(StatVfsMountFlags::RDONLY));
    }
}
