//! A future that is polled only when its own waker was called.
//!
//! `select!` polls all its futures whenever one of them wakes the task. Where one of them transfers
//! bytes and the others wait for rare events, most of those polls are wasted: polling a timer, a
//! cancellation or the other direction of a connection costs about as much as forwarding a small
//! frame.

use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Wake, Waker};

/// Polls `future` once, and then only when it was woken. Must not be polled again after it is
/// ready.
pub(crate) struct WakeGated<'a, F> {
    future: Pin<&'a mut F>,
    gate: Arc<Gate>,
    /// The waker that `future` gets.
    waker: Waker,
}

/// Wakes the task, and records that the future was woken.
struct Gate {
    woken: AtomicBool,
    task: Mutex<Option<Waker>>,
}

impl<'a, F: Future> WakeGated<'a, F> {
    pub(crate) fn new(future: Pin<&'a mut F>) -> Self {
        let gate = Arc::new(Gate {
            woken: AtomicBool::new(true),
            task: Mutex::new(None),
        });
        Self {
            future,
            waker: Arc::clone(&gate).into(),
            gate,
        }
    }
}

impl<F: Future> Future for WakeGated<'_, F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        let this = &mut *self;
        // Before reading the flag: a waker called from now on finds the task.
        this.gate.set_task(cx.waker());
        if !this.gate.woken.swap(false, Ordering::AcqRel) {
            return Poll::Pending;
        }
        this.future
            .as_mut()
            .poll(&mut Context::from_waker(&this.waker))
    }
}

impl Gate {
    fn task(&self) -> MutexGuard<'_, Option<Waker>> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set_task(&self, waker: &Waker) {
        let mut task = self.task();
        match &mut *task {
            Some(known) => known.clone_from(waker),
            None => *task = Some(waker.clone()),
        }
    }
}

impl Wake for Gate {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.woken.swap(true, Ordering::AcqRel) {
            let task = self.task().clone();
            // Without the lock: `wake` may run arbitrary code.
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
    async fn polls_only_when_its_waker_fired() {
        let (ours, theirs) = (Notify::new(), Notify::new());
        let mut asked = 0;
        {
            let mut waiting = pin!(ours.notified());
            let counted = pin!(poll_fn(|cx| {
                asked += 1;
                waiting.as_mut().poll(cx)
            }));
            let mut counted = WakeGated::new(counted);
            for _ in 0..5 {
                theirs.notify_one();
                tokio::select! {
                    biased;
                    () = &mut counted => panic!("polled without being woken"),
                    () = theirs.notified() => {}
                }
            }
            ours.notify_one();
            counted.await;
        }
        assert_eq!(asked, 2);
    }

    #[tokio::test]
    async fn wakes_the_task_it_moved_to() {
        let notify = Arc::new(Notify::new());
        let mut waiting = Box::pin({
            let notify = Arc::clone(&notify);
            async move { notify.notified().await }
        });
        // Polled in this task first, then moved to another one.
        let moved = tokio::spawn(async move {
            let mut waiting = WakeGated::new(waiting.as_mut());
            let first = poll_fn(|cx| Poll::Ready(waiting.poll_unpin(cx))).await;
            assert!(first.is_pending());
            waiting.await;
        });
        tokio::task::yield_now().await;
        notify.notify_one();
        moved.await.unwrap();
    }
}
