//! Waiting for a condition instead of for a time.

use std::thread;
use std::time::{Duration, Instant};

/// Time limit of every wait; generous for a loaded machine, because only a failing test reaches it.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Time between two looks at a condition.
const INTERVAL: Duration = Duration::from_millis(20);

/// Awaits a future. Panics with `what` after [`LIMIT`].
pub async fn timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("not within {LIMIT:?}: {what}"),
    }
}

/// Calls `condition` until it returns a value. Panics with `what` after [`LIMIT`].
pub async fn eventually<T>(what: &str, mut condition: impl AsyncFnMut() -> Option<T>) -> T {
    timeout(what, async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(INTERVAL).await;
        }
    })
    .await
}

/// Blocks the thread until `condition` holds. Panics with `what` after [`LIMIT`].
#[track_caller]
pub fn block_until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + LIMIT;
    while !condition() {
        assert!(Instant::now() < end, "not within {LIMIT:?}: {what}");
        thread::sleep(INTERVAL);
    }
}
