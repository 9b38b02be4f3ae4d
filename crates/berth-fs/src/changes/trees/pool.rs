//! The threads that compare, and what they have found.

use std::ops::Range;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use super::{Compared, Found, Task};
use crate::changes::ChangesError;

/// How many threads there are at least and at most.
const THREADS: (usize, usize) = (2, 8);

/// What was found in a directory.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The names of the new side, in parts, each and all of them sorted.
    pub(super) parts: Vec<Vec<Found>>,
    /// The names that are gone, sorted.
    pub(super) deleted: Vec<Vec<u8>>,
}

/// Work for several threads until there is none left.
#[derive(Debug)]
pub(super) struct Pool {
    work: Mutex<Work>,
    changed: Condvar,
    nodes: Mutex<Vec<Node>>,
}

#[derive(Debug)]
struct Work {
    /// The last one is taken first.
    tasks: Vec<Task>,
    running: usize,
    /// The first failure; nothing is begun after it.
    failed: Option<ChangesError>,
}

impl Pool {
    /// Runs a task and all that come of it. Gives the nodes; that of the first task is the first.
    pub(super) fn run(first: Task) -> Result<Vec<Node>, ChangesError> {
        let work = Work { tasks: vec![first], running: 0, failed: None };
        let nodes = Mutex::new(vec![Node::default()]);
        let pool = Self { work: Mutex::new(work), changed: Condvar::new(), nodes };
        let (least, most) = THREADS;
        let threads = std::thread::available_parallelism().map_or(least, usize::from);
        std::thread::scope(|scope| {
            for at in 0..threads.clamp(least, most) {
                let started =
                    berth_sys::thread::with_own_directory(scope, "compare", || pool.serve());
                match started {
                    Ok(_joined_by_the_scope) => {}
                    // Fewer do as well.
                    Err(error) if at > 0 => {
                        tracing::debug!(%error, threads = at, "no more threads to compare with");
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .map_err(|source| ChangesError {
            action: "start to compare",
            path: "/".into(),
            source,
        })?;
        let work = pool.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        match work.failed {
            Some(error) => Err(error),
            None => Ok(pool.nodes.into_inner().unwrap_or_else(PoisonError::into_inner)),
        }
    }

    fn work(&self) -> MutexGuard<'_, Work> {
        // Each change is one statement; a panic goes on where the threads are joined.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.nodes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self) {
        while let Some(task) = self.next() {
            let running = Running(self);
            if let Err(error) = task.run(self) {
                self.work().failed.get_or_insert(error);
            }
            drop(running);
        }
    }

    /// Waits for a task; `None` when there will be none.
    fn next(&self) -> Option<Task> {
        let waits =
            |work: &mut Work| work.tasks.is_empty() && work.running > 0 && work.failed.is_none();
        let waited = self.changed.wait_while(self.work(), waits);
        let mut work = waited.unwrap_or_else(PoisonError::into_inner);
        if work.failed.is_some() {
            return None;
        }
        let task = work.tasks.pop()?;
        work.running += 1;
        Some(task)
    }

    /// Adds tasks; the last one is taken first.
    pub(super) fn push(&self, tasks: impl IntoIterator<Item = Task>) {
        self.work().tasks.extend(tasks);
        self.changed.notify_all();
    }

    /// Makes room for directories that were found.
    pub(super) fn new_nodes(&self, count: usize) -> Range<usize> {
        let mut nodes = self.nodes();
        let first = nodes.len();
        nodes.resize_with(first + count, Node::default);
        first..nodes.len()
    }

    /// Says of how many parts a directory's findings will be, and what is gone from it.
    pub(super) fn expect(&self, node: usize, parts: usize, deleted: Vec<Vec<u8>>) {
        let node = &mut self.nodes()[node];
        node.parts.resize_with(parts, Vec::new);
        node.deleted = deleted;
    }

    /// Keeps what was found of a part of a directory's names.
    pub(super) fn note(&self, node: usize, part: usize, compared: Compared) {
        let Compared { found, gone } = compared;
        let node = &mut self.nodes()[node];
        node.parts[part] = found;
        if !gone.is_empty() {
            node.deleted.extend(gone);
            node.deleted.sort_unstable();
        }
    }
}

/// A task that is being run; a panic ends it as well.
struct Running<'a>(&'a Pool);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        let is_over = {
            let mut work = self.0.work();
            work.running -= 1;
            if std::thread::panicking() {
                work.tasks.clear();
            }
            work.failed.is_some() || work.running == 0
        };
        if is_over {
            self.0.changed.notify_all();
        }
    }
}
