//! The activity of a public connection: whether it is idle, unused or in use, and its eviction.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::limits::fair_share::{Claim, Holder, STALLED};
use crate::limits::idle_timeout::{ActivityTimer, elapsed_since};

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    /// The connection, or a stream of it, carries a protocol other than HTTP.
    opaque: AtomicBool,
    /// Requests since the start of the connection.
    requests: AtomicUsize,
    /// Requests whose responses are not complete.
    in_flight: AtomicUsize,
    /// The end of the last request; initially the start of the connection.
    last_request: ActivityTimer,
    /// The last traffic on the connection.
    last_traffic: ActivityTimer,
    evicted: CancellationToken,
}

impl ConnectionActivity {
    /// Marks the connection as carrying, from now on, a protocol other than HTTP, even if only in
    /// one stream.
    pub(crate) fn set_opaque(&self) {
        self.opaque.store(true, Ordering::Relaxed);
    }

    /// Records traffic.
    pub(crate) fn touch(&self) {
        self.last_traffic.touch();
    }

    /// Counts a request until the returned guard is dropped.
    pub(crate) fn start_request(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        RequestGuard(Arc::clone(self))
    }

    /// Waits until no request has arrived for `first`, counted from now, or none has been in
    /// progress for `idle`. A connection that only answers pings is unused.
    pub(crate) async fn unused(&self, first: Duration, idle: Duration) {
        sleep(first).await;
        if self.requests.load(Ordering::Relaxed) == 0 {
            return;
        }
        elapsed_since(idle, || match self.in_flight.load(Ordering::Relaxed) {
            0 => self.last_request.last(),
            _ => Instant::now(),
        })
        .await;
    }

    /// Waits until no request has been in progress for `limit`, counted from now at the earliest.
    pub(crate) async fn done(&self, limit: Duration) {
        let begin = Instant::now();
        elapsed_since(limit, || {
            if self.in_flight.load(Ordering::Relaxed) > 0 || self.opaque.load(Ordering::Relaxed) {
                return Instant::now();
            }
            self.last_request.last().max(begin)
        })
        .await;
    }

    /// Waits until there has been no traffic for `limit`, even if nothing reads or writes the
    /// connection.
    pub(crate) async fn idle(&self, limit: Duration) -> io::Error {
        self.last_traffic.idle_for(limit).await;
        idle_error()
    }

    /// Returns whether all open streams carry protocols other than HTTP.
    pub(crate) fn is_opaque_only(&self) -> bool {
        self.opaque.load(Ordering::Relaxed) && self.in_flight.load(Ordering::Relaxed) == 0
    }

    /// Returns the token that is cancelled on eviction.
    pub(crate) fn evicted(&self) -> &CancellationToken {
        &self.evicted
    }
}

pub(crate) fn idle_error() -> io::Error {
    io::Error::new(
        io::ErrorKind::TimedOut,
        "the connection was idle for too long",
    )
}

impl Holder for ConnectionActivity {
    fn claim(&self) -> Claim {
        let silent = self.last_traffic.last().elapsed();
        if self.opaque.load(Ordering::Relaxed) {
            Claim::Active(silent)
        } else if self.in_flight.load(Ordering::Relaxed) == 0 {
            Claim::Unused(self.last_request.last().elapsed())
        } else if silent < STALLED {
            Claim::Active(silent)
        } else {
            Claim::Stalled(silent)
        }
    }

    fn evict(&self) {
        self.evicted.cancel();
    }
}

/// A request in progress.
#[derive(Debug)]
pub(crate) struct RequestGuard(Arc<ConnectionActivity>);

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.0.last_request.touch();
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FIRST: Duration = Duration::from_secs(30);
    const IDLE: Duration = Duration::from_secs(180);

    #[tokio::test(start_paused = true)]
    async fn unused_without_a_first_request_ends_early() {
        let activity = ConnectionActivity::default();
        let start = Instant::now();
        activity.unused(FIRST, IDLE).await;
        assert_eq!(start.elapsed(), FIRST);
    }

    #[tokio::test(start_paused = true)]
    async fn unused_counts_from_the_end_of_the_last_request() {
        let activity = Arc::<ConnectionActivity>::default();
        let start = Instant::now();
        let request = activity.start_request();
        let unused = activity.unused(FIRST, IDLE);
        tokio::pin!(unused);
        let early = tokio::time::timeout(IDLE * 3, unused.as_mut()).await;
        assert!(early.is_err(), "a request is in progress");
        drop(request);
        unused.await;
        assert_eq!(start.elapsed(), IDLE * 4);
    }

    #[tokio::test(start_paused = true)]
    async fn claim_is_unused_without_a_request_and_active_with_one() {
        let activity = Arc::<ConnectionActivity>::default();
        tokio::time::advance(FIRST).await;
        activity.touch();
        assert_eq!(activity.claim(), Claim::Unused(FIRST));
        let request = activity.start_request();
        assert_eq!(activity.claim(), Claim::Active(Duration::ZERO));
        tokio::time::advance(FIRST).await;
        assert_eq!(activity.claim(), Claim::Stalled(FIRST));
        drop(request);
        assert_eq!(activity.claim(), Claim::Unused(Duration::ZERO));
        activity.set_opaque();
        assert_eq!(activity.claim(), Claim::Active(FIRST));
    }
}
