//! One operation at a time for each volume name.

use std::collections::HashSet;
use std::sync::{Arc, Condvar, Mutex, PoisonError};

/// The names that an operation holds at the moment.
#[derive(Debug, Clone, Default)]
pub(crate) struct NameLocks {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    held: Mutex<HashSet<String>>,
    freed: Condvar,
}

/// Holds some names until it is dropped.
#[derive(Debug)]
pub(crate) struct Held {
    shared: Arc<Shared>,
    names: Vec<String>,
}

impl NameLocks {
    /// Waits until none of `names` is held and takes them all at once, so that two callers with
    /// the same names in another order cannot wait for each other.
    pub(crate) fn hold(&self, names: &[&str]) -> Held {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        while names.iter().any(|name| held.contains(*name)) {
            held = self.shared.freed.wait(held).unwrap_or_else(PoisonError::into_inner);
        }
        let mut taken = Vec::with_capacity(names.len());
        for name in names {
            if held.insert((*name).to_owned()) {
                taken.push((*name).to_owned());
            }
        }
        Held { shared: Arc::clone(&self.shared), names: taken }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let mut held = self.shared.held.lock().unwrap_or_else(PoisonError::into_inner);
        for name in &self.names {
            held.remove(name);
        }
        self.shared.freed.notify_all();
    }
}
