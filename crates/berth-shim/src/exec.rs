//! Running one more process in the container, in a fork.
//!
//! libcontainer's own tenant builder is not used: it would compile the container's filter again, and
//! lose it on the way. What it would do with its parts is done here.

use std::fs::{self, File};
use std::os::fd::{AsFd as _, AsRawFd as _, IntoRawFd as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use berth_shim_proto::{ExecRequest, ShimConfig};
use libcgroups::common::CgroupConfig;
use libcontainer::container::Container;
use libcontainer::notify_socket::{NotifyListener, NotifySocket};
use libcontainer::process::args::{ContainerArgs, ContainerType};
use libcontainer::process::container_main_process::container_main_process;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::{
    LinuxBuilder, LinuxNamespace, LinuxNamespaceBuilder, LinuxNamespaceType, Process, Spec,
};
use rustix::fs::{Mode, OFlags, ResolveFlags};

use crate::confine::Confinement;
use crate::create::{adjust_oom_score, runtime};
use crate::error::ShimError;
use crate::executor::Launch;
use crate::lookup::go_text;
use crate::process::receive_terminal;
use crate::state;
use crate::status::Report;

/// Where the new process goes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Home<'a> {
    pub(crate) bundle: &'a Path,
    pub(crate) config: &'a ShimConfig,
    pub(crate) init: i32,
}

/// Sets the process up, reports its pid and lets it go. Runs in a fork whose standard streams are
/// already those of the process, or, with a `console` (the watcher's end and the other), nothing.
pub(crate) fn join(
    home: Home<'_>,
    request: &ExecRequest,
    uid: u32,
    console: Option<&(UnixStream, UnixStream)>,
    report: &Report,
) -> Result<(), ShimError> {
    let process = process_of(request)?;
    check_cwd(home.init, process.cwd())?;
    if let Some(adjustment) = process.oom_score_adj().or(home.config.oom_score_adj) {
        adjust_oom_score(adjustment);
    }
    // Nothing in the container may look into this process while it has the host's descriptors.
    berth_sys::process::set_dumpable(false).map_err(ShimError::system("hide from tracing"))?;
    let spec = tenant_spec(home, process)?;
    let linux = spec.linux().as_ref();
    let cgroup_path = linux.and_then(|linux| linux.cgroups_path().clone()).unwrap_or_default();
    let root = spec.root().as_ref().map(|root| root.path().clone()).unwrap_or_default();
    let state_dir = home.bundle.join(state::STATE_DIR).join(&home.config.id);
    let container = Container::load(state_dir.clone()).map_err(|error| runtime(&error))?;
    let notify = state_dir.join(format!("{}.sock", request.id));
    let listener = NotifyListener::new(&notify).map_err(|error| runtime(&error))?;
    let confinement = Confinement::read(home.bundle, request.capabilities, home.config.seccomp)?;
    let ignored = File::options()
        .write(true)
        .open("/dev/null")
        .map_err(ShimError::file("open", Path::new("/dev/null")))?;
    let args = ContainerArgs {
        container_type: ContainerType::TenantContainer { exec_notify_fd: ignored.into_raw_fd() },
        syscall: SyscallType::Linux,
        spec: Rc::new(spec),
        rootfs: root,
        console_socket: console.map(|(_, theirs)| theirs.as_raw_fd()),
        notify_listener: listener,
        preserve_fds: 0,
        container: Some(container),
        user_ns_config: None,
        cgroup_config: CgroupConfig {
            cgroup_path,
            systemd_cgroup: false,
            container_name: home.config.id.clone(),
        },
        detached: true,
        executor: Box::new(Launch {
            report: report.clone(),
            otherwise: 126,
            late: false,
            confinement: Rc::new(confinement),
        }),
        no_pivot: false,
        stdin: None,
        stdout: None,
        stderr: None,
        as_sibling: false,
        pid_file: None,
    };
    let made = container_main_process(&args).map_err(|error| runtime(&error));
    let started = made.and_then(|pid| {
        if let Some(console) = console {
            pass_terminal(console, uid, request.console_size)?;
        }
        report.pid(pid.as_raw());
        NotifySocket::new(notify.clone()).notify_container_start().map_err(|error| runtime(&error))
    });
    fs::remove_file(&notify).map_err(ShimError::file("remove", &notify)).and(started)
}

/// Makes the terminal ready before the program runs, and sends it on to the watcher.
fn pass_terminal(
    (ours, theirs): &(UnixStream, UnixStream),
    uid: u32,
    size: (u16, u16),
) -> Result<(), ShimError> {
    let master = receive_terminal(ours, uid, size)?;
    berth_sys::socket::send_fd(theirs, b"tty", master.as_fd())
        .map(drop)
        .map_err(ShimError::system("pass the terminal on"))
}

fn process_of(request: &ExecRequest) -> Result<Process, ShimError> {
    let mut value = request.process.clone();
    let terminal = request.tty;
    value["terminal"] = terminal.into();
    serde_json::from_value(value).map_err(|error| runtime(&error))
}

fn check_cwd(init: i32, cwd: &Path) -> Result<(), ShimError> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(format!("/proc/{init}/root"), flags, Mode::empty());
    let found = root.and_then(|root| {
        rustix::fs::openat2(&root, cwd, flags, Mode::empty(), ResolveFlags::IN_ROOT)
    });
    found.map(drop).map_err(|errno| ShimError::Runtime {
        text: format!(
            "chdir to cwd ({:?}) set in config.json failed: {}",
            cwd.display().to_string(),
            go_text(errno)
        ),
    })
}

/// The container's spec with this process and the namespaces of its init.
fn tenant_spec(home: Home<'_>, process: Process) -> Result<Spec, ShimError> {
    let path = home.bundle.join(state::CONFIG);
    let mut spec = Spec::load(path).map_err(|error| runtime(&error))?;
    spec.canonicalize_rootfs(home.bundle).map_err(|error| runtime(&error))?;
    let Some(linux) = spec.linux().clone() else {
        return Err(ShimError::Runtime { text: "config.json has no linux section".to_owned() });
    };
    let namespaces = linux.namespaces().iter().flatten();
    let joined = namespaces
        .map(|namespace| joined(home.init, namespace.typ()))
        .collect::<Result<Vec<_>, _>>()?;
    let mut tenant =
        LinuxBuilder::default().namespaces(joined).build().map_err(|error| runtime(&error))?;
    tenant.set_cgroups_path(linux.cgroups_path().clone());
    tenant.set_personality(linux.personality().clone());
    tenant.set_resources(None);
    spec.set_process(Some(process));
    spec.set_linux(Some(tenant));
    spec.set_hooks(None);
    Ok(spec)
}

fn joined(init: i32, kind: LinuxNamespaceType) -> Result<LinuxNamespace, ShimError> {
    let file = match kind {
        LinuxNamespaceType::Mount => "mnt",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "net",
        LinuxNamespaceType::Time => "time",
    };
    LinuxNamespaceBuilder::default()
        .typ(kind)
        .path(PathBuf::from(format!("/proc/{init}/ns/{file}")))
        .build()
        .map_err(|error| runtime(&error))
}
