//! Changes of an overlay layer, without mounting it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::changes::{
    Change, ChangeKind, ChangesError, Collector, Side, differs, failed, is_dir, open_dir, stat_at,
    xattr,
};
use crate::root::{MAX_DEPTH, Root, names};
use crate::unpack::{OPAQUE, is_whiteout};

/// Reads an overlay upper directory against its lower directories (top-most first): the list
/// that comparing the mounted layer with the layers below gives, in the same order.
pub fn of_overlay(upper: &Root, lowers: &[Root]) -> Result<Vec<Change>, ChangesError> {
    let mut found = Collector::new();
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(Root::fd).collect();
    compare(upper.fd(), &lowers, &mut found, 0)?;
    Ok(found.list)
}

/// What fuse-overlayfs leaves in an opaque directory, beside the attribute.
const OPAQUE_FILE: &[u8] = b".wh..wh..opq";

/// What the lower directories together show under a name.
struct Lower<'a> {
    /// The directory that the visible entry is in, and the entry.
    top: Side<'a>,
    /// If that is a directory: it and those it merges with.
    dirs: Vec<OwnedFd>,
}

fn is_opaque(dir: BorrowedFd<'_>) -> Result<bool, Errno> {
    Ok(xattr(dir, OPAQUE)?.is_some_and(|value| value == b"y"))
}

fn lookup<'a>(lowers: &[BorrowedFd<'a>], name: &[u8]) -> Result<Option<Lower<'a>>, Errno> {
    let mut top = None;
    let mut dirs = Vec::new();
    for &dir in lowers {
        let Some(stat) = stat_at(dir, name)? else { continue };
        if is_whiteout(&stat) {
            break;
        }
        if !is_dir(&stat) {
            if top.is_none() {
                top = Some(Side { dir, stat });
            }
            break;
        }
        if top.is_none() {
            top = Some(Side { dir, stat });
        }
        let inner = open_dir(dir, name)?;
        let last = is_opaque(inner.as_fd())?;
        dirs.push(inner);
        if last {
            break;
        }
    }
    Ok(top.map(|top| Lower { top, dirs }))
}

fn compare(
    upper: BorrowedFd<'_>,
    lowers: &[BorrowedFd<'_>],
    found: &mut Collector,
    depth: usize,
) -> Result<(), ChangesError> {
    if depth > MAX_DEPTH {
        return Err(failed("walk", &found.path)(Errno::NAMETOOLONG));
    }
    let opaque = depth > 0 && is_opaque(upper).map_err(failed("look at", &found.path))?;
    let mut deleted = BTreeSet::new();
    let mut present = BTreeSet::new();
    for name in names(upper).map_err(failed("list", &found.path))? {
        if name == OPAQUE_FILE {
            continue;
        }
        found.enter(&name);
        let stat = stat_at(upper, &name).map_err(failed("look at", &found.path))?;
        let below = lookup(lowers, &name).map_err(failed("look up", &found.path))?;
        match (stat, below) {
            (Some(stat), below) if is_whiteout(&stat) => {
                if below.is_some() {
                    deleted.insert(name);
                }
            }
            (Some(stat), below) => {
                compare_one(&Side { dir: upper, stat }, &name, below, found, depth)?;
                present.insert(name);
            }
            (None, _) => {}
        }
        found.leave();
    }
    if opaque {
        hidden(lowers, &present, &mut deleted).map_err(failed("list", &found.path))?;
    }
    for name in deleted {
        found.deleted(&name);
    }
    Ok(())
}

fn compare_one(
    upper: &Side<'_>,
    name: &[u8],
    below: Option<Lower<'_>>,
    found: &mut Collector,
    depth: usize,
) -> Result<(), ChangesError> {
    let start = found.list.len();
    let listed = match &below {
        None => {
            found.push(ChangeKind::Added);
            true
        }
        Some(lower) => {
            let changed =
                differs(&lower.top, upper, name).map_err(failed("compare", &found.path))?;
            if changed {
                found.push(ChangeKind::Modified);
            }
            changed
        }
    };
    if !is_dir(&upper.stat) {
        return Ok(());
    }
    let inner = open_dir(upper.dir, name).map_err(failed("open", &found.path))?;
    let dirs = below.map(|lower| lower.dirs).unwrap_or_default();
    let dirs: Vec<BorrowedFd<'_>> = dirs.iter().map(|dir| dir.as_fd()).collect();
    compare(inner.as_fd(), &dirs, found, depth + 1)?;
    if !listed {
        found.insert_parent(start);
    }
    Ok(())
}

/// Adds the names that an opaque directory hides.
fn hidden(
    lowers: &[BorrowedFd<'_>],
    present: &BTreeSet<Vec<u8>>,
    deleted: &mut BTreeSet<Vec<u8>>,
) -> Result<(), Errno> {
    let mut all = BTreeSet::new();
    for &lower in lowers {
        all.extend(names(lower)?);
    }
    for name in all {
        if !present.contains(&name) && lookup(lowers, &name)?.is_some() {
            deleted.insert(name);
        }
    }
    Ok(())
}
