//! Blocking work and the results of tasks.

use tokio::task::{JoinError, JoinHandle};

/// Runs blocking work on the blocking thread pool. Resumes a panic of the work.
pub(crate) async fn spawn_blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> T {
    join_or_resume_panic(tokio::task::spawn_blocking(work)).await
}

/// Waits for a task. Resumes its panic.
///
/// During the shutdown of the runtime there is no result, and the future stays pending.
pub(crate) async fn join_or_resume_panic<T>(task: JoinHandle<T>) -> T {
    match task.await.map_err(JoinError::try_into_panic) {
        Ok(value) => value,
        Err(Ok(panic)) => std::panic::resume_unwind(panic),
        Err(Err(_)) => std::future::pending().await,
    }
}
