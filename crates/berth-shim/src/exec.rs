//! Running one more process in the container, in a fork of the watcher.
//!
//! libcontainer is not asked: joining what is there takes few steps, and it takes many. What it
//! makes for a container (mounts, namespaces, control groups) is only entered here.

use std::fs::File;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;

use berth_shim_proto::{ExecRequest, ShimConfig};
use berth_sys::fork::{Forked, fork, fork_into};
use rustix::process::{Resource, Rlimit};
use rustix::thread::ThreadNameSpaceType;

use crate::cgroups::Cgroups;
use crate::confine::Confinement;
use crate::create::adjust_oom_score;
use crate::error::ShimError;
use crate::inside::{self, Inner};
use crate::process::end_fork;
use crate::spec::ExecSpec;
use crate::status::Report;

/// Where the new process goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) config: &'a ShimConfig,
    pub(crate) cgroups: &'a Cgroups,
    /// The container's own, and those of others that it joined.
    pub(crate) namespaces: ThreadNameSpaceType,
    /// Not reaped, so its pid is still its own.
    pub(crate) init: i32,
}

/// Docker's exit code of an exec that could not be started, but for its program.
pub(crate) const NOT_STARTED: i32 = 126;

/// Makes the process, and reports its pid and whatever keeps it from running its program. Runs in
/// a fork whose standard streams are already those of the process, or, with a `console` (where the
/// watcher takes a terminal from), nothing.
pub(crate) fn join(
    home: Home<'_>,
    request: &ExecRequest,
    console: Option<&UnixStream>,
    report: &Report,
) -> Result<(), ShimError> {
    let spec = ExecSpec::parse(&request.process)?;
    if let Some(adjustment) = home.config.oom_score_adj {
        adjust_oom_score(adjustment);
    }
    // Nothing in the container may look into this process while it has the host's descriptors.
    berth_sys::process::set_dumpable(false).map_err(ShimError::system("hide from tracing"))?;
    let confinement = Confinement::read(home.bundle, request.capabilities, home.config.seccomp)?;
    let init = berth_sys::process::pidfd_open(home.init)
        .map_err(ShimError::system("open the container's init"))?;
    let proc = spec.apparmor.as_ref().map(|_| open_proc()).transpose()?;
    let group = home.cgroups.enter().map_err(ShimError::system("join the control groups"))?;
    set_limits(&spec)?;
    let kept = [report.as_fd(), init.as_fd()].into_iter();
    let kept = kept.chain(console.map(UnixStream::as_fd)).chain(group.as_ref().map(File::as_fd));
    let kept = kept.chain(proc.as_ref().map(File::as_fd));
    let kept: Vec<_> = kept.map(|fd| fd.as_raw_fd()).collect();
    // What a path in the container could lead out through, `/proc/self/fd/N` as working directory.
    crate::io::close_others(&kept).map_err(ShimError::system("close what was inherited"))?;
    // The mounts last: this process needs the host's `/proc` until it has forked. With them the users:
    // in a user namespace it has no more power over the host's control groups.
    let late = home.namespaces & (ThreadNameSpaceType::MOUNT | ThreadNameSpaceType::USER);
    join_namespaces(&init, home.namespaces - late)?;
    // Of the pid namespace only a child is part.
    let side = match &group {
        None => fork().map_err(ShimError::system("fork"))?,
        Some(dir) => fork_into(dir.as_fd())
            .or_else(|_| fork_moved(home.cgroups))
            .map_err(ShimError::system("join the control group"))?,
    };
    drop(group);
    match side {
        Forked::Parent { pid } => {
            report.pid(pid);
            Ok(())
        }
        Forked::Child => {
            let remapped = home.namespaces.contains(ThreadNameSpaceType::USER);
            let inner = Inner { spec: &spec, request, console, proc, confinement, remapped };
            let result = join_namespaces(&init, late).and_then(|()| {
                drop(init);
                inside::run(inner)
            });
            end_fork(result.map(|never| match never {}), report, NOT_STARTED)
        }
    }
}

fn join_namespaces(init: &OwnedFd, namespaces: ThreadNameSpaceType) -> Result<(), ShimError> {
    if namespaces.is_empty() {
        return Ok(());
    }
    rustix::thread::move_into_thread_name_spaces(init.as_fd(), namespaces)
        .map_err(|errno| ShimError::system("join the container's namespaces")(errno.into()))
}

/// For kernels that cannot make a process inside a group.
fn fork_moved(cgroups: &Cgroups) -> std::io::Result<Forked> {
    cgroups.move_in()?;
    fork()
}

/// The host's `/proc`, for the AppArmor profile: the container's may be anything.
fn open_proc() -> Result<File, ShimError> {
    let path = Path::new("/proc");
    File::open(path).map_err(ShimError::file("open", path))
}

fn set_limits(spec: &ExecSpec) -> Result<(), ShimError> {
    for limit in &spec.rlimits {
        let resource = resource(&limit.name).ok_or_else(|| ShimError::Runtime {
            text: format!("unknown resource limit {:?}", limit.name),
        })?;
        let value = |value: u64| (value != u64::MAX).then_some(value);
        let new = Rlimit { current: value(limit.soft), maximum: value(limit.hard) };
        rustix::process::setrlimit(resource, new)
            .map_err(|errno| ShimError::system("set a resource limit")(errno.into()))?;
    }
    Ok(())
}

fn resource(name: &str) -> Option<Resource> {
    Some(match name {
        "RLIMIT_CPU" => Resource::Cpu,
        "RLIMIT_FSIZE" => Resource::Fsize,
        "RLIMIT_DATA" => Resource::Data,
        "RLIMIT_STACK" => Resource::Stack,
        "RLIMIT_CORE" => Resource::Core,
        "RLIMIT_RSS" => Resource::Rss,
        "RLIMIT_NPROC" => Resource::Nproc,
        "RLIMIT_NOFILE" => Resource::Nofile,
        "RLIMIT_MEMLOCK" => Resource::Memlock,
        "RLIMIT_AS" => Resource::As,
        "RLIMIT_LOCKS" => Resource::Locks,
        "RLIMIT_SIGPENDING" => Resource::Sigpending,
        "RLIMIT_MSGQUEUE" => Resource::Msgqueue,
        "RLIMIT_NICE" => Resource::Nice,
        "RLIMIT_RTPRIO" => Resource::Rtprio,
        "RLIMIT_RTTIME" => Resource::Rttime,
        _ => return None,
    })
}
