//! Changes between two whole trees, found by a few threads.
//!
//! A task is a directory, or a part of a large one. What a task finds goes to its place in a tree of
//! findings, which is written out in order in the end; of what is unchanged nothing is kept but a node
//! for a directory.

mod findings;
mod snapshot;

use std::ffi::OsStr;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;

use rustix::fs::Stat;
use rustix::io::Errno;

use super::{
    CAPABILITY, Change, ChangeKind, ChangesError, Likeness, content, failed, is_dir, likeness,
    open_dir, stat_at,
};
use crate::pool::Pool;
use crate::root::{MAX_DEPTH, Root};
use findings::{Findings, Node};
use snapshot::Known;

/// The most names that one task looks at.
const PART: usize = 512;

/// A tree that another one is compared with.
#[derive(Debug, Clone, Copy)]
pub struct Base<'a> {
    /// Its top.
    pub root: &'a Root,
    /// Whether a file in it may have a `security.capability`. Where none has, those of the new tree
    /// alone are asked for theirs.
    pub capabilities: bool,
}

impl<'a> From<&'a Root> for Base<'a> {
    fn from(root: &'a Root) -> Self {
        Self { root, capabilities: true }
    }
}

/// Compares two full trees; `old` of `None` is an empty one. Parents come before their children.
pub fn between(old: Option<Base<'_>>, new: &Root) -> Result<Vec<Change>, ChangesError> {
    let capabilities = old.is_some_and(|old| old.capabilities);
    let old = old.map(|old| old.root);
    let place = Arc::new(Place { above: None, name: Vec::new(), depth: 0 });
    let open = |root: &Root| open_dir(root.fd(), b".").map_err(|error| place.failed("open", error));
    let pair = Pair { old: old.map(open).transpose()?, new: open(new)?, place: Arc::clone(&place) };
    let known = pair.old.as_ref().and_then(|old| Known::find(old, &pair.new));
    walk(pair, known.as_ref(), capabilities)
}

fn walk(top: Pair, known: Option<&Known>, capabilities: bool) -> Result<Vec<Change>, ChangesError> {
    let first = Task::List { pair: Arc::new(top), node: 0 };
    let findings = Findings::new();
    let act = |pool: &Pool<_, _>, task: Task| {
        task.run(&Walk { pool, findings: &findings, known, capabilities })
    };
    Pool::run("compare", first, act, |source| ChangesError {
        action: "start to compare",
        path: "/".into(),
        source,
    })?;
    let mut list = Vec::new();
    write_out(&findings.into_nodes(), 0, &mut PathBuf::from("/"), &mut list);
    Ok(list)
}

/// The findings of a directory and of all below it, in order.
fn write_out(nodes: &[Node], node: usize, path: &mut PathBuf, list: &mut Vec<Change>) {
    let Node { parts, deleted } = &nodes[node];
    for found in parts.iter().flatten() {
        path.push(OsStr::from_bytes(&found.name));
        let start = list.len();
        // Above a change it is listed as changed itself.
        let kind = found.kind.unwrap_or(ChangeKind::Modified);
        list.push(Change { path: path.clone(), kind });
        if let Some(inner) = found.inner {
            write_out(nodes, inner, path, list);
        }
        if found.kind.is_none() && list.len() == start + 1 {
            list.pop();
        }
        path.pop();
    }
    for name in deleted {
        path.push(OsStr::from_bytes(name));
        list.push(Change { path: path.clone(), kind: ChangeKind::Deleted });
        path.pop();
    }
}

/// What the tasks share.
struct Walk<'a> {
    pool: &'a Pool<Task, ChangesError>,
    findings: &'a Findings,
    known: Option<&'a Known>,
    /// Whether the old tree may have some.
    capabilities: bool,
}

/// Where a directory is, for messages; it holds nothing open.
#[derive(Debug)]
struct Place {
    above: Option<Arc<Self>>,
    name: Vec<u8>,
    depth: usize,
}

impl Place {
    fn path(&self) -> PathBuf {
        let mut path = self.above.as_ref().map_or_else(|| PathBuf::from("/"), |above| above.path());
        path.push(OsStr::from_bytes(&self.name));
        path
    }

    fn failed(&self, action: &'static str, error: Errno) -> ChangesError {
        failed(action, &self.path())(error)
    }

    fn failed_at(&self, name: &[u8], action: &'static str, error: Errno) -> ChangesError {
        failed(action, &self.path().join(OsStr::from_bytes(name)))(error)
    }
}

/// A directory on both sides.
#[derive(Debug)]
struct Pair {
    old: Option<OwnedFd>,
    new: OwnedFd,
    place: Arc<Place>,
}

