//! The activity of a public connection: whether it is idle, unused or in use, and its end.

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::limits::fair_share::{Claim, Holder, STALLED};
use crate::limits::idle_timeout::{ActivityTimer, elapsed_since};
use crate::traffic::ConnectionTraffic;

/// The reason for which the device ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EndReason {
    /// No traffic for the idle timeout.
    Idle,
    /// The place is needed for another caller, or the caller is below the minimum data rate.
    Evicted,
}

impl From<EndReason> for io::Error {
    fn from(reason: EndReason) -> Self {
        match reason {
            EndReason::Idle => Self::new(
                io::ErrorKind::TimedOut,
                "the connection was idle for too long",
            ),
            EndReason::Evicted => Self::new(
                io::ErrorKind::ConnectionAborted,
                "the caller was too slow, or the place was needed for another one",
            ),
        }
    }
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(crate) struct ConnectionActivity {
    /// The caller's address, if the relay sends it.
    address: Option<IpAddr>,
    /// The start of the connection.
    opened: ActivityTimer,
    received: AtomicU64,
    sent: AtomicU64,
    /// The connection, or a stream of it, carries a protocol other than HTTP.
    opaque: AtomicBool,
    /// The connection was upgraded to a WebSocket.
    websocket: AtomicBool,
    /// Requests since the start of the connection.
    requests: AtomicUsize,
    /// Requests whose responses are not complete.
    in_flight: AtomicUsize,
    /// Requests whose responses have started, and are not complete.
    streaming: AtomicUsize,
    /// Requests in which the device waits for the caller.
    waiting: AtomicUsize,
    /// The end of the last request; initially the start of the connection.
    last_request: ActivityTimer,
    /// The time since which the connection has been in use without interruption.
    in_use_since: ActivityTimer,
    /// The last traffic on the connection.
    last_traffic: ActivityTimer,
    end: CancellationToken,
    end_reason: OnceLock<EndReason>,
    closed: Mutex<CloseHook>,
}

impl ConnectionActivity {
    pub(crate) fn new(address: Option<IpAddr>) -> Self {
        Self {
            address,
            ..Self::default()
        }
    }

    /// Counts bytes from the caller.
    pub(crate) fn count_received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Counts bytes to the caller.
    pub(crate) fn count_sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Returns the counters.
    pub(crate) fn traffic(&self) -> ConnectionTraffic {
        ConnectionTraffic {
            address: self.address,
            requests: self.requests.load(Ordering::Relaxed) as u64,
            received: self.received.load(Ordering::Relaxed),
            sent: self.sent.load(Ordering::Relaxed),
            open_for: self.opened.last().elapsed(),
        }
    }

    /// Calls a function when the connection is closed, or drops it if it is already. It replaces
    /// an earlier one.
    pub(crate) fn on_close(&self, hook: impl FnOnce(&Self) + Send + 'static) {
        let mut closed = self.close_hook();
        if !matches!(*closed, CloseHook::Closed) {
            *closed = CloseHook::Call(Box::new(hook));
        }
    }

    /// Records that the connection is closed.
    pub(crate) fn closed(&self) {
        let hook = std::mem::replace(&mut *self.close_hook(), CloseHook::Closed);
        if let CloseHook::Call(hook) = hook {
            hook(self);
        }
    }

    fn close_hook(&self) -> MutexGuard<'_, CloseHook> {
        self.closed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Marks the connection as carrying, from now on, a protocol other than HTTP, even if only in
    /// one stream.
    pub(crate) fn set_opaque(&self) {
        if !self.opaque.swap(true, Ordering::Relaxed) && self.in_flight() == 0 {
            self.in_use_since.touch();
        }
    }

    /// Records that the next response upgrades the connection to a WebSocket.
    pub(crate) fn set_websocket(&self) {
        self.websocket.store(true, Ordering::Relaxed);
    }

    /// Returns whether the connection is, or is about to be, upgraded to a WebSocket.
    pub(crate) fn is_websocket(&self) -> bool {
        self.websocket.load(Ordering::Relaxed)
    }

    /// Records traffic.
    pub(crate) fn touch(&self) {
        self.last_traffic.touch();
    }

    /// Counts a request until the returned guard is dropped.
    pub(crate) fn start_request(self: &Arc<Self>) -> RequestGuard {
        self.requests.fetch_add(1, Ordering::Relaxed);
        if self.in_flight.fetch_add(1, Ordering::Relaxed) == 0 {
            self.in_use_since.touch();
        }
        RequestGuard(Arc::clone(self))
    }

