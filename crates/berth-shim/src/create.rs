//! Creating the container with libcontainer, in a fork.

use std::fs;
use std::os::fd::OwnedFd;
use std::path::{Component, Path, PathBuf};
use std::rc::Rc;

use berth_shim_proto::ShimConfig;
use berth_types::Owner;
use berth_types::kind::chain;
use libcontainer::container::builder::ContainerBuilder;
use libcontainer::syscall::syscall::SyscallType;
use oci_spec::runtime::Spec;
use rustix::fs::{AtFlags, Gid, Mode, OFlags, ResolveFlags, Uid};
use rustix::io::Errno;

use crate::confine::Confinement;
use crate::error::ShimError;
use crate::executor::Launch;
use crate::state;
use crate::status::Report;

/// Creates the container and reports its init's pid. Runs in a fork whose standard streams are
/// already the container's.
pub(crate) fn create(bundle: &Path, config: &ShimConfig, report: &Report) -> Result<(), ShimError> {
    let config_path = bundle.join(state::CONFIG);
    let spec = Spec::load(&config_path).map_err(|error| runtime(&error))?;
    ensure_cwd(bundle, &spec, config.ids.root())?;
    if !config.ids.is_identity() {
        // Those of the host's root would go along into the container.
        rustix::thread::set_thread_groups(&[])
            .map_err(|errno| ShimError::system("leave the host's groups")(errno.into()))?;
    }
    if let Some(adjustment) = config.oom_score_adj {
        adjust_oom_score(adjustment);
    }
    let confinement = Confinement::read(bundle, config.capabilities, config.seccomp)?;
    let executor = Launch { report: report.clone(), confinement: Rc::new(confinement) };
    let mut builder = ContainerBuilder::new(config.id.clone(), SyscallType::Linux)
        .with_root_path(bundle.join(state::STATE_DIR))
        .map_err(|error| runtime(&error))?
        .with_executor(executor);
    if config.tty {
        builder = builder.with_console_socket(Some(bundle.join(state::CONSOLE)));
    }
    let init = builder.as_init(bundle).with_systemd(false).with_detach(true);
    let container = init.build().map_err(|error| runtime(&error))?;
    let pid = container.pid().ok_or_else(|| ShimError::Runtime {
        text: "the container was created without an init".to_owned(),
    })?;
    report.pid(pid.as_raw());
    Ok(())
}

pub(crate) fn runtime(error: &dyn std::error::Error) -> ShimError {
    ShimError::Runtime { text: chain(error) }
}

/// As much as this process may: without a capability the value can only go up.
pub(crate) fn adjust_oom_score(adjustment: i32) {
    use std::io::Write as _;
    let file = fs::File::options().write(true).open("/proc/self/oom_score_adj");
    drop(file.and_then(|mut file| file.write_all(adjustment.to_string().as_bytes())));
}

/// Makes the working directory where it is missing, as runc does; in the file system that will be
/// there, which for a path below a bind mount is that of its source. `owner` is the container's root.
fn ensure_cwd(bundle: &Path, spec: &Spec, owner: Owner) -> Result<(), ShimError> {
    let (Some(process), Some(root)) = (spec.process(), spec.root()) else { return Ok(()) };
    let cwd = process.cwd();
    let mut base = (bundle.join(root.path()), PathBuf::from("/"));
    for mount in spec.mounts().iter().flatten() {
        let destination = mount.destination();
        if !cwd.starts_with(destination) || !destination.starts_with(&base.1) {
            continue;
        }
        let options = mount.options().iter().flatten();
        let bind = options.clone().any(|option| option == "bind" || option == "rbind");
        match mount.source() {
            Some(source) if bind && !options.clone().any(|option| option == "ro") => {
                base = (source.clone(), destination.clone());
            }
            // A file system that is not there yet, or that must not be written to.
            _ => return Ok(()),
        }
    }
    let rest = cwd.strip_prefix(&base.1).unwrap_or(Path::new(""));
    make_beneath(&base.0, rest, owner).map_err(|errno| ShimError::Runtime {
        text: format!("mkdir {}: {}", cwd.display(), crate::lookup::go_text(errno)),
    })
}

/// `mkdir -p` of `path` below `root`; links are followed as if `root` were `/`.
fn make_beneath(root: &Path, path: &Path, owner: Owner) -> Result<(), Errno> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(root, flags, Mode::empty())?;
    let enter =
        |path: &Path| rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT);
    let mut there: OwnedFd = enter(Path::new("."))?;
    let mut so_far = PathBuf::new();
    for part in path.components() {
        let Component::Normal(name) = part else { continue };
        so_far.push(name);
        there = match enter(&so_far) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&there, name, Mode::from_raw_mode(0o755))?;
                if owner != Owner::ROOT {
                    let (uid, gid) = (Uid::from_raw(owner.uid), Gid::from_raw(owner.gid));
                    let flags = AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::chownat(&there, name, Some(uid), Some(gid), flags)?;
                }
                enter(&so_far)?
            }
            other => other?,
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn the_working_directory_is_made_inside_the_root() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().join("root");
        fs::create_dir_all(root.join("real")).unwrap();
        symlink("/real", root.join("link")).unwrap();
        symlink("../../..", root.join("up")).unwrap();
        make_beneath(&root, Path::new("a/b"), Owner::ROOT).unwrap();
        make_beneath(&root, Path::new("link/c"), Owner::ROOT).unwrap();
        make_beneath(&root, Path::new("up/d"), Owner::ROOT).unwrap();
        for made in ["a/b", "real/c", "d"] {
            assert!(fs::metadata(root.join(made)).unwrap().is_dir(), "{made}");
        }
        fs::File::create(root.join("file")).unwrap();
        assert_eq!(make_beneath(&root, Path::new("file"), Owner::ROOT), Err(Errno::NOTDIR));
    }
}