impl Pair {
    /// Whether an entry that is on both sides has changed, `security.capability` aside.
    fn differs(&self, name: &[u8], before: &Stat, after: &Stat) -> Result<bool, ChangesError> {
        match (likeness(before, after), &self.old) {
            (Likeness::Unclear, Some(old)) => {
                content::is_same([old.as_fd(), self.new.as_fd()], name, after)
                    .map(|same| !same)
                    .map_err(|error| self.place.failed_at(name, "compare", error))
            }
            (found, _) => Ok(found != Likeness::Same),
        }
    }
}

/// A name in a directory.
#[derive(Debug)]
struct Name {
    name: Vec<u8>,
    /// The number of its inode on the old side.
    old: Option<u64>,
}

/// Something to be done, and the node that its findings belong to.
#[derive(Debug)]
enum Task {
    /// Open a directory and list it.
    Enter { above: Arc<Pair>, name: Vec<u8>, is_old: bool, node: usize },
    /// List an open one.
    List { pair: Arc<Pair>, node: usize },
    /// Look at some of its names.
    Compare { pair: Arc<Pair>, names: Vec<Name>, node: usize, part: usize },
}

/// What was found of one name: a change of its own, a directory to look into, or both.
#[derive(Debug)]
struct Found {
    name: Vec<u8>,
    kind: Option<ChangeKind>,
    inner: Option<usize>,
}

impl Task {
    fn run(self, walk: &Walk<'_>) -> Result<(), ChangesError> {
        match self {
            Self::Enter { above, name, is_old, node } => {
                let pair = enter(&above, name, is_old)?;
                drop(above);
                list(walk, &Arc::new(pair), node)
            }
            Self::List { pair, node } => list(walk, &pair, node),
            Self::Compare { pair, names, node, part } => {
                let compared = compare(walk, &pair, names)?;
                walk.findings.note(node, part, compared);
                Ok(())
            }
        }
    }
}

fn enter(above: &Pair, name: Vec<u8>, is_old: bool) -> Result<Pair, ChangesError> {
    let open = |dir: BorrowedFd<'_>| {
        open_dir(dir, &name).map_err(|error| above.place.failed_at(&name, "open", error))
    };
    let new = open(above.new.as_fd())?;
    let old = match &above.old {
        Some(old) if is_old => Some(open(old.as_fd())?),
        _ => None,
    };
    let depth = above.place.depth + 1;
    let place = Arc::new(Place { above: Some(Arc::clone(&above.place)), name, depth });
    if depth > MAX_DEPTH {
        return Err(place.failed("walk", Errno::NAMETOOLONG));
    }
    Ok(Pair { old, new, place })
}

/// Lists a directory and hands its names out; the first of them are left to this thread.
fn list(walk: &Walk<'_>, pair: &Arc<Pair>, node: usize) -> Result<(), ChangesError> {
    let read = |dir: BorrowedFd<'_>| entries(dir).map_err(|error| pair.place.failed("list", error));
    let new = read(pair.new.as_fd())?;
    let old = pair.old.as_ref().map_or(Ok(Vec::new()), |old| read(old.as_fd()))?;
    let (names, deleted) = merge(new, old);
    let mut parts = Vec::new();
    let mut names = names.into_iter().peekable();
    while names.peek().is_some() {
        parts.push(names.by_ref().take(PART).collect::<Vec<_>>());
    }
    walk.findings.expect(node, parts.len(), deleted);
    let mut tasks = parts.into_iter().enumerate().map(|(part, names)| Task::Compare {
        pair: Arc::clone(pair),
        names,
        node,
        part,
    });
    let first = tasks.next();
    walk.pool.push(tasks);
    first.map_or(Ok(()), |first| first.run(walk))
}

/// A name, and the number of its inode.
type Entry = (Vec<u8>, u64);

/// What is in a directory, sorted.
fn entries(dir: BorrowedFd<'_>) -> Result<Vec<Entry>, Errno> {
    let mut entries = Vec::new();
    for entry in rustix::fs::Dir::read_from(dir)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            entries.push((name.to_vec(), entry.ino()));
        }
    }
    entries.sort_unstable();
    Ok(entries)
}

/// The names of the new side, and those that only the old one has. Both are sorted.
fn merge(new: Vec<Entry>, old: Vec<Entry>) -> (Vec<Name>, Vec<Vec<u8>>) {
    let mut names = Vec::with_capacity(new.len());
    let mut deleted = Vec::new();
    let mut old = old.into_iter().peekable();
    for (name, _) in new {
        deleted.extend(std::iter::from_fn(|| Some(old.next_if(|older| older.0 < name)?.0)));
        let old = old.next_if(|older| older.0 == name).map(|(_, number)| number);
        names.push(Name { name, old });
    }
    deleted.extend(old.map(|(name, _)| name));
    (names, deleted)
}

