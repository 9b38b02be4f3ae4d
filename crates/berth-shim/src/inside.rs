//! The part of an exec that runs inside the container's namespaces: terminal, working directory,
//! user, privileges, program. Nothing of the host but the pipe to the watcher is open here.

use std::convert::Infallible;
use std::fs::File;
use std::io::Write as _;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;

use berth_shim_proto::ExecRequest;
use rustix::fs::{Gid, Mode, OFlags, Uid};
use rustix::io::Errno;
use rustix::pty::OpenptFlags;
use rustix::thread::CapabilitySets;

use crate::confine::Confinement;
use crate::error::ShimError;
use crate::exec::NOT_STARTED;
use crate::io::prepare_terminal;
use crate::lookup::go_text;
use crate::program::Program;
use crate::spec::ExecSpec;

/// What the process is made of.
#[derive(Debug)]
pub(crate) struct Inner<'a> {
    pub(crate) spec: &'a ExecSpec,
    pub(crate) request: &'a ExecRequest,
    /// Where a terminal goes to.
    pub(crate) console: Option<&'a UnixStream>,
    /// The host's `/proc`, where there is an AppArmor profile to set.
    pub(crate) proc: Option<File>,
    pub(crate) confinement: Confinement,
    /// Users are others here than on the host.
    pub(crate) remapped: bool,
}

/// Becomes the program, or says why not.
pub(crate) fn run(inner: Inner<'_>) -> Result<Infallible, ShimError> {
    let Inner { spec, request, console, proc, confinement, remapped } = inner;
    if remapped {
        become_root().map_err(system("become the container's root"))?;
    }
    rustix::process::setsid().map_err(system("start a session"))?;
    if let Some(console) = console {
        take_terminal(console, spec.user.uid, request.console_size)?;
    }
    if let (Some(profile), Some(proc)) = (&spec.apparmor, proc) {
        set_profile(&proc, profile)?;
    }
    if spec.no_new_privileges {
        rustix::thread::set_no_new_privs(true).map_err(system("give up new privileges"))?;
    }
    // First as root: the directory may be one that the user may not search. On a file system where
    // root has no rights, the user himself.
    let early = enter(spec);
    become_user(spec)?;
    if early == Err(Errno::PERM) || early == Err(Errno::ACCESS) {
        enter(spec).map_err(|errno| no_directory(spec, errno))?;
    } else {
        early.map_err(|errno| no_directory(spec, errno))?;
    }
    confinement.put_on(spec.no_new_privileges)?;
    let program = Program { args: &spec.args, env: &spec.env, uid: spec.user.uid };
    let text = program.execute();
    Err(ShimError::Refused { failure: crate::error::failure(text, NOT_STARTED) })
}

fn system(action: &'static str) -> impl FnOnce(Errno) -> ShimError {
    move |errno| ShimError::System { action, source: errno.into() }
}

fn take_terminal(console: &UnixStream, uid: u32, size: (u16, u16)) -> Result<(), ShimError> {
    let master =
        rustix::pty::openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)
            .map_err(system("open a terminal"))?;
    let take = || -> std::io::Result<()> {
        rustix::pty::unlockpt(&master)?;
        prepare_terminal(&master, uid, size)?;
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let slave: OwnedFd = rustix::pty::ioctl_tiocgptpeer(&master, flags)?;
        rustix::process::ioctl_tiocsctty(&slave)?;
        rustix::stdio::dup2_stdin(&slave)?;
        rustix::stdio::dup2_stdout(&slave)?;
        rustix::stdio::dup2_stderr(&slave)?;
        berth_sys::socket::send_fd(console, b"tty", master.as_fd()).map(drop)
    };
    take().map_err(ShimError::system("take the terminal"))
}

fn set_profile(proc: &File, profile: &str) -> Result<(), ShimError> {
    let set = || -> std::io::Result<()> {
        // Where AppArmor is one of several security modules it has a directory of its own.
        let open = |path: &str| {
            rustix::fs::openat(proc, path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
        };
        let file = match open("thread-self/attr/apparmor/exec") {
            Err(Errno::NOENT) => open("thread-self/attr/exec"),
            other => other,
        };
        File::from(file?).write_all(format!("exec {profile}").as_bytes())
    };
    set().map_err(ShimError::system("apply the AppArmor profile"))
}

/// Goes to the working directory, which must be in the container: a path there may lead out
/// through what this process has open.
fn enter(spec: &ExecSpec) -> Result<(), Errno> {
    rustix::process::chdir(&*spec.cwd)?;
    let reached = rustix::process::getcwd(Vec::new())?;
    if reached.as_bytes().starts_with(b"/") { Ok(()) } else { Err(Errno::NOENT) }
}

fn no_directory(spec: &ExecSpec, errno: Errno) -> ShimError {
    let text =
        format!("chdir to cwd ({:?}) set in config.json failed: {}", spec.cwd, go_text(errno));
    ShimError::Runtime { text }
}

/// The host's root is nobody here.
fn become_root() -> Result<(), Errno> {
    rustix::thread::set_thread_groups(&[])?;
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT)?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT)
}

/// Changes users without losing what is needed to confine the process afterwards.
fn become_user(spec: &ExecSpec) -> Result<(), ShimError> {
    let become_them = || -> Result<(), Errno> {
        let groups: Vec<Gid> =
            spec.user.additional_gids.iter().map(|gid| Gid::from_raw(*gid)).collect();
        rustix::thread::set_keep_capabilities(true)?;
        rustix::thread::set_thread_groups(&groups)?;
        let (uid, gid) = (Uid::from_raw(spec.user.uid), Gid::from_raw(spec.user.gid));
        rustix::thread::set_thread_res_gid(gid, gid, gid)?;
        rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        rustix::thread::set_keep_capabilities(false)?;
        let CapabilitySets { permitted, inheritable, .. } = rustix::thread::capabilities(None)?;
        let all = CapabilitySets { effective: permitted, permitted, inheritable };
        rustix::thread::set_capabilities(None, all)
    };
    become_them().map_err(system("become the user"))
}
