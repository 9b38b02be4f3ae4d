//! Network namespaces that live at a path.

use std::io;
use std::path::Path;

use rustix::thread::{LinkNameSpaceType, UnshareFlags};

use crate::mount::Unmount;

/// Runs `work` on a thread of its own and gives its answer, panics included.
fn on_thread<T: Send>(name: &str, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn_scoped(scope, work)?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Makes a new network namespace and binds it to the file `path`, which is created.
///
/// The namespace lives until [`remove`] and the end of the last process in it. On failure
/// nothing is left.
pub fn create(path: &Path) -> io::Result<()> {
    create_with(path, || {
        on_thread("netns-create", || {
            // SAFETY: CLONE_NEWNET only changes which network the calling thread sees. The thread
            // was made for this closure alone and ends with it, so no other code of the process can
            // find itself in another network; descriptor table and memory stay shared.
            unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNET)? };
            Ok(rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?)
        })
    })
}

/// As [`create`], for the namespace that is behind the file `from` already.
pub fn bind(from: &Path, path: &Path) -> io::Result<()> {
    create_with(path, || Ok(rustix::mount::mount_bind(from, path)?))
}

fn create_with(path: &Path, fill: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    std::fs::OpenOptions::new().write(true).create_new(true).open(path)?;
    let made = fill();
    if made.is_err() {
        std::fs::remove_file(path)?;
    }
    made
}

/// Unbinds the namespace at `path` and removes the file. Nothing there is fine.
pub fn remove(path: &Path) -> io::Result<()> {
    match crate::mount::unmount(path, Unmount::Lazy) {
        Err(error)
            if error.kind() == io::ErrorKind::NotFound
                || error.raw_os_error() == Some(libc::EINVAL) => {}
        other => other?,
    }
    match std::fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Moves the calling thread into the network namespace at `path`, for good.
///
/// For single-threaded programs and threads made for it; others use [`within`].
pub fn enter(path: &Path) -> io::Result<()> {
    let file = std::fs::File::open(path)?;
    let kind = Some(LinkNameSpaceType::Network);
    Ok(rustix::thread::move_into_link_name_space(std::os::fd::AsFd::as_fd(&file), kind)?)
}

/// Runs `work` inside the network namespace at `path`, on a thread of its own.
pub fn within<T: Send>(path: &Path, work: impl FnOnce() -> io::Result<T> + Send) -> io::Result<T> {
    on_thread("netns-within", || {
        enter(path)?;
        work()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_a_namespace_lives_at_its_path_until_it_is_removed() {
        if !testkit::is_root() {
            return testkit::skip("root_a_namespace_lives_at_its_path_until_it_is_removed", "root");
        }
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("net");
        create(&path).unwrap();
        assert_eq!(create(&path).unwrap_err().kind(), io::ErrorKind::AlreadyExists);
        let own = std::fs::read_link("/proc/thread-self/ns/net").unwrap();
        let inside = within(&path, || std::fs::read_link("/proc/thread-self/ns/net")).unwrap();
        assert_ne!(inside, own);
        assert_eq!(std::fs::read_link("/proc/thread-self/ns/net").unwrap(), own);
        remove(&path).unwrap();
        remove(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
    }
}
