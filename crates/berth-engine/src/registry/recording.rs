//! Blobs whose layers are being recorded: their files are gone, and the layers cannot be found yet.
//!
//! A pull that wants one of them waits for that, and finds the layer, instead of fetching the blob a
//! second time.

use std::collections::HashMap;

use berth_types::Digest;
use tokio::sync::watch;

/// How many pulls are recording the layer of each blob; none is not in it.
#[derive(Debug, Default)]
pub(super) struct Recording(watch::Sender<HashMap<Digest, usize>>);

/// Blobs that are being recorded, until this is dropped.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    all: &'a Recording,
    blobs: Vec<Digest>,
}

impl Recording {
    /// To be called while the blobs are still held, and kept until their layers are recorded.
    pub(super) fn enter(&self, blobs: Vec<Digest>) -> Entered<'_> {
        self.0.send_modify(|all| {
            for blob in &blobs {
                *all.entry(blob.clone()).or_default() += 1;
            }
        });
        Entered { all: self, blobs }
    }

    /// Waits until none of these is being recorded.
    pub(super) async fn wait(&self, blobs: &[Digest]) {
        let ended = self.0.subscribe().wait_for(|all| has_none(all, blobs)).await.map(drop);
        ended.expect("the sender is this");
    }

    /// Does something if none of these is being recorded, and while none begins to be.
    pub(super) fn unless<T>(&self, blobs: &[Digest], act: impl FnOnce() -> T) -> Option<T> {
        let all = self.0.borrow();
        has_none(&all, blobs).then(act)
    }
}

fn has_none(all: &HashMap<Digest, usize>, blobs: &[Digest]) -> bool {
    !blobs.iter().any(|blob| all.contains_key(blob))
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.all.0.send_modify(|all| {
            for blob in &self.blobs {
                if let Some(count) = all.get_mut(blob) {
                    *count -= 1;
                    if *count == 0 {
                        all.remove(blob);
                    }
                }
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_blob_is_free_when_the_last_has_recorded_it() {
        let recording = Recording::default();
        let [one, two] = [b"one", b"two"].map(|bytes| Digest::of(bytes));
        let is_free = |blob: &Digest| recording.unless(std::slice::from_ref(blob), || ()).is_some();
        let first = recording.enter(vec![one.clone(), two.clone()]);
        let second = recording.enter(vec![one.clone()]);
        assert_eq!((is_free(&one), is_free(&two)), (false, false));
        drop(first);
        assert_eq!((is_free(&one), is_free(&two)), (false, true));
        drop(second);
        assert_eq!((is_free(&one), is_free(&two)), (true, true));
    }
}
