//! Mounting and unmounting, with options as `mount -o` takes them.

mod aufs;
mod mapped;
mod subdir;

use std::ffi::{CString, OsStr};
use std::io::{self, Read as _, Seek as _};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::process::Stdio;

use rustix::fs::MemfdFlags;
use rustix::mount::{MountFlags, MountPropagationFlags, UnmountFlags};

pub use aufs::{APPEND, AUPLINK, FS_TYPE as AUFS, XINO_MORE, before_unmount};
pub use mapped::bind_mapped;
pub use subdir::detached;

/// One mount to make.
#[derive(Debug, Clone, Copy)]
pub struct MountRequest<'a> {
    /// File system type, for example `overlay`; `bind` (or empty, with a `bind` option) binds.
    /// `fuse.PROGRAM` runs that program, found on the path, as `PROGRAM -o OPTIONS TARGET`; it must
    /// have mounted when it ends, and what it leaves in the background ends with the mount.
    pub fs_type: &'a str,
    /// The device, the directory to bind, or any text for file systems without a source.
    pub source: &'a Path,
    /// Where.
    pub target: &'a Path,
    /// Directory that relative paths in `options`, `source` and `target` start from.
    pub work_dir: Option<&'a Path>,
    /// Options: flags (`ro`, `nodev`, `rbind`, `rprivate`, …) and data (`lowerdir=…`) mixed. With a
    /// [`lowerdir+=`](ONE_LOWER) among them they may be longer than a page together. Branches that aufs
    /// is told of by [`append:`](APPEND) are added once it is mounted.
    pub options: &'a [String],
}

/// How an unmount treats a mount that is in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unmount {
    /// It fails with `EBUSY`.
    Now,
    /// The mount disappears from the tree at once and ends with its last user (`MNT_DETACH`).
    Lazy,
}

/// Options sorted into what mount(2) wants.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Parsed {
    flags: MountFlags,
    cleared: MountFlags,
    bind: Option<Bind>,
    remount: bool,
    propagation: Vec<MountPropagationFlags>,
    data: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bind {
    One,
    Tree,
}

/// Flags that a bind mount takes from the mount it copies and a remount would drop.
const KEPT_ON_REMOUNT: MountFlags = MountFlags::NOSUID
    .union(MountFlags::NODEV)
    .union(MountFlags::NOEXEC)
    .union(MountFlags::RDONLY)
    .union(MountFlags::NOATIME)
    .union(MountFlags::NODIRATIME)
    .union(MountFlags::RELATIME);

fn flag(option: &str) -> Option<(MountFlags, bool)> {
    Some(match option {
        "ro" => (MountFlags::RDONLY, true),
        "rw" => (MountFlags::RDONLY, false),
        "nosuid" => (MountFlags::NOSUID, true),
        "suid" => (MountFlags::NOSUID, false),
        "nodev" => (MountFlags::NODEV, true),
        "dev" => (MountFlags::NODEV, false),
        "noexec" => (MountFlags::NOEXEC, true),
        "exec" => (MountFlags::NOEXEC, false),
        "sync" => (MountFlags::SYNCHRONOUS, true),
        "async" => (MountFlags::SYNCHRONOUS, false),
        "dirsync" => (MountFlags::DIRSYNC, true),
        "noatime" => (MountFlags::NOATIME, true),
        "atime" => (MountFlags::NOATIME, false),
        "nodiratime" => (MountFlags::NODIRATIME, true),
        "diratime" => (MountFlags::NODIRATIME, false),
        "relatime" => (MountFlags::RELATIME, true),
        "norelatime" => (MountFlags::RELATIME, false),
        "strictatime" => (MountFlags::STRICTATIME, true),
        "nostrictatime" => (MountFlags::STRICTATIME, false),
        "lazytime" => (MountFlags::LAZYTIME, true),
        "nolazytime" => (MountFlags::LAZYTIME, false),
        "silent" => (MountFlags::SILENT, true),
        "loud" => (MountFlags::SILENT, false),
        "nosymfollow" => (MountFlags::NOSYMFOLLOW, true),
        "symfollow" => (MountFlags::NOSYMFOLLOW, false),
        "defaults" => (MountFlags::empty(), true),
        _ => return None,
    })
}

