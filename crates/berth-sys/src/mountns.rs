//! Mounts that only one thread sees.

use std::io;

use rustix::mount::MountPropagationFlags;
use rustix::thread::UnshareFlags;

/// Runs `work` on a thread of its own in a mount namespace of its own, where nothing that it
/// mounts can be seen by others; everything it mounted is gone when it ends, however it ends.
///
/// Mounts made elsewhere meanwhile still arrive in it.
pub fn within_private<T: Send>(work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("private-mounts".to_owned()).spawn_scoped(
            scope,
            || {
                // SAFETY: the namespaces of mounts and of the working directory are changed for
                // the calling thread alone; it was made for this closure and ends with it. The
                // descriptor table stays shared, so descriptors mean the same everywhere.
                unsafe {
                    rustix::thread::unshare_unsafe(UnshareFlags::NEWNS | UnshareFlags::FS)?;
                }
                let flags = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
                rustix::mount::mount_change("/", flags)?;
                Ok(work())
            },
        )?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn root_a_mount_made_within_is_seen_nowhere_else() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("inside");
        let seen = super::within_private(|| {
            rustix::mount::mount(
                "tmpfs",
                dir.path(),
                "tmpfs",
                rustix::mount::MountFlags::empty(),
                None::<&std::ffi::CStr>,
            )
            .unwrap();
            std::fs::File::create(&file).unwrap();
            file.metadata().is_ok()
        });
        assert!(seen.unwrap());
        assert!(file.metadata().is_err());
    }
}