/// What comparing some names gives.
#[derive(Debug, Default)]
struct Compared {
    found: Vec<Found>,
    /// What went away on the new side after its directory was listed.
    gone: Vec<Vec<u8>>,
}

fn compare(walk: &Walk<'_>, pair: &Arc<Pair>, names: Vec<Name>) -> Result<Compared, ChangesError> {
    let mut compared = Compared::default();
    let all = &mut compared.found;
    let mut alike = Vec::new();
    let mut dirs = Vec::new();
    for Name { name, old } in names {
        let look = |dir: BorrowedFd<'_>| {
            stat_at(dir, &name).map_err(|error| pair.place.failed_at(&name, "look at", error))
        };
        let after = look(pair.new.as_fd())?;
        let untouched = after.filter(|after| {
            old.zip(walk.known).is_some_and(|(old, known)| known.is_untouched(old, after))
        });
        if let Some(after) = untouched {
            if is_dir(&after) {
                dirs.push((all.len(), true));
                all.push(Found { name, kind: None, inner: None });
            }
            continue;
        }
        let before = match &pair.old {
            Some(dir) if old.is_some() => look(dir.as_fd())?,
            _ => None,
        };
        let Some(after) = after else {
            compared.gone.extend(before.map(|_| name));
            continue;
        };
        let kind = match &before {
            None => Some(ChangeKind::Added),
            Some(before) if is_same(before, &after) => continue,
            Some(before) => pair.differs(&name, before, &after)?.then_some(ChangeKind::Modified),
        };
        if kind.is_none() && before.is_some_and(|before| may_differ(&before, &after)) {
            alike.push(all.len());
        }
        if is_dir(&after) {
            dirs.push((all.len(), before.is_some_and(|before| is_dir(&before))));
        }
        all.push(Found { name, kind, inner: None });
    }
    if let Some(old) = &pair.old {
        let old = walk.capabilities.then_some(old.as_fd());
        let sides = (old, pair.new.as_fd());
        for at in with_other_capability(sides, all, alike)
            .map_err(|error| pair.place.failed("compare", error))?
        {
            all[at].kind = Some(ChangeKind::Modified);
        }
    }
    let inner = walk.findings.new_nodes(dirs.len());
    let mut tasks = Vec::with_capacity(dirs.len());
    for ((at, is_old), node) in dirs.into_iter().zip(inner) {
        all[at].inner = Some(node);
        let (above, name) = (Arc::clone(pair), all[at].name.clone());
        tasks.push(Task::Enter { above, name, is_old, node });
    }
    walk.pool.push(tasks);
    all.retain(|found| found.kind.is_some() || found.inner.is_some());
    Ok(compared)
}

/// The same inode, seen twice.
fn is_same(old: &Stat, new: &Stat) -> bool {
    (old.st_dev, old.st_ino) == (new.st_dev, new.st_ino)
}

/// Whether attributes of two inodes with the same metadata can be different. Those of a snapshot
/// have the numbers of what it was made of, and setting an attribute changes the time of the last
/// change, which nobody can set.
fn may_differ(old: &Stat, new: &Stat) -> bool {
    let changed = |stat: &Stat| (stat.st_ino, stat.st_ctime, stat.st_ctime_nsec);
    changed(old) != changed(new)
}

/// Those of `alike`, places in `all`, whose `security.capability` is not the same on both sides;
/// without an old side none had any.
fn with_other_capability(
    (old, new): (Option<BorrowedFd<'_>>, BorrowedFd<'_>),
    all: &[Found],
    mut alike: Vec<usize>,
) -> Result<Vec<usize>, Errno> {
    if alike.is_empty() {
        return Ok(alike);
    }
    // From inside the directories, for there is no call that takes a descriptor and a name.
    let all_of = |side: BorrowedFd<'_>| {
        rustix::process::fchdir(side)?;
        alike.iter().map(|&at| capability(&all[at].name)).collect::<Result<Vec<_>, _>>()
    };
    let new = all_of(new)?;
    let old = old.map_or_else(|| Ok(vec![None; new.len()]), all_of)?;
    let mut pairs = old.iter().zip(&new);
    alike.retain(|_| pairs.next().is_some_and(|(old, new)| old != new));
    Ok(alike)
}

/// The `security.capability` of a name in the working directory, not following links.
fn capability(name: &[u8]) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = [0; 256];
    match rustix::fs::lgetxattr(name, CAPABILITY, &mut value[..]) {
        Ok(length) => Ok(Some(value[..length].to_vec())),
        // It went away after its directory was listed, cannot have any, or has one without content, as
        // [`xattr`](super::xattr) says.
        Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::NOENT | Errno::INVAL) => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests;
