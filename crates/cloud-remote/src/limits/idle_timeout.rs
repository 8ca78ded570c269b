//! Idle timeouts: timers that activity resets.

use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::{Instant, sleep_until};

/// The time of the last activity; initially the time of creation. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct ActivityTimer(Arc<Mutex<Instant>>);

impl Default for ActivityTimer {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }
}

impl ActivityTimer {
    pub(crate) fn touch(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    pub(crate) fn last(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until there has been no activity for `limit`.
    pub(crate) async fn idle_for(&self, limit: Duration) {
        elapsed_since(limit, || self.last()).await;
    }
}

/// Waits until `limit` has passed since the time that `last` returns by then; forever if that time
/// overflows the clock.
pub(crate) async fn elapsed_since(limit: Duration, last: impl Fn() -> Instant) {
    loop {
        let Some(end) = last().checked_add(limit) else {
            return std::future::pending().await;
        };
        if Instant::now() >= end {
            return;
        }
        sleep_until(end).await;
    }
}

/// A reader that records reads as activity, and remembers a read error.
#[derive(Debug)]
pub(crate) struct TrackedReader<R> {
    reader: R,
    timer: ActivityTimer,
    failed: bool,
}

impl<R> TrackedReader<R> {
    pub(crate) fn new(reader: R, timer: ActivityTimer) -> Self {
        Self {
            reader,
            timer,
            failed: false,
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for TrackedReader<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = ready!(Pin::new(&mut self.reader).poll_read(context, buffer));
        self.timer.touch();
        self.failed = read.is_err();
        Poll::Ready(read)
    }
}
