//! The task group of remote access: counts its tasks and ends all of them.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use hyper::rt::Executor;
use pin_project_lite::pin_project;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

/// Spawns tasks that end at the latest at [`TaskGroup::kill`].
#[derive(Debug, Clone, Default)]
pub(crate) struct TaskGroup {
    tracker: TaskTracker,
    drain: CancellationToken,
    upgraded_cut: CancellationToken,
    kill: CancellationToken,
    /// The same as `kill`, without its lock.
    killed: Arc<AtomicBool>,
}

impl TaskGroup {
    pub(crate) fn spawn<F>(&self, task: F) -> tokio::task::JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send,
    {
        self.tracker.spawn(UntilKilled {
            task,
            kill: self.kill.clone().cancelled_owned(),
            is_registered: false,
            killed: Arc::clone(&self.killed),
        })
    }

    /// Returns a token that counts as a task until it is dropped.
    pub(crate) fn token(&self) -> TaskTrackerToken {
        self.tracker.token()
    }

    /// Requests a graceful end of all tasks.
    pub(crate) fn drain(&self) {
        self.drain.cancel();
        self.tracker.close();
    }

    /// Waits until [`TaskGroup::drain`] is called.
    pub(crate) async fn draining(&self) {
        self.drain.cancelled().await;
    }

    /// Closes upgraded connections, which do not end on their own.
    pub(crate) fn cut_upgraded(&self) {
        self.upgraded_cut.cancel();
    }

    /// Cancelled by [`TaskGroup::cut_upgraded`].
    pub(crate) fn upgraded_cut(&self) -> CancellationToken {
        self.upgraded_cut.clone()
    }

    /// Ends all tasks at once.
    pub(crate) fn kill(&self) {
        self.drain();
        self.killed.store(true, Ordering::Release);
        self.kill.cancel();
    }

    /// Waits until no task is left, after [`TaskGroup::drain`].
    pub(crate) async fn ended(&self) {
        self.tracker.wait().await;
    }

    pub(crate) fn count(&self) -> usize {
        self.tracker.len()
    }
}

pin_project! {
    /// A task that ends without a result when the group is killed. Not an `async` block, which
    /// would have room for the task twice: one is allocated for each request over HTTP/2.
    struct UntilKilled<F> {
        #[pin]
        task: F,
        #[pin]
        kill: WaitForCancellationFutureOwned,
        // Whether `kill` wakes the task, whose waker stays the same.
        is_registered: bool,
        killed: Arc<AtomicBool>,
    }
}

impl<F: Future> Future for UntilKilled<F> {
    type Output = Option<F::Output>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        match this.task.poll(context) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if this.killed.load(Ordering::Acquire) => Poll::Ready(None),
            Poll::Pending if *this.is_registered => Poll::Pending,
            Poll::Pending => {
                *this.is_registered = true;
                this.kill.poll(context).map(|()| None)
            }
        }
    }
}

impl<F> Executor<F> for TaskGroup
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn execute(&self, task: F) {
        drop(self.spawn(task));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn kill_ends_all_tasks() {
        let tasks = TaskGroup::default();
        for _ in 0..10 {
            tasks.spawn(std::future::pending::<()>());
        }
        assert_eq!(tasks.count(), 10);
        tasks.kill();
        tasks.ended().await;
        assert_eq!(tasks.count(), 0);
    }

    #[tokio::test]
    async fn drain_waits_for_tasks_and_tokens() {
        let tasks = TaskGroup::default();
        let token = tasks.token();
        let inner = tasks.clone();
        tasks.spawn(async move { inner.draining().await });
        tasks.drain();
        let ended = tasks.ended();
        tokio::pin!(ended);
        assert!(futures_util::poll!(&mut ended).is_pending());
        drop(token);
        ended.await;
    }
}
