//! User namespaces that a container is created in, and network namespaces that belong to them.
//!
//! A namespace exists while a process is in it. A [`Holder`] is such a process: a copy of this one
//! that does nothing but wait until it is dropped, or until this process is gone.

use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::path::{Path, PathBuf};

use rustix::pipe::PipeFlags;

use crate::fork::CloneArgs;

/// A range of ids: the first inside, the first outside, how many.
pub type Range = (u32, u32, u32);

/// The ids of a new user namespace.
#[derive(Debug, Clone, Copy)]
pub struct Maps<'a> {
    /// Of users.
    pub uids: &'a [Range],
    /// Of groups.
    pub gids: &'a [Range],
}

/// Which user namespace a holder is in.
#[derive(Debug, Clone, Copy)]
pub enum UserNs<'a> {
    /// A new one.
    New(Maps<'a>),
    /// The one behind this file.
    Join(&'a Path),
}

/// A process that keeps a user namespace, and a network namespace of that one's, in existence.
#[derive(Debug)]
pub struct Holder {
    pid: i32,
    /// The process ends when this is closed.
    release: Option<OwnedFd>,
}

impl Holder {
    /// Starts the process.
    pub fn new(user: UserNs<'_>) -> io::Result<Self> {
        let (wait, release) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (told, tell) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC)?;
        let (flags, joined) = match user {
            UserNs::New(_) => (libc::CLONE_NEWUSER | libc::CLONE_NEWNET, None),
            UserNs::Join(path) => (0, Some(File::open(path)?)),
        };
        let ends = Ends {
            wait: wait.as_raw_fd(),
            tell: tell.as_raw_fd(),
            join: joined.as_ref().map_or(-1, AsRawFd::as_raw_fd),
        };
        let holder = Self { pid: spawn(flags, ends)?, release: Some(release) };
        drop((wait, tell, joined));
        let mut errno = [0; 4];
        File::from(told).read_exact(&mut errno)?;
        match i32::from_ne_bytes(errno) {
            0 => {}
            errno => return Err(io::Error::from_raw_os_error(errno)),
        }
        if let UserNs::New(maps) = user {
            holder.map("uid_map", maps.uids)?;
            holder.map("gid_map", maps.gids)?;
        }
        Ok(holder)
    }

    /// The file of one of its namespaces, `user` or `net`; while this value lives.
    pub fn namespace(&self, kind: &str) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{kind}", self.pid))
    }

    fn map(&self, file: &str, ranges: &[Range]) -> io::Result<()> {
        let lines =
            ranges.iter().map(|(inside, outside, count)| format!("{inside} {outside} {count}\n"));
        // The kernel takes the whole map in one write.
        let text: String = lines.collect();
        File::options()
            .write(true)
            .open(format!("/proc/{}/{file}", self.pid))?
            .write_all(text.as_bytes())
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        drop(self.release.take());
        // It ends at once, and only this process could have waited for it.
        drop(crate::process::wait_for(self.pid));
    }
}

