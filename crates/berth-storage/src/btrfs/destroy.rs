//! Removing a subvolume with the subvolumes that a container made in it.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use berth_sys::btrfs::{self, Nested};
use rustix::fs::{Mode, OFlags, RenameFlags, openat2, renameat_with};
use rustix::io::Errno;

use crate::delete::{BENEATH, DEPTH, OPEN, delete_tree};

/// Removes the subvolume `path` whatever is in it, in a time that depends on the number of
/// subvolumes alone. Something else that stands there is deleted as a tree. Nothing is fine.
pub(super) fn destroy(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::INVAL.into());
    };
    if !btrfs::is_subvolume(path)? {
        return delete_tree(path);
    }
    let parent = rustix::fs::open(parent, OPEN, Mode::empty())?;
    let top = open_below(parent.as_fd(), Path::new(name))?;
    let number = btrfs::subvolume_id(&top)?;
    let mut moved = 0;
    loop {
        let before = moved;
        clear(&top, &top, 0, &mut moved)?;
        if moved == before {
            break;
        }
    }
    btrfs::destroy_subvolume(&parent, name)?;
    if let Err(error) = btrfs::remove_quota_group(&parent, number) {
        // Quotas are off, or the kernel (6.11) removes the group itself when the space is free.
        tracing::trace!(%error, number, "a quota group was not removed");
    }
    Ok(())
}

/// Removes what is nested in `subvolume`. What is nested too deep is moved up to `top` first, so
/// that no nesting uses more descriptors or stack than this.
fn clear(top: &OwnedFd, subvolume: &OwnedFd, depth: usize, moved: &mut u64) -> io::Result<()> {
    let nested = btrfs::nested(subvolume)?;
    if nested.is_empty() {
        return Ok(());
    }
    // Names cannot be taken from a read-only one.
    btrfs::set_read_only(subvolume, false)?;
    for Nested { dir, name } in nested {
        let held;
        let dir = if dir.as_os_str().is_empty() {
            subvolume
        } else {
            held = open_below(subvolume.as_fd(), &dir)?;
            &held
        };
        let inner = open_below(dir.as_fd(), &name)?;
        if depth + 1 >= DEPTH {
            btrfs::set_read_only(&inner, false)?;
            move_up(dir, &name, top, moved)?;
            continue;
        }
        clear(top, &inner, depth + 1, moved)?;
        drop(inner);
        btrfs::destroy_subvolume(dir, name.as_os_str())?;
    }
    Ok(())
}

fn move_up(dir: &OwnedFd, name: &Path, top: &OwnedFd, moved: &mut u64) -> io::Result<()> {
    loop {
        *moved += 1;
        let up = format!(".berth-deep-{moved}");
        match renameat_with(dir, name, top, up, RenameFlags::NOREPLACE) {
            // The container used this very name.
            Err(Errno::EXIST) => {}
            other => return Ok(other?),
        }
    }
}

fn open_below(dir: BorrowedFd<'_>, path: &Path) -> io::Result<OwnedFd> {
    Ok(openat2(dir, path, OPEN | OFlags::NOFOLLOW, Mode::empty(), BENEATH)?)
}
