//! When to fetch the document.

use std::time::{Duration, Instant};

use cloud_net::{ExponentialBackoff, warn_throttled};

use super::{Core, Response};
use crate::error::RequestError;

/// Time to wait for the remaining messages of an update before the document is fetched. They arrive
/// within a round trip of each other.
pub(super) const CATCH_UP_DELAY: Duration = Duration::from_secs(1);

/// Delay before the first retry of a failed internal `get`; doubled each time, up to
/// [`MAX_RETRY_DELAY`].
pub(super) const INITIAL_RETRY_DELAY: Duration = Duration::from_secs(2);

/// Maximum delay between retries: with a thousand devices, three requests a second.
pub(super) const MAX_RETRY_DELAY: Duration = Duration::from_secs(300);

/// Scheduling of the internal `get` that resynchronizes the document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Resync {
    /// Not scheduled.
    Idle,
    /// At this time, unless the missing messages arrive before.
    CatchUp(Instant),
    /// At once.
    Now,
    /// Retry after this many failures in a row.
    Retry { at: Instant, failures: u32 },
}

/// Detects connections that end during the `get` at their start. A single case may be chance, but a
/// broker closes a connection for a request that its policy forbids, and other users of the
/// connection would then lose it repeatedly.
#[derive(Debug, Default)]
pub(super) struct ConnectBackoff {
    /// A `get` was sent on the current connection.
    pub(super) requested: bool,
    pub(super) responded: bool,
    /// Consecutive connections on which a `get` was sent and no response arrived.
    failures: u32,
}

impl ConnectBackoff {
    /// Handles a new connection; returns when to fetch the document on it.
    pub(super) fn on_connected(&mut self, now: Instant) -> Resync {
        if self.responded {
            self.failures = 0;
        } else if self.requested {
            self.failures = self.failures.saturating_add(1);
        }
        (self.requested, self.responded) = (false, false);
        match self.failures.saturating_sub(1) {
            0 => Resync::Now,
            failures => Resync::Retry {
                at: now + retry_delay(failures),
                failures,
            },
        }
    }
}

/// Returns the delay after this many failures in a row.
fn retry_delay(failures: u32) -> Duration {
    let backoff = ExponentialBackoff {
        first: INITIAL_RETRY_DELAY,
        max: MAX_RETRY_DELAY,
    };
    backoff.bound(failures)
}

impl Core {
    /// Handles the end of an internal `get`.
    pub(super) fn on_resync_done(
        &mut self,
        now: Instant,
        result: Result<Response, RequestError>,
        stale: bool,
    ) {
        let error = match result {
            Ok(_) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => Some(error),
        };
        let Some(error) = error else {
            self.resync = if stale { Resync::Now } else { Resync::Idle };
            return;
        };
        let failures = match self.resync {
            Resync::Retry { failures, .. } => failures.saturating_add(1),
            _ => 1,
        };
        let delay = if error.is_retryable() {
            retry_delay(failures)
        } else {
            MAX_RETRY_DELAY
        };
        if matches!(error, RequestError::Bus(_)) && error.is_retryable() {
            // Usually the connection is down: the bus logs that itself, and `connected` ends the
            // delay.
            tracing::debug!(%error, failures, ?delay, "cannot fetch the shadow now");
        } else {
            warn_throttled!(self.resync_log, %error, failures, ?delay, "cannot fetch the shadow, retrying later");
        }
        self.resync = Resync::Retry {
            at: now + delay,
            failures,
        };
    }

    /// Schedules a `get` if the replica is behind, and cancels one that is no longer needed.
    pub(super) fn plan_resync(&mut self, now: Instant) {
        let asking = self
            .in_flight
            .as_ref()
            .is_some_and(|it| it.caller.is_none());
        self.resync = match (self.resync, self.replica.is_behind()) {
            (Resync::Idle, true) if !asking => Resync::CatchUp(now + CATCH_UP_DELAY),
            (Resync::CatchUp(_), false) if !asking => Resync::Idle,
            (unchanged, _) => unchanged,
        };
    }
}