fn propagation(option: &str) -> Option<MountPropagationFlags> {
    let (name, rec) = match option.strip_prefix('r') {
        Some(name) => (name, MountPropagationFlags::REC),
        None => (option, MountPropagationFlags::empty()),
    };
    let kind = match name {
        "private" => MountPropagationFlags::PRIVATE,
        "shared" => MountPropagationFlags::SHARED,
        "slave" => MountPropagationFlags::DOWNSTREAM,
        "unbindable" => MountPropagationFlags::UNBINDABLE,
        _ => return None,
    };
    Some(kind | rec)
}

fn parse(fs_type: &str, options: &[String]) -> Parsed {
    let mut parsed = Parsed {
        flags: MountFlags::empty(),
        cleared: MountFlags::empty(),
        bind: (fs_type == "bind").then_some(Bind::One),
        remount: false,
        propagation: Vec::new(),
        data: Vec::new(),
    };
    for option in options {
        match option.as_str() {
            "" => {}
            "bind" => parsed.bind = Some(Bind::One),
            "rbind" => parsed.bind = Some(Bind::Tree),
            "remount" => parsed.remount = true,
            text => {
                if let Some((bit, set)) = flag(text) {
                    parsed.flags.set(bit, set);
                    parsed.cleared.set(bit, !set);
                } else if let Some(change) = propagation(text) {
                    parsed.propagation.push(change);
                } else {
                    if !parsed.data.is_empty() {
                        parsed.data.push(b',');
                    }
                    parsed.data.extend_from_slice(text.as_bytes());
                }
            }
        }
    }
    parsed
}

/// How long the data part of these options is, as the kernel counts it against a page.
pub fn data_len(options: &[String]) -> usize {
    parse("", options).data.len()
}

/// Makes a mount. A bind mount with flags is remounted to get them, as mount(8) does; a
/// propagation option is applied last.
pub fn mount(request: &MountRequest<'_>) -> io::Result<()> {
    match request.work_dir {
        None => mount_here(request),
        Some(dir) => in_directory(dir, || mount_here(request)),
    }
}

fn mount_here(request: &MountRequest<'_>) -> io::Result<()> {
    if let Some(program) = request.fs_type.strip_prefix("fuse.") {
        return mount_by_helper(program, request);
    }
    if request.options.iter().any(|option| option.starts_with(ONE_LOWER)) {
        return mount_in_parts(request);
    }
    if request.options.iter().any(|option| option.starts_with(SUBDIR)) {
        return subdir::mount(request);
    }
    if request.fs_type == AUFS {
        return aufs::mount(request);
    }
    let parsed = parse(request.fs_type, request.options);
    let data = CString::new(parsed.data.clone())?;
    if parsed.remount {
        let mut flags = parsed.flags;
        if parsed.bind.is_some() {
            flags |= MountFlags::BIND;
        }
        rustix::mount::mount_remount(request.target, flags, data.as_c_str())?;
    } else if let Some(bind) = parsed.bind {
        match bind {
            Bind::One => rustix::mount::mount_bind(request.source, request.target)?,
            Bind::Tree => rustix::mount::mount_bind_recursive(request.source, request.target)?,
        }
        if let Err(error) = set_bind_flags(request.target, &parsed) {
            // The mount without its flags must not stay.
            rustix::mount::unmount(request.target, UnmountFlags::DETACH)?;
            return Err(error);
        }
    } else {
        let data = (!parsed.data.is_empty()).then_some(data.as_c_str());
        rustix::mount::mount(request.source, request.target, request.fs_type, parsed.flags, data)?;
    }
    for change in &parsed.propagation {
        rustix::mount::mount_change(request.target, *change)?;
    }
    Ok(())
}

/// The option of overlayfs that names one of many lower directories (Linux 6.7).
pub const ONE_LOWER: &str = "lowerdir+=";

/// Hands the options over one by one, so that a page does not limit them. Flags are `ro` at most.
fn mount_in_parts(request: &MountRequest<'_>) -> io::Result<()> {
    use rustix::mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount,
    };
    let context = fsopen(request.fs_type, FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", request.source)?;
    let mut attributes = MountAttrFlags::empty();
    for option in request.options {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(&context, key, value)?,
            None if option == "ro" => {
                attributes = MountAttrFlags::MOUNT_ATTR_RDONLY;
                fsconfig_set_flag(&context, "ro")?;
            }
            None => fsconfig_set_flag(&context, &**option)?,
        }
    }
    fsconfig_create(&context)?;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, attributes)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(&mounted, "", rustix::fs::CWD, request.target, flags)?)
}

