//! A future beside others in one task that is asked only when it was woken itself.
//!
//! `select!` asks all its futures whenever one of them wakes the task. Where one of them moves bytes and the others wait for
//! what seldom happens, most of that is in vain: a timer, a cancellation or the other direction of a connection costs about
//! as much to ask as a small frame costs to pass on.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Asks `future` once, and then only when it has been woken. Do not ask it again once it is ready.
pub(crate) struct WhenWoken<'a, F> {
    future: Pin<&'a mut F>,
    bell: Arc<Bell>,
    /// Rings the bell.
    waker: Waker,
}

/// Wakes the task, and remembers for whom.
struct Bell {
    rung: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<'a, F: Future> WhenWoken<'a, F> {
    pub(crate) fn new(future: Pin<&'a mut F>) -> Self {
        let bell = Arc::new(Bell {
            rung: AtomicBool::new(true),
            task: Mutex::new(None),
        });
        Self {
            future,
            waker: Arc::clone(&bell).into(),
            bell,
        }
    }
}

impl<F: Future> Future for WhenWoken<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Before looking at the bell: whoever rings it from now on finds the task.
        this.bell.belongs_to(cx.waker());
        if !this.bell.rung.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker))
    }
}

impl Bell {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn belongs_to(&self, waker: &Waker) {
        let mut task = self.task();
        match &mut *task {
            Some(known) => known.clone_from(waker),
            None => *task = Some(waker.clone()),
        }
    }
}

impl Wake for Bell {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.rung.swap(true, Ordering::AcqRel) {
            let task = self.task().clone();
            // Without the lock: who knows what a task does to wake up.
            if let Some(task) = task {
                task.wake();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;

    use futures_util::FutureExt;
    use tokio::sync::Notify;

    use super::*;

    #[tokio::test]
    async fn is_asked_when_woken_and_not_for_others() {
        let (ours, theirs) = (Notify::new(), Notify::new());
        let mut asked = 0;
        {
            let mut waiting = pin!(ours.notified());
            let counted = pin!(poll_fn(|cx| {
                asked += 1;
                waiting.as_mut().poll(cx)
            }));
            let mut counted = WhenWoken::new(counted);
            for _ in 0..5 {
                theirs.notify_one();
                tokio::select! {
                    biased;
                    () = &mut counted => panic!("nobody has woken it"),
                    () = theirs.notified() => {}
                }
            }
            ours.notify_one();
            counted.await;
        }
        assert_eq!(asked, 2);
    }

    #[tokio::test]
    async fn moves_to_another_task() {
        let notify = Arc::new(Notify::new());
        let mut waiting = Box::pin({
            let notify = Arc::clone(&notify);
            async move { notify.notified().await }
        });
        // Asked in this task first, then left to another one.
        let moved = tokio::spawn(async move {
            let mut waiting = WhenWoken::new(waiting.as_mut());
            let first = poll_fn(|cx| Poll::Ready(waiting.poll_unpin(cx))).await;
            assert!(first.is_pending());
            waiting.await;
        });
        tokio::task::yield_now().await;
        notify.notify_one();
        moved.await.unwrap();
    }
}
