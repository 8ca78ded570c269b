//! An HTTP exchange (a request and its response), and its minimum data rate.
//!
//! A caller that sends its request or receives its response byte by byte would hold resources
//! without limit. So the device measures the time in which it waits for the caller, and the bytes
//! transferred in it; below the minimum rate
//! ([`Limits::min_data_rate`](crate::Limits::min_data_rate)) the exchange ends. Time spent waiting
//! for the application does not count, nor does a request's body once the response has started:
//! both may then be idle for hours.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::task::AtomicWaker;
use tokio::time::Instant;

use crate::limits::connection_activity::{ConnectionActivity, EndReason};
use crate::limits::fair_share::{Claim, Holder, STALLED};

/// The rate is measured over this much waiting time, so that an interruption of some seconds is
/// tolerated.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// The stages of an exchange.
mod stage {
    /// The request is being sent or processed.
    pub(super) const REQUEST: u8 = 0;
    /// The response has started.
    pub(super) const RESPONSE: u8 = 1;
    /// Ended before the response started; the device sends its own.
    pub(super) const REFUSED: u8 = 2;
    /// Ended after the response started.
    pub(super) const CUT: u8 = 3;
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Exchange {
    started: Instant,
    http2: bool,
    stage: AtomicU8,
    /// The task that handles the exchange: over HTTP/1.1 that of the connection.
    changed: AtomicWaker,
    /// Aborting a response over HTTP/1.1 ends the connection too.
    connection: Arc<ConnectionActivity>,
    waiting: Mutex<Waiting>,
}

/// The time spent waiting for the caller.
#[derive(Debug, Default)]
struct Waiting {
    /// The start of the current wait.
    since: Option<Instant>,
    /// The earlier waiting time in this window.
    before: Duration,
    /// The bytes transferred in this window.
    bytes: u64,
    /// The start of the response.
    response: Option<Instant>,
}

impl Waiting {
    fn total(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Exchange {
    /// Creates an exchange of this connection.
    pub(crate) fn new(http2: bool, connection: Arc<ConnectionActivity>) -> Self {
        Self {
            started: Instant::now(),
            http2,
            stage: AtomicU8::new(stage::REQUEST),
            changed: AtomicWaker::new(),
            connection,
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// Returns whether less than `rate` bytes per second were transferred while the device waited
    /// for the caller.
    pub(crate) fn is_too_slow(&self, rate: u32) -> bool {
        let mut waiting = self.waiting();
        let total = waiting.total();
        if total < RATE_WINDOW {
            return false;
        }
        let too_slow = waiting.bytes < u64::from(rate) * total.as_secs();
        waiting.since = waiting.since.map(|_| Instant::now());
        waiting.before = Duration::ZERO;
        waiting.bytes = 0;
        too_slow
    }

    /// Ends the exchange: with a response of the device if none has started, else by aborting the
    /// response.
    pub(crate) fn end(&self) {
        let refused = self.stage.compare_exchange(
            stage::REQUEST,
            stage::REFUSED,
            Ordering::Release,
            Ordering::Relaxed,
        );
        if refused.is_err() {
            self.stage.store(stage::CUT, Ordering::Release);
            if !self.http2 {
                self.connection.end(EndReason::Evicted);
            }
        }
        self.changed.wake();
    }

    /// Ready when the exchange is ended before the response.
    pub(crate) fn poll_refused(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_reached(stage::REFUSED, context)
    }

    /// Ready when the exchange is ended during the response.
    pub(crate) fn poll_cut(&self, context: &mut Context<'_>) -> Poll<()> {
        self.poll_reached(stage::CUT, context)
    }

    fn poll_reached(&self, stage: u8, context: &mut Context<'_>) -> Poll<()> {
        // From here on, no change is missed.
        self.changed.register(context.waker());
        if self.stage.load(Ordering::Acquire) >= stage {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    /// Records the start of the response.
    pub(crate) fn start_response(&self) {
        self.stage.store(stage::RESPONSE, Ordering::Relaxed);
        let mut waiting = self.waiting();
        self.set_since(&mut waiting, None);
        if waiting.response.is_none() {
            self.connection.count_streaming(true);
        }
        *waiting = Waiting {
            response: Some(Instant::now()),
            ..Waiting::default()
        };
    }

    pub(crate) fn has_response(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == stage::RESPONSE
    }

    /// Starts waiting for the caller to send or receive.
    pub(crate) fn wait_for_caller(&self) {
        let mut waiting = self.waiting();
        let since = waiting.since.or_else(|| Some(Instant::now()));
        self.set_since(&mut waiting, since);
    }

    /// Records transferred bytes, and that the device does not wait for the caller now.
    pub(crate) fn transferred(&self, bytes: usize) {
        let mut waiting = self.waiting();
        waiting.before = waiting.total();
        self.set_since(&mut waiting, None);
        waiting.bytes = waiting.bytes.saturating_add(bytes as u64);
    }

    fn set_since(&self, waiting: &mut Waiting, since: Option<Instant>) {
        if waiting.since.is_some() != since.is_some() {
            self.connection.count_waiting(since.is_some());
        }
        waiting.since = since;
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Exchange {
    fn claim(&self) -> Claim {
        let waiting = self.waiting();
        match (waiting.since, waiting.response) {
            (Some(since), _) if since.elapsed() >= STALLED => Claim::Stalled(since.elapsed()),
            (None, Some(response)) => Claim::Streaming(response.elapsed()),
            _ => Claim::Active(self.started.elapsed()),
        }
    }

    fn has_begun(&self) -> bool {
        true
    }

    fn evict(&self) {
        self.end();
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let mut waiting = self.waiting();
        self.set_since(&mut waiting, None);
        if waiting.response.is_some() {
            self.connection.count_streaming(false);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use tokio::time::advance;

    use super::*;

    const RATE: u32 = 100;
    const SECOND: Duration = Duration::from_secs(1);

    fn exchange() -> Arc<Exchange> {
        Arc::new(Exchange::new(true, Arc::default()))
    }

    #[tokio::test(start_paused = true)]
    async fn trickle_is_too_slow_and_slow_line_is_not() {
        for (bytes, too_slow) in [(1, true), (99 * 10, true), (100 * 10, false)] {
            let exchange = exchange();
            for _ in 0..6 {
                assert!(!exchange.is_too_slow(RATE));
                exchange.wait_for_caller();
                advance(10 * SECOND).await;
                exchange.transferred(bytes);
            }
            assert_eq!(exchange.is_too_slow(RATE), too_slow, "{bytes}");
            assert!(!exchange.is_too_slow(RATE), "a new window has started");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn ongoing_silence_counts_as_waiting() {
        let exchange = exchange();
        exchange.wait_for_caller();
        advance(RATE_WINDOW - SECOND).await;
        exchange.wait_for_caller();
        assert!(!exchange.is_too_slow(RATE));
        advance(SECOND).await;
        assert!(exchange.is_too_slow(RATE));
    }

    #[tokio::test(start_paused = true)]
    async fn waiting_for_the_application_does_not_count() {
        let exchange = exchange();
        advance(RATE_WINDOW * 100).await;
        assert!(!exchange.is_too_slow(RATE));
        assert_eq!(exchange.claim(), Claim::Active(RATE_WINDOW * 100));
        exchange.wait_for_caller();
        advance(STALLED).await;
        assert_eq!(exchange.claim(), Claim::Stalled(STALLED));
    }

    #[tokio::test(start_paused = true)]
    async fn response_without_data_is_a_stream_of_its_connection() {
        let exchange = exchange();
        let connection = Arc::clone(&exchange.connection);
        let request = connection.start_request();
        exchange.start_response();
        exchange.wait_for_caller();
        advance(STALLED).await;
        assert_eq!(exchange.claim(), Claim::Stalled(STALLED));
        assert_eq!(connection.claim(), Claim::Stalled(STALLED));
        exchange.transferred(1);
        assert_eq!(exchange.claim(), Claim::Streaming(STALLED));
        assert_eq!(connection.claim(), Claim::Streaming(STALLED));
        drop((exchange, request));
        assert_eq!(connection.claim(), Claim::Unused(Duration::ZERO));
    }

    #[tokio::test]
    async fn ended_exchange_is_refused_before_response_and_cut_in_it() {
        let exchange = exchange();
        exchange.end();
        poll_fn(|context| exchange.poll_refused(context)).await;
        exchange.start_response();
        exchange.end();
        poll_fn(|context| exchange.poll_cut(context)).await;
        assert_eq!(exchange.connection.end_reason(), None);
        let exchange = Exchange::new(false, Arc::default());
        exchange.start_response();
        exchange.end();
        assert_eq!(exchange.connection.end_reason(), Some(EndReason::Evicted));
    }
}