/// Runs `work` on a thread of its own whose new files belong to this user and group from their first
/// instant, with all the power that this process has.
pub fn as_owner<T: Send>(uid: u32, gid: u32, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("as-owner".to_owned()).spawn_scoped(scope, || {
                let before = rustix::thread::capabilities(None)?;
                // SAFETY: both take numbers, and change the calling thread alone; it was made for
                // this closure and ends with it.
                unsafe {
                    libc::setfsgid(gid);
                    libc::setfsuid(uid);
                }
                // The kernel takes those away that are about files.
                rustix::thread::set_capabilities(None, before)?;
                Ok(work())
            })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// The descriptors of the new process.
#[derive(Debug, Clone, Copy)]
struct Ends {
    /// Read until its end.
    wait: RawFd,
    /// Where zero or an error number goes.
    tell: RawFd,
    /// The user namespace to join, or -1.
    join: RawFd,
}

fn spawn(flags: i32, ends: Ends) -> io::Result<i32> {
    let args = CloneArgs {
        flags: u64::from(flags.cast_unsigned()),
        exit_signal: u64::from(libc::SIGCHLD.cast_unsigned()),
        ..CloneArgs::default()
    };
    // SAFETY: without CLONE_VM the new process has its own copy of the memory, and with a zero stack it
    // goes on on its copy of this one. Locks that other threads held stay locked in it for ever, so
    // it must not allocate, print or panic: `hold` makes system calls on its arguments alone and
    // never returns. `args` outlives the call, and its size is given.
    let pid = unsafe {
        libc::syscall(libc::SYS_clone3, std::ptr::from_ref(&args), size_of::<CloneArgs>())
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => hold(ends),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// The life of the new process.
fn hold(ends: Ends) -> ! {
    // SAFETY: each call takes numbers, or a pointer to a variable of this function together with its
    // size; none touches memory of this program otherwise. The descriptors are this process's own
    // copies, open since before it was made.
    unsafe {
        let mut errno = 0_i32;
        if ends.join >= 0
            && (libc::setns(ends.join, libc::CLONE_NEWUSER) != 0
                || libc::unshare(libc::CLONE_NEWNET) != 0)
        {
            errno = *libc::__errno_location();
        }
        libc::write(ends.tell, std::ptr::from_ref(&errno).cast(), size_of::<i32>());
        // Nothing of the daemon's stays open here but the end that says when to go.
        libc::dup2(ends.wait, 0);
        libc::syscall(libc::SYS_close_range, 1_u32, u32::MAX, 0_u32);
        let mut byte = 0_u8;
        while libc::read(0, std::ptr::from_mut(&mut byte).cast(), 1) == -1
            && *libc::__errno_location() == libc::EINTR
        {}
        libc::_exit(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_new_files_belong_to_whom_they_are_made_for() {
        use std::os::unix::fs::MetadataExt as _;
        if !testkit::is_root() {
            return testkit::skip("root_new_files_belong_to_whom_they_are_made_for", "root");
        }
        let dir = tempfile::tempdir().unwrap();
        let make = |name: &str| {
            let made = File::create(dir.path().join(name)).unwrap().metadata().unwrap();
            (made.uid(), made.gid())
        };
        // The directory is closed to them, and they have the power of root all the same.
        let own = as_owner(100_000, 200_000, || make("theirs")).unwrap();
        assert_eq!(own, (100_000, 200_000));
        assert_eq!(make("mine"), (0, 0));
    }

    #[test]
    fn root_a_holder_keeps_namespaces_until_it_is_dropped() {
        if !testkit::is_root() {
            let name = "root_a_holder_keeps_namespaces_until_it_is_dropped";
            return testkit::skip(name, "root");
        }
        let maps = Maps { uids: &[(0, 100_000, 10), (10, 300_000, 5)], gids: &[(0, 200_000, 7)] };
        let holder = Holder::new(UserNs::New(maps)).unwrap();
        let words = |file: &str| {
            let text = std::fs::read_to_string(format!("/proc/{}/{file}", holder.pid)).unwrap();
            text.split_whitespace().map(str::to_owned).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(words("uid_map"), "0 100000 10 10 300000 5");
        assert_eq!(words("gid_map"), "0 200000 7");
        let namespace = |path: &Path| std::fs::read_link(path).unwrap();
        let own = |kind: &str| namespace(&PathBuf::from(format!("/proc/self/ns/{kind}")));
        let other = Holder::new(UserNs::Join(&holder.namespace("user"))).unwrap();
        assert_eq!(namespace(&other.namespace("user")), namespace(&holder.namespace("user")));
        assert_ne!(namespace(&other.namespace("net")), namespace(&holder.namespace("net")));
        for kind in ["user", "net"] {
            assert_ne!(namespace(&holder.namespace(kind)), own(kind));
        }
        // Nothing but its end of the pipe.
        let open = std::fs::read_dir(format!("/proc/{}/fd", other.pid)).unwrap().count();
        assert_eq!(open, 1);
        let gone = holder.namespace("user");
        drop((holder, other));
        assert!(std::fs::read_link(gone).is_err());
        let overlapping = Maps { uids: &[(0, 1, 10), (5, 100, 10)], gids: &[(0, 1, 1)] };
        assert!(Holder::new(UserNs::New(overlapping)).is_err());
    }
}
