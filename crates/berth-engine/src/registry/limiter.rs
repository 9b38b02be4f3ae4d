//! So many at a time, and the number may change.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// So many at a time.
#[derive(Debug)]
pub(crate) struct Limiter {
    semaphore: Arc<Semaphore>,
    size: Mutex<usize>,
}

impl Limiter {
    pub(crate) fn new(size: usize) -> Self {
        let size = size.max(1);
        Self { semaphore: Arc::new(Semaphore::new(size)), size: Mutex::new(size) }
    }

    /// A place that is free now.
    pub(crate) fn try_enter(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.semaphore).try_acquire_owned().ok()
    }

    /// Waits for a place.
    pub(crate) async fn enter(&self) -> OwnedSemaphorePermit {
        let entered = Arc::clone(&self.semaphore).acquire_owned().await;
        entered.expect("nobody closes it")
    }

    /// Changes the number. What is in stays in.
    pub(crate) fn resize(&self, new: usize) {
        let new = new.max(1);
        let mut size = self.size.lock().unwrap_or_else(PoisonError::into_inner);
        if new > *size {
            self.semaphore.add_permits(new - *size);
        }
        for _ in new..*size {
            let semaphore = Arc::clone(&self.semaphore);
            match Arc::clone(&semaphore).try_acquire_owned() {
                Ok(place) => place.forget(),
                // Taken out of use by whoever leaves next.
                Err(_full) => drop(tokio::spawn(async move {
                    if let Ok(place) = semaphore.acquire_owned().await {
                        place.forget();
                    }
                })),
            }
        }
        *size = new;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_number_of_places_changes_when_they_are_left() {
        let limiter = Limiter::new(3);
        let held = [limiter.enter().await, limiter.enter().await, limiter.enter().await];
        assert!(limiter.try_enter().is_none());
        limiter.resize(1);
        let [first, second, third] = held;
        for left in [first, second] {
            drop(left);
            tokio::task::yield_now().await;
            tokio::task::yield_now().await;
            assert!(limiter.try_enter().is_none());
        }
        drop(third);
        let one = limiter.enter().await;
        assert!(limiter.try_enter().is_none());
        limiter.resize(2);
        assert!(limiter.try_enter().is_some());
        drop(one);
    }
}
