//! Where files with several names were copied to.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Condvar, Mutex, PoisonError};

/// Device and inode.
pub(super) type Key = (u64, u64);

/// By what was copied; `None` while somebody copies it.
#[derive(Debug, Default)]
pub(super) struct Links {
    copies: Mutex<HashMap<Key, Option<PathBuf>>>,
    changed: Condvar,
}

/// What is to be done with a file that has several names.
#[derive(Debug)]
pub(super) enum Name<'a> {
    /// Copy it, and say where to.
    First(Claim<'a>),
    /// It is copied already: to this path below the target.
    Other(PathBuf),
}

impl Links {
    /// Waits for whoever copies the file under another name.
    pub(super) fn claim(&self, key: Key) -> Name<'_> {
        let copies = self.copies.lock().unwrap_or_else(PoisonError::into_inner);
        let waited = self.changed.wait_while(copies, |copies| copies.get(&key) == Some(&None));
        let mut copies = waited.unwrap_or_else(PoisonError::into_inner);
        if let Some(Some(path)) = copies.get(&key) {
            return Name::Other(path.clone());
        }
        copies.insert(key, None);
        Name::First(Claim { links: self, key, copy: None })
    }
}

/// A file that nobody else copies until this is dropped.
#[derive(Debug)]
pub(super) struct Claim<'a> {
    links: &'a Links,
    key: Key,
    copy: Option<PathBuf>,
}

impl Claim<'_> {
    /// Has the other names linked to the copy at this path.
    pub(super) fn copied(mut self, path: PathBuf) {
        self.copy = Some(path);
    }
}

impl Drop for Claim<'_> {
    fn drop(&mut self) {
        let mut copies = self.links.copies.lock().unwrap_or_else(PoisonError::into_inner);
        match self.copy.take() {
            Some(path) => copies.insert(self.key, Some(path)),
            None => copies.remove(&self.key),
        };
        drop(copies);
        self.links.changed.notify_all();
    }
}