/// The option that mounts a directory of a block device's file system in place of its top; the name is
/// that of mount(8).
pub const SUBDIR: &str = "X-mount.subdir=";
/// The option that tells xfs how often to try again when its device is full, once it is mounted.
pub const XFS_RETRIES: &str = "X-xfs.nospace-max-retries=";

fn mount_by_helper(program: &str, request: &MountRequest<'_>) -> io::Result<()> {
    if program.is_empty() || program.contains('/') {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    // Not a pipe: what stays in the background might hold it open.
    let said = rustix::fs::memfd_create("mount-helper", MemfdFlags::CLOEXEC)?;
    let mut said = std::fs::File::from(said);
    let status = std::process::Command::new(program)
        .arg("-o")
        .arg(request.options.join(","))
        .arg(request.target)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.try_clone()?)
        .status()?;
    if status.success() {
        return Ok(());
    }
    let mut words = Vec::new();
    said.rewind()?;
    said.read_to_end(&mut words)?;
    let words = String::from_utf8_lossy(&words);
    let last = words.lines().last().unwrap_or_default();
    Err(io::Error::other(format!("{program} failed ({status}): {last}")))
}

fn set_bind_flags(target: &Path, parsed: &Parsed) -> io::Result<()> {
    if parsed.flags.is_empty() && parsed.cleared.is_empty() {
        return Ok(());
    }
    let present = rustix::fs::statvfs(target)?.f_flag;
    let mut flags = parsed.flags | MountFlags::BIND;
    for (bit, mount) in [
        (rustix::fs::StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (rustix::fs::StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (rustix::fs::StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (rustix::fs::StatVfsMountFlags::RDONLY, MountFlags::RDONLY),
        (rustix::fs::StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (rustix::fs::StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (rustix::fs::StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ] {
        if present.contains(bit) && KEPT_ON_REMOUNT.contains(mount) {
            flags |= mount & !parsed.cleared;
        }
    }
    rustix::mount::mount_remount(target, flags, c"")?;
    Ok(())
}

/// Runs `work` with `dir` as its working directory, without changing that of this process.
pub fn in_directory<T: Send>(
    dir: &Path,
    work: impl FnOnce() -> io::Result<T> + Send,
) -> io::Result<T> {
    std::thread::scope(|scope| {
        let thread =
            std::thread::Builder::new().name("mount-dir".to_owned()).spawn_scoped(scope, || {
                // SAFETY: CLONE_FS gives this thread its own working directory, root and umask.
                // The thread was made for this closure alone and ends with it, so nothing
                // outside can have relied on sharing them with it; no descriptor table or memory
                // is unshared.
                unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::FS)? };
                rustix::process::chdir(dir)?;
                work()
            })?;
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// A read-only mount of the file `path` that is in no mount namespace and lives as long as the
/// descriptor. Nobody can make it writable again. Needs Linux 5.12.
pub fn read_only_clone(path: &Path) -> io::Result<OwnedFd> {
    use rustix::mount::OpenTreeFlags;
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let tree = rustix::mount::open_tree(rustix::fs::CWD, path, flags)?;
    let read_only = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_RDONLY,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    // SAFETY: the kernel reads an empty path that ends in NUL and a structure whose size is given;
    // both outlive the call, and `tree` is open during it.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            std::ptr::from_ref(&read_only),
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(tree) } else { Err(io::Error::last_os_error()) }
}

/// Changes how mounts below `target` spread, for example `rprivate`.
pub fn set_propagation(target: &Path, kind: &str) -> io::Result<()> {
    let change = propagation(kind).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(rustix::mount::mount_change(target, change)?)
}

/// Unmounts what is on top at `target`; a link as last part is not followed.
pub fn unmount(target: &Path, how: Unmount) -> io::Result<()> {
    let flags = match how {
        Unmount::Now => UnmountFlags::NOFOLLOW,
        Unmount::Lazy => UnmountFlags::NOFOLLOW | UnmountFlags::DETACH,
    };
    Ok(rustix::mount::unmount(target, flags)?)
}

/// Unmounts everything at and below `target`, last mounted first. Gives how many there were.
pub fn unmount_tree(target: &Path, how: Unmount) -> io::Result<usize> {
    let mounts = crate::mountinfo::below(target)?;
    for mount in mounts.iter().rev() {
        match unmount(&mount.mount_point, how) {
            // A lazy unmount of a parent took it along, or somebody else was faster.
            Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {}
            other => other?,
        }
    }
    Ok(mounts.len())
}

/// Whether something is mounted exactly at `path`.
pub fn is_mount_point(path: &Path) -> io::Result<bool> {
    let path: &OsStr = path.as_os_str();
    let all = crate::mountinfo::all()?;
    Ok(all.iter().any(|mount| mount.mount_point.as_os_str().as_bytes() == path.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(options: &[&str]) -> Vec<String> {
        options.iter().map(|&option| option.to_owned()).collect()
    }

    #[test]
    fn options_are_sorted_into_flags_propagation_and_data() {
        type Row = (
            &'static [&'static str],
            MountFlags,
            Option<Bind>,
            Option<MountPropagationFlags>,
            &'static str,
        );
        let none = MountFlags::empty();
        let private = MountPropagationFlags::PRIVATE;
        #[rustfmt::skip]
        let table: &[Row] = &[
            (&[],                        none,                                  None, None, ""),
            (&["ro", "nosuid"],          MountFlags::RDONLY | MountFlags::NOSUID, None, None, ""),
            (&["ro", "rw", "size=1m"],   none,                                  None, None, "size=1m"),
            (&["lowerdir=/a:/b", "nodev", "upperdir=/c"], MountFlags::NODEV,    None, None, "lowerdir=/a:/b,upperdir=/c"),
            (&["rbind", "rprivate"],     none,                      Some(Bind::Tree), Some(private.union(MountPropagationFlags::REC)), ""),
            (&["bind", "private", "relatime"], MountFlags::RELATIME, Some(Bind::One), Some(private), ""),
            (&["defaults", ""],          none,                                  None, None, ""),
        ];
        for (options, flags, bind, changes, data) in table {
            let got = parse("x", &strings(options));
            assert_eq!(got.flags, *flags, "{options:?}");
            assert_eq!(got.bind, *bind, "{options:?}");
            assert_eq!(got.propagation, Vec::from_iter(*changes), "{options:?}");
            assert_eq!(got.data, data.as_bytes(), "{options:?}");
        }
    }

    #[test]
    fn a_helper_is_found_by_its_name_and_its_last_words_are_kept() {
        let request = |fs_type| MountRequest {
            fs_type,
            source: Path::new("none"),
            target: Path::new("target"),
            work_dir: Some(Path::new("/")),
            options: &[],
        };
        #[rustfmt::skip]
        let table = [
            ("fuse.",               "invalid input parameter"),
            ("fuse./bin/true",      "invalid input parameter"),
            ("fuse.../bin/true",    "invalid input parameter"),
            ("fuse.no-such-helper", "No such file or directory (os error 2)"),
            ("fuse.false",          "false failed (exit status: 1): "),
        ];
        for (fs_type, text) in table {
            assert_eq!(mount(&request(fs_type)).unwrap_err().to_string(), text, "{fs_type}");
        }
        mount(&request("fuse.true")).unwrap();
        // `find` complains of the first argument that it does not know.
        let error = mount(&request("fuse.find")).unwrap_err().to_string();
        assert!(error.starts_with("find failed (exit status: 1): find: "), "{error}");
    }

    #[test]
    fn root_a_bind_mount_gets_its_flags_and_goes_with_its_tree() {
        if !testkit::is_root() {
            return testkit::skip(
                "root_a_bind_mount_gets_its_flags_and_goes_with_its_tree",
                "root",
            );
        }
        let dir = tempfile::tempdir().unwrap();
        let (source, target) = (dir.path().join("source"), dir.path().join("target"));
        std::fs::create_dir(&source).unwrap();
        std::fs::create_dir(&target).unwrap();
        let request = |source, options| MountRequest {
            fs_type: "bind",
            source,
            target: Path::new("target"),
            work_dir: Some(dir.path()),
            options,
        };
        let options = strings(&["ro", "nosuid", "rprivate"]);
        mount(&request(&source, &options)).unwrap();
        mount(&request(&source, &options)).unwrap();
        assert!(is_mount_point(&target).unwrap());
        let read_only = std::fs::File::create(target.join("x")).unwrap_err();
        assert_eq!(read_only.raw_os_error(), Some(libc::EROFS));
        assert_eq!(unmount_tree(dir.path(), Unmount::Now).unwrap(), 2);
        assert!(!is_mount_point(&target).unwrap());
        assert!(unmount(&target, Unmount::Now).is_err());
    }
}
