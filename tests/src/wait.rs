//! Waiting for a condition, instead of for a while.

use std::future::Future;
use std::time::Duration;

/// How long a test waits for something that will happen. Generous: it only matters when a test fails.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Looks again and again until `condition` gives a value. Panics with `what` after [`LIMIT`].
pub async fn eventually<T, F, Fut>(what: &str, mut condition: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let look = async {
        loop {
            if let Some(found) = condition().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(what, look).await
}

/// Awaits `future`. Panics with `what` after [`LIMIT`].
#[allow(clippy::panic)]
pub async fn timeout<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, future).await {
        Ok(value) => value,
        Err(_) => panic!("waited {LIMIT:?} in vain: {what}"),
    }
}
