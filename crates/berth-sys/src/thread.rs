//! Threads whose working directory is their own.

use std::io;
use std::thread::{Builder, Scope, ScopedJoinHandle};

use rustix::thread::UnshareFlags;

/// Runs `work` on a thread that may change its working directory without anybody else's changing.
/// It begins where the process is; what the thread went to is not held beyond its end.
pub fn with_own_directory<'scope, T: Send + 'scope>(
    scope: &'scope Scope<'scope, '_>,
    name: &str,
    work: impl FnOnce() -> T + Send + 'scope,
) -> io::Result<ScopedJoinHandle<'scope, io::Result<T>>> {
    Builder::new().name(name.to_owned()).spawn_scoped(scope, || {
        // SAFETY: the working directory is unshared for the calling thread alone; it was made for
        // this closure and ends with it. The descriptor table stays shared, so descriptors mean the
        // same everywhere.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::FS)? };
        let done = work();
        // The kernel wakes whoever joins before it lets go of the directory.
        rustix::process::chdir("/")?;
        Ok(done)
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn only_the_thread_moves() {
        let before = std::env::current_dir().unwrap();
        let elsewhere = tempfile::tempdir().unwrap();
        let there = std::thread::scope(|scope| {
            let thread = super::with_own_directory(scope, "moves", || {
                std::env::set_current_dir(elsewhere.path()).unwrap();
                std::env::current_dir().unwrap()
            });
            thread.unwrap().join().unwrap().unwrap()
        });
        assert_eq!(there, elsewhere.path().canonicalize().unwrap());
        assert_eq!(std::env::current_dir().unwrap(), before);
    }
}
