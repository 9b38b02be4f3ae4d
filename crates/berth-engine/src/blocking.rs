//! The one crossing from async to the synchronous stores.

/// Runs blocking work on the pool for it; a panic in `work` goes on here.
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(value) => value,
        Err(error) => match error.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            // Only a runtime that shuts down cancels blocking work; nobody waits for us then.
            Err(_cancelled) => std::future::pending().await,
        },
    }
}
