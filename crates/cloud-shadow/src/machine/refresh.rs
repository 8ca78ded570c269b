//! When the machine fetches the document of its own accord.

use std::time::{Duration, Instant};

use cloud_net::warn_throttled;

use super::{Answer, Machine};
use crate::error::RequestError;

/// How long a message that tells of a newer version is given to be followed by the rest, before the document is fetched.
/// The messages of one update arrive within a round trip of each other.
pub(super) const CATCH_UP: Duration = Duration::from_secs(1);

/// Until the first repetition of a `get` of our own that failed; doubled each time, up to [`RETRY_MAX`].
pub(super) const RETRY_FIRST: Duration = Duration::from_secs(2);

/// The longest time between two such repetitions: with a thousand devices that is three requests a second.
pub(super) const RETRY_MAX: Duration = Duration::from_secs(300);

/// When the machine fetches the document of its own accord.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refresh {
    /// Not.
    Idle,
    /// Then, unless the messages that are missing arrive before.
    CatchUp(Instant),
    /// Whatever arrives.
    Demanded,
    /// After this many failures in a row.
    Retry { at: Instant, failures: u32 },
}

/// Whether connections end over the `get` with which each of them begins. Once may be chance. But a broker ends a connection for
/// a request that its rules forbid, and then whoever else uses the connection would never have it for long.
#[derive(Debug, Default)]
pub(super) struct Connections {
    /// On the present one.
    pub(super) asked: bool,
    pub(super) answered: bool,
    /// Connections in a row on which the document was asked for and nothing was answered.
    fruitless: u32,
}

impl Connections {
    /// A connection was made: when the document is fetched on it.
    pub(super) fn next(&mut self, now: Instant) -> Refresh {
        if self.answered {
            self.fruitless = 0;
        } else if self.asked {
            self.fruitless = self.fruitless.saturating_add(1);
        }
        (self.asked, self.answered) = (false, false);
        match self.fruitless.saturating_sub(1) {
            0 => Refresh::Demanded,
            failures => Refresh::Retry {
                at: now + retry_delay(failures),
                failures,
            },
        }
    }
}

/// After so many failures in a row.
fn retry_delay(failures: u32) -> Duration {
    RETRY_FIRST
        .saturating_mul(1 << failures.saturating_sub(1).min(16))
        .min(RETRY_MAX)
}

impl Machine {
    /// A `get` of the machine's own has ended.
    pub(super) fn refreshed(
        &mut self,
        now: Instant,
        result: Result<Answer, RequestError>,
        overtaken: bool,
    ) {
        let error = match result {
            Ok(_) => None,
            Err(error) if error.is_not_found() => None,
            Err(error) => Some(error),
        };
        let Some(error) = error else {
            self.refresh = if overtaken {
                Refresh::Demanded
            } else {
                Refresh::Idle
            };
            return;
        };
        let failures = match self.refresh {
            Refresh::Retry { failures, .. } => failures.saturating_add(1),
            _ => 1,
        };
        let delay = if error.is_retryable() {
            retry_delay(failures)
        } else {
            RETRY_MAX
        };
        if matches!(error, RequestError::Bus(_)) && error.is_retryable() {
            // No connection, most of the time: the bus tells that itself, and `connected` ends the wait.
            tracing::debug!(%error, failures, ?delay, "the shadow cannot be fetched now");
        } else {
            warn_throttled!(self.refresh_log, %error, failures, ?delay, "the shadow could not be fetched, trying again later");
        }
        self.refresh = Refresh::Retry {
            at: now + delay,
            failures,
        };
    }

    /// Makes a `get` due if the replica is behind, and takes back one that has become needless.
    pub(super) fn plan_refresh(&mut self, now: Instant) {
        let asking = self
            .in_flight
            .as_ref()
            .is_some_and(|it| it.caller.is_none());
        self.refresh = match (self.refresh, self.replica.is_behind()) {
            (Refresh::Idle, true) if !asking => Refresh::CatchUp(now + CATCH_UP),
            (Refresh::CatchUp(_), false) if !asking => Refresh::Idle,
            (unchanged, _) => unchanged,
        };
    }
}