    /// Returns the number of requests whose responses are not complete.
    pub(crate) fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Returns whether a request is in progress, or the connection carries another protocol.
    pub(crate) fn is_in_use(&self) -> bool {
        self.in_flight() > 0 || self.opaque.load(Ordering::Relaxed)
    }

    /// Counts a response that has started or is complete.
    pub(crate) fn count_streaming(&self, started: bool) {
        count(&self.streaming, started);
    }

    /// Counts a request in which the device waits for the caller, or no longer does.
    pub(crate) fn count_waiting(&self, waits: bool) {
        count(&self.waiting, waits);
    }

    /// Waits until no request has arrived for `first`, counted from now, or none has been in
    /// progress for `idle`. A connection that only answers pings is unused.
    pub(crate) async fn unused(&self, first: Duration, idle: Duration) {
        sleep(first).await;
        if self.requests.load(Ordering::Relaxed) == 0 {
            return;
        }
        elapsed_since(idle, || match self.in_flight() {
            0 => self.last_request.last(),
            _ => Instant::now(),
        })
        .await;
    }

    /// Waits until no request has been in progress for `limit`, counted from now at the earliest.
    pub(crate) async fn done(&self, limit: Duration) {
        let begin = Instant::now();
        elapsed_since(limit, || {
            if self.is_in_use() {
                return Instant::now();
            }
            self.last_request.last().max(begin)
        })
        .await;
    }

    /// Waits until there has been no traffic for `limit`, even if nothing reads or writes the
    /// connection.
    pub(crate) async fn idle(&self, limit: Duration) {
        self.last_traffic.idle_for(limit).await;
    }

    /// Returns whether all open streams carry protocols other than HTTP.
    pub(crate) fn is_opaque_only(&self) -> bool {
        self.opaque.load(Ordering::Relaxed) && self.in_flight() == 0
    }

    /// Ends the connection.
    pub(crate) fn end(&self, reason: EndReason) {
        let _ = self.end_reason.set(reason);
        self.end.cancel();
    }

    /// Returns the reason for which the connection ends, if it does.
    pub(crate) fn end_reason(&self) -> Option<EndReason> {
        self.end_reason.get().copied()
    }

    /// Waits until the device ends the connection.
    pub(crate) async fn ended(&self) -> EndReason {
        self.end.cancelled().await;
        self.end_reason().unwrap_or(EndReason::Evicted)
    }

    /// Returns the token that is cancelled when the device ends the connection.
    pub(crate) fn end_token(&self) -> CancellationToken {
        self.end.clone()
    }
}

/// What to do when the connection is closed.
#[derive(Default)]
enum CloseHook {
    #[default]
    None,
    Call(Box<dyn FnOnce(&ConnectionActivity) + Send>),
    Closed,
}

impl fmt::Debug for CloseHook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("CloseHook")
    }
}

fn count(counter: &AtomicUsize, up: bool) {
    if up {
        counter.fetch_add(1, Ordering::Relaxed);
    } else {
        counter.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Holder for ConnectionActivity {
    fn claim(&self) -> Claim {
        let silent = self.last_traffic.last().elapsed();
        let streaming =
            self.streaming.load(Ordering::Relaxed) > 0 && self.waiting.load(Ordering::Relaxed) == 0;
        if self.opaque.load(Ordering::Relaxed) || streaming {
            Claim::Streaming(self.in_use_since.last().elapsed())
        } else if self.in_flight() == 0 {
            Claim::Unused(self.last_request.last().elapsed())
        } else if silent < STALLED {
            Claim::Active(silent)
        } else {
            Claim::Stalled(silent)
        }
    }

    fn has_begun(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0 || self.opaque.load(Ordering::Relaxed)
    }

    fn evict(&self) {
        self.end(EndReason::Evicted);
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

    #[tokio::test]
    async fn connection_has_begun_with_its_first_request_or_other_protocol() {
        let activity = Arc::new(ConnectionActivity::default());
        assert!(!activity.has_begun());
        drop(activity.start_request());
        assert!(activity.has_begun());
        let opaque = ConnectionActivity::default();
        opaque.set_opaque();
        assert!(opaque.has_begun());
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
        tokio::time::advance(FIRST).await;
        assert_eq!(activity.claim(), Claim::Streaming(FIRST));
    }
}
