//! Owner, attributes, mode and times.

use std::os::fd::BorrowedFd;

use rustix::fs::{AtFlags, FileType, Gid, Mode, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use super::Xattrs;
use crate::changes::{CAPABILITY, xattr};
use crate::marks::OPAQUE;

/// The kernel's limit for the names of all attributes of a file.
const NAMES_MAX: usize = 1 << 16;

/// What went wrong with which of them.
pub(super) type Failure = (&'static str, Errno);

fn failed(action: &'static str) -> impl Fn(Errno) -> Failure {
    move |error| (action, error)
}

/// Gives what is open at `to` the metadata of what is open at `from`, in this order: owner, attributes,
/// mode, times; each may undo one that comes later. What is as it should be is not set: each
/// change is one to the file system's journal.
pub(super) fn copy(
    from: BorrowedFd<'_>,
    to: BorrowedFd<'_>,
    stat: &Stat,
    xattrs: Xattrs,
) -> Result<(), Failure> {
    let new = rustix::fs::fstat(to).map_err(failed("look at"))?;
    let owner_differs = (new.st_uid, new.st_gid) != (stat.st_uid, stat.st_gid);
    if owner_differs {
        let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
        rustix::fs::fchown(to, Some(uid), Some(gid)).map_err(failed("chown"))?;
    }
    let any = attributes(from, to, xattrs).map_err(failed("copy the extended attributes of"))?;
    if owner_differs || any || new.st_mode != stat.st_mode {
        rustix::fs::fchmod(to, Mode::from_raw_mode(stat.st_mode & 0o7777))
            .map_err(failed("chmod"))?;
    }
    rustix::fs::futimens(to, &times(stat)).map_err(failed("set the times of"))
}

/// Like [`copy`], for what cannot be opened, or must not be.
pub(super) fn copy_at(to: BorrowedFd<'_>, name: &[u8], stat: &Stat) -> Result<(), Failure> {
    let (uid, gid) = (Uid::from_raw(stat.st_uid), Gid::from_raw(stat.st_gid));
    rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("chown"))?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Symlink {
        let mode = Mode::from_raw_mode(stat.st_mode & 0o7777);
        rustix::fs::chmodat(to, name, mode, AtFlags::empty()).map_err(failed("chmod"))?;
    }
    rustix::fs::utimensat(to, name, &times(stat), AtFlags::SYMLINK_NOFOLLOW)
        .map_err(failed("set the times of"))
}

fn times(stat: &Stat) -> Timestamps {
    let spec = |seconds, nanos| Timespec { tv_sec: seconds, tv_nsec: nanos };
    Timestamps {
        last_access: spec(stat.st_atime, i64::try_from(stat.st_atime_nsec).unwrap_or(0)),
        last_modification: spec(stat.st_mtime, i64::try_from(stat.st_mtime_nsec).unwrap_or(0)),
    }
}

/// Gives whether there are any.
fn attributes(from: BorrowedFd<'_>, to: BorrowedFd<'_>, xattrs: Xattrs) -> Result<bool, Errno> {
    let listed = match xattrs {
        Xattrs::Capability => vec![CAPABILITY.to_owned()],
        Xattrs::All | Xattrs::Upper => list(from)?,
    };
    let mut any = false;
    for name in listed {
        let hides = xattrs == Xattrs::Upper && name == OPAQUE;
        if name.starts_with("trusted.overlay.") && !hides {
            continue;
        }
        let Some(value) = xattr(from, &name)? else { continue };
        match rustix::fs::fsetxattr(to, &name, &value, XattrFlags::empty()) {
            Ok(()) => any = true,
            // The target's file system has no such attributes.
            Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(any)
}

fn list(file: BorrowedFd<'_>) -> Result<Vec<String>, Errno> {
    // Most files have none, and few have many.
    let mut few = [0_u8; 512];
    let mut many = Vec::new();
    let listed = match rustix::fs::flistxattr(file, &mut few) {
        Err(Errno::RANGE) => {
            many.resize(NAMES_MAX, 0_u8);
            let length = rustix::fs::flistxattr(file, &mut many[..])?;
            &many[..length]
        }
        Err(Errno::OPNOTSUPP) => &[],
        other => &few[..other?],
    };
    let names = listed.split(|&byte| byte == 0).filter(|name| !name.is_empty());
    Ok(names.filter_map(|name| String::from_utf8(name.to_vec()).ok()).collect())
}
