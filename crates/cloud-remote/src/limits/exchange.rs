//! A request and its answer, and how long the device waits for their caller.
//!
//! A caller that sends its request or takes its answer byte by byte would hold the place of both for as long as it likes. So the
//! time in which the device waits for the caller is counted, and what moves in it: below the least rate
//! ([`Limits::min_data_rate`](crate::Limits::min_data_rate)) the exchange ends. Time in which the application is waited for does
//! not count, nor does a request's body once the answer has begun: both may then go on for hours with little to say.

use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::limits::fair_share::{Claim, Holder, STALLED};

/// The rate is taken over this much time of waiting for the caller, so that a line that is down for some seconds does no harm.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// How far an exchange is.
mod stage {
    /// The caller or the application is at the request.
    pub(super) const REQUEST: u8 = 0;
    /// The answer has begun.
    pub(super) const ANSWER: u8 = 1;
    /// Ended before the answer has begun; one of our own follows.
    pub(super) const REFUSED: u8 = 2;
    /// Ended in the middle of the answer.
    pub(super) const CUT: u8 = 3;
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct Exchange {
    begun: Instant,
    http2: bool,
    stage: AtomicU8,
    changed: Notify,
    /// Ends the connection. (Cutting one answer of HTTP/1.1 does that too.)
    connection: CancellationToken,
    waiting: Mutex<Waiting>,
}

/// The time for which the caller is waited for.
#[derive(Debug, Default)]
struct Waiting {
    /// Since when it is.
    since: Option<Instant>,
    /// For how long before that, in this window.
    before: Duration,
    /// What moved in this window.
    bytes: u64,
}

impl Waiting {
    fn total(&self) -> Duration {
        self.before + self.since.map_or(Duration::ZERO, |since| since.elapsed())
    }
}

impl Exchange {
    /// One that begins. `connection` ends the connection.
    pub(crate) fn new(http2: bool, connection: CancellationToken) -> Self {
        Self {
            begun: Instant::now(),
            http2,
            stage: AtomicU8::new(stage::REQUEST),
            changed: Notify::new(),
            connection,
            waiting: Mutex::default(),
        }
    }

    pub(crate) fn is_http2(&self) -> bool {
        self.http2
    }

    /// Whether less than `rate` bytes a second moved while the caller was waited for.
    pub(crate) fn is_too_slow(&self, rate: u32) -> bool {
        let mut waiting = self.waiting();
        let total = waiting.total();
        if total < RATE_WINDOW {
            return false;
        }
        let too_slow = waiting.bytes < u64::from(rate) * total.as_secs();
        *waiting = Waiting {
            since: waiting.since.map(|_| Instant::now()),
            ..Waiting::default()
        };
        too_slow
    }

    /// Ends the exchange: with an answer of our own if none has begun, else in the middle of it.
    pub(crate) fn end(&self) {
        let refused = self.stage.compare_exchange(
            stage::REQUEST,
            stage::REFUSED,
            Ordering::Relaxed,
            Ordering::Relaxed,
        );
        if refused.is_err() {
            self.stage.store(stage::CUT, Ordering::Relaxed);
            if !self.http2 {
                self.connection.cancel();
            }
        }
        self.changed.notify_waiters();
    }

    /// Until it is ended before the answer has begun.
    pub(crate) async fn refused(&self) {
        self.reached(stage::REFUSED).await;
    }

    /// Until it is ended in the middle of the answer.
    pub(crate) async fn cut(&self) {
        self.reached(stage::CUT).await;
    }

    async fn reached(&self, stage: u8) {
        loop {
            let changed = self.changed.notified();
            tokio::pin!(changed);
            // From here on no change is missed.
            changed.as_mut().enable();
            if self.stage.load(Ordering::Relaxed) >= stage {
                return;
            }
            changed.await;
        }
    }

    /// The answer begins.
    pub(crate) fn answer(&self) {
        self.stage.store(stage::ANSWER, Ordering::Relaxed);
        *self.waiting() = Waiting::default();
    }

    pub(crate) fn is_answered(&self) -> bool {
        self.stage.load(Ordering::Relaxed) == stage::ANSWER
    }

    /// The caller has to send or to take something.
    pub(crate) fn wait_for_caller(&self) {
        let mut waiting = self.waiting();
        waiting.since = waiting.since.or_else(|| Some(Instant::now()));
    }

    /// So many bytes moved, and the caller is not waited for now.
    pub(crate) fn moved(&self, bytes: usize) {
        let mut waiting = self.waiting();
        waiting.before = waiting.total();
        waiting.since = None;
        waiting.bytes = waiting.bytes.saturating_add(bytes as u64);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Holder for Exchange {
    fn claim(&self) -> Claim {
        let since = self.waiting().since;
        match since.map(|since| since.elapsed()) {
            Some(stalled) if stalled >= STALLED => Claim::Stalled(stalled),
            _ => Claim::Active(self.begun.elapsed()),
        }
    }

    fn evict(&self) {
        self.end();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::time::advance;

    use super::*;

    const RATE: u32 = 100;
    const SECOND: Duration = Duration::from_secs(1);

    fn exchange() -> Arc<Exchange> {
        Arc::new(Exchange::new(true, CancellationToken::new()))
    }

    #[tokio::test(start_paused = true)]
    async fn trickle_is_too_slow_and_slow_line_is_not() {
        for (bytes, too_slow) in [(1, true), (99 * 10, true), (100 * 10, false)] {
            let exchange = exchange();
            for _ in 0..6 {
                assert!(!exchange.is_too_slow(RATE));
                exchange.wait_for_caller();
                advance(10 * SECOND).await;
                exchange.moved(bytes);
            }
            assert_eq!(exchange.is_too_slow(RATE), too_slow, "{bytes}");
            assert!(!exchange.is_too_slow(RATE), "a new window has begun");
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

    #[tokio::test]
    async fn ended_exchange_is_refused_before_response_and_cut_in_it() {
        let exchange = exchange();
        exchange.end();
        exchange.refused().await;
        exchange.answer();
        exchange.end();
        exchange.cut().await;
        assert!(!exchange.connection.is_cancelled());
        let exchange = Exchange::new(false, CancellationToken::new());
        exchange.answer();
        exchange.end();
        assert!(exchange.connection.is_cancelled());
    }
}
