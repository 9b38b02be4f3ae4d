//! Work that makes more work, done by a few threads.
//!
//! Tasks are taken from a stack, so that trees are walked down before they are walked across: what a
//! waiting task holds open are the directories above the present ones, not all that are still to come.

use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// How many threads there are at least and at most.
const THREADS: (usize, usize) = (2, 8);

/// Tasks for several threads until there is none left.
#[derive(Debug)]
pub(crate) struct Pool<T, E> {
    work: Mutex<Work<T, E>>,
    changed: Condvar,
}

#[derive(Debug)]
struct Work<T, E> {
    /// The last one is taken first.
    tasks: Vec<T>,
    running: usize,
    /// The first failure; nothing is begun after it.
    failed: Option<E>,
}

impl<T: Send, E: Send> Pool<T, E> {
    /// Does `first` and all that come of it, each by a call of `act`, on threads of this `name` whose
    /// working directories are their own. Fails with the first failure, or with what
    /// `not_started` makes of one to start a thread.
    pub(crate) fn run(
        name: &str,
        first: T,
        act: impl Fn(&Self, T) -> Result<(), E> + Sync,
        not_started: impl FnOnce(io::Error) -> E,
    ) -> Result<(), E> {
        let work = Work { tasks: vec![first], running: 0, failed: None };
        let pool = Self { work: Mutex::new(work), changed: Condvar::new() };
        let (least, most) = THREADS;
        let threads = std::thread::available_parallelism().map_or(least, usize::from);
        std::thread::scope(|scope| {
            for at in 0..threads.clamp(least, most) {
                let serve = || pool.serve(&act);
                match berth_sys::thread::with_own_directory(scope, name, serve) {
                    Ok(_joined_by_the_scope) => {}
                    // Fewer do as well.
                    Err(error) if at > 0 => {
                        tracing::debug!(%error, threads = at, "no more threads to {name} with");
                        break;
                    }
                    Err(error) => return Err(error),
                }
            }
            Ok(())
        })
        .map_err(not_started)?;
        let work = pool.work.into_inner().unwrap_or_else(PoisonError::into_inner);
        work.failed.map_or(Ok(()), Err)
    }

    /// Adds tasks; the last one is taken first.
    pub(crate) fn push(&self, tasks: impl IntoIterator<Item = T>) {
        self.work().tasks.extend(tasks);
        self.changed.notify_all();
    }

    fn work(&self) -> MutexGuard<'_, Work<T, E>> {
        // Each change is one statement; a panic goes on where the threads are joined.
        self.work.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn serve(&self, act: &impl Fn(&Self, T) -> Result<(), E>) {
        while let Some(task) = self.next() {
            let running = Running(self);
            if let Err(error) = act(self, task) {
                self.work().failed.get_or_insert(error);
            }
            drop(running);
        }
    }

    /// Waits for a task; `None` when there will be none.
    fn next(&self) -> Option<T> {
        let waits = |work: &mut Work<T, E>| {
            work.tasks.is_empty() && work.running > 0 && work.failed.is_none()
        };
        let waited = self.changed.wait_while(self.work(), waits);
        let mut work = waited.unwrap_or_else(PoisonError::into_inner);
        if work.failed.is_some() {
            return None;
        }
        let task = work.tasks.pop()?;
        work.running += 1;
        Some(task)
    }
}

/// A task that is being done; a panic ends it as well.
struct Running<'a, T: Send, E: Send>(&'a Pool<T, E>);

impl<T: Send, E: Send> Drop for Running<'_, T, E> {
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
