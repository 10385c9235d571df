//! Waiting for a condition.

use std::time::{Duration, Instant};

const POLL_INTERVAL: Duration = Duration::from_millis(10);

/// Polls a condition until it holds and returns how long that took. Panics when it does not hold in time.
pub(crate) async fn wait_until(condition: &str, timeout: Duration, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let started = Instant::now();
    while !holds().await {
        assert!(started.elapsed() < timeout, "not within {timeout:?}: {condition}");
        tokio::time::sleep(POLL_INTERVAL).await;
    }
    started.elapsed()
}
