//! The account files of images, so that starting a fresh container need not mount it to look.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use berth_runtime::Accounts;
use berth_types::ImageId;

/// How many images' files are kept. Each is a few KiB.
const KEPT: usize = 32;

/// The account files of the images last started from.
#[derive(Debug, Default)]
pub(crate) struct AccountCache {
    entries: Mutex<VecDeque<(ImageId, Arc<Accounts>)>>,
}

impl AccountCache {
    fn entries(&self) -> MutexGuard<'_, VecDeque<(ImageId, Arc<Accounts>)>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, image: &ImageId) -> Option<Arc<Accounts>> {
        let entries = self.entries();
        entries.iter().find(|(known, _)| known == image).map(|(_, accounts)| Arc::clone(accounts))
    }

    pub(crate) fn insert(&self, image: ImageId, accounts: Arc<Accounts>) {
        let mut entries = self.entries();
        entries.retain(|(known, _)| *known != image);
        if entries.len() == KEPT {
            entries.pop_front();
        }
        entries.push_back((image, accounts));
    }
}
