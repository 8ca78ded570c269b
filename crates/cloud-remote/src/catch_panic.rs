//! Runs a future of the host; a panic in it becomes an error instead of the end of remote access.

use std::panic::AssertUnwindSafe;

use futures_util::future::FutureExt;

pub(crate) async fn catch_panic<T, E>(
    future: impl Future<Output = Result<T, E>>,
    panicked: impl FnOnce() -> E,
) -> Result<T, E> {
    AssertUnwindSafe(future)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(panicked()))
}
