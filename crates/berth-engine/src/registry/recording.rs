//! Blobs whose layers are being recorded: their files are gone, and the layers cannot be found yet.
//!
//! A pull that wants one of them waits for that, and finds the layer, instead of fetching the blob a
//! second time.

use std::collections::HashMap;

use berth_types::Digest;
use tokio::sync::watch;

/// The blobs of all pulls.
#[derive(Debug, Default)]
pub(super) struct Recording(watch::Sender<State>);

#[derive(Debug, Default)]
struct State {
    /// How many pulls are recording the layer of each blob; none is not in it.
    counts: HashMap<Digest, usize>,
    /// How many pulls have ended to.
    ended: u64,
}

/// Blobs that are being recorded, until this is dropped.
#[derive(Debug)]
pub(super) struct Entered<'a> {
    all: &'a Recording,
    blobs: Vec<Digest>,
}

impl Recording {
    /// To be called while the blobs are still held, and kept until their layers are recorded.
    pub(super) fn enter(&self, blobs: Vec<Digest>) -> Entered<'_> {
        self.0.send_modify(|state| {
            for blob in &blobs {
                *state.counts.entry(blob.clone()).or_default() += 1;
            }
        });
        Entered { all: self, blobs }
    }

    /// Waits until none of these is being recorded. The moment, for [`Self::unless_since`].
    pub(super) async fn wait(&self, blobs: &[Digest]) -> u64 {
        let mut states = self.0.subscribe();
        let state = states.wait_for(|state| state.has_none(blobs)).await;
        state.expect("the sender is this").ended
    }

    /// Does something, while no blob begins to be recorded, if none of these is and nothing was since a
    /// moment: what was looked for then, and not found, is still not there.
    pub(super) fn unless_since<T>(
        &self,
        moment: u64,
        blobs: &[Digest],
        act: impl FnOnce() -> T,
    ) -> Option<T> {
        let state = self.0.borrow();
        (state.ended == moment && state.has_none(blobs)).then(act)
    }
}

impl State {
    fn has_none(&self, blobs: &[Digest]) -> bool {
        !blobs.iter().any(|blob| self.counts.contains_key(blob))
    }
}

impl Drop for Entered<'_> {
    fn drop(&mut self) {
        self.all.0.send_modify(|state| {
            for blob in &self.blobs {
                if let Some(count) = state.counts.get_mut(blob) {
                    *count -= 1;
                    if *count == 0 {
                        state.counts.remove(blob);
                    }
                }
            }
            state.ended += 1;
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
        let is_free = |ended, blob: &Digest| {
            recording.unless_since(ended, std::slice::from_ref(blob), || ()).is_some()
        };
        let first = recording.enter(vec![one.clone(), two.clone()]);
        let second = recording.enter(vec![one.clone()]);
        assert_eq!((is_free(0, &one), is_free(0, &two)), (false, false));
        drop(first);
        assert_eq!((is_free(1, &one), is_free(1, &two), is_free(0, &two)), (false, true, false));
        drop(second);
        assert_eq!((is_free(2, &one), is_free(2, &two), is_free(1, &one)), (true, true, false));
    }
}
