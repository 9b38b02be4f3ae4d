//! What the threads that compare have found.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::{Compared, Found};

/// What was found in a directory.
#[derive(Debug, Default)]
pub(super) struct Node {
    /// The names of the new side, in parts, each and all of them sorted.
    pub(super) parts: Vec<Vec<Found>>,
    /// The names that are gone, sorted.
    pub(super) deleted: Vec<Vec<u8>>,
}

/// A node for each directory; the first is the top's.
#[derive(Debug)]
pub(super) struct Findings(Mutex<Vec<Node>>);

impl Findings {
    pub(super) fn new() -> Self {
        Self(Mutex::new(vec![Node::default()]))
    }

    pub(super) fn into_nodes(self) -> Vec<Node> {
        self.0.into_inner().unwrap_or_else(PoisonError::into_inner)
    }

    fn nodes(&self) -> MutexGuard<'_, Vec<Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
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
