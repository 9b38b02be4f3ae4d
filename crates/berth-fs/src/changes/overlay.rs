//! Changes of a layer by its directory of changes, without mounting it.

use std::collections::BTreeSet;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};

use rustix::io::Errno;

use crate::changes::{
    Change, ChangeKind, ChangesError, Collector, Side, differs, failed, is_dir, open_dir,
};
use crate::marks::{Marks, Seen};
use crate::root::{MAX_DEPTH, Root};

/// Reads a directory of changes against those of the layers below (top-most first): the list
/// that comparing the mounted layer with the layers below gives, in the same order.
pub fn of_upper(upper: &Root, lowers: &[Root], marks: Marks) -> Result<Vec<Change>, ChangesError> {
    let mut found = Collector::new();
    let lowers: Vec<BorrowedFd<'_>> = lowers.iter().map(Root::fd).collect();
    compare(upper.fd(), &lowers, marks, &mut found, 0)?;
    Ok(found.list)
}

/// What the lower directories together show under a name.
struct Lower<'a> {
    /// The directory that the visible entry is in, and the entry.
    top: Side<'a>,
    /// If that is a directory: it and those it merges with.
    dirs: Vec<OwnedFd>,
}

fn lookup<'a>(
    lowers: &[BorrowedFd<'a>],
    name: &[u8],
    marks: Marks,
) -> Result<Option<Lower<'a>>, Errno> {
    let mut top = None;
    let mut dirs = Vec::new();
    for &dir in lowers {
        let stat = match marks.look(dir, name)? {
            Seen::Nothing => continue,
            Seen::Deleted(_) => break,
            Seen::Entry(stat) => stat,
        };
        if !is_dir(&stat) {
            if top.is_none() {
                top = Some(Side { dir, stat });
            } else if !marks.files_hide() {
                continue;
            }
            break;
        }
        if top.is_none() {
            top = Some(Side { dir, stat });
        }
        let inner = open_dir(dir, name)?;
        let last = marks.is_opaque(inner.as_fd())?;
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
    marks: Marks,
    found: &mut Collector,
    depth: usize,
) -> Result<(), ChangesError> {
    if depth > MAX_DEPTH {
        return Err(failed("walk", &found.path)(Errno::NAMETOOLONG));
    }
    let opaque = depth > 0 && marks.is_opaque(upper).map_err(failed("look at", &found.path))?;
    let mut deleted = BTreeSet::new();
    let mut present = BTreeSet::new();
    for name in marks.names(upper).map_err(failed("list", &found.path))? {
        found.enter(&name);
        let seen = marks.look(upper, &name).map_err(failed("look at", &found.path))?;
        let below = lookup(lowers, &name, marks).map_err(failed("look up", &found.path))?;
        match seen {
            Seen::Deleted(_) => {
                if below.is_some() {
                    deleted.insert(name);
                }
            }
            Seen::Entry(stat) => {
                let side = Side { dir: upper, stat };
                compare_one(&side, &name, below, marks, found, depth)?;
                present.insert(name);
            }
            Seen::Nothing => {}
        }
        found.leave();
    }
    if opaque {
        hidden(lowers, marks, &present, &mut deleted).map_err(failed("list", &found.path))?;
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
    marks: Marks,
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
    compare(inner.as_fd(), &dirs, marks, found, depth + 1)?;
    if !listed {
        found.insert_parent(start);
    }
    Ok(())
}

/// Adds the names that an opaque directory hides.
fn hidden(
    lowers: &[BorrowedFd<'_>],
    marks: Marks,
    present: &BTreeSet<Vec<u8>>,
    deleted: &mut BTreeSet<Vec<u8>>,
) -> Result<(), Errno> {
    let mut all = BTreeSet::new();
    for &lower in lowers {
        all.extend(marks.names(lower)?);
    }
    for name in all {
        if !present.contains(&name) && lookup(lowers, &name, marks)?.is_some() {
            deleted.insert(name);
        }
    }
    Ok(())
}
