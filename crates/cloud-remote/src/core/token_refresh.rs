//! The token state machine: when a token is requested and refreshed, and how long it is usable.
//!
//! `valid` is converted to monotonic time once, on arrival. If it is implausible by the wall clock,
//! the token is used all the same: only the relay knows its expiry.

use std::time::Duration;

use rand::RngExt;

use super::{Action, Core, Id, Now, TokenFacts, TokenPhase, TunnelPhase, UsedToken};
use crate::backoff::TOKEN_RETRY;

/// The refresh interval of a token whose `valid` is implausible by the device's clock.
const FALLBACK_REFRESH_INTERVAL: Duration = Duration::from_secs(60 * 60);
/// The longest plausible lifetime of a token; beyond it, the device's clock is wrong.
const MAX_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The newest token.
#[derive(Debug)]
pub(super) struct HeldToken {
    /// Of the request that brought it.
    pub(super) id: Id,
    /// `None` if only the relay knows.
    pub(super) expires: Option<Duration>,
    pub(super) refresh_at: Duration,
    single_use: bool,
    pub(super) used: bool,
    pub(super) refusals: u32,
}

impl HeldToken {
    pub(super) fn usable(&self, now: Duration) -> bool {
        self.expires.is_none_or(|expires| now < expires) && !(self.single_use && self.used)
    }

    /// Marks the token as used, for a connection.
    pub(super) fn take(&mut self) -> UsedToken {
        self.used = true;
        UsedToken {
            id: self.id,
            expires: self.expires,
        }
    }
}

impl Core {
    /// Handles the result of a token request.
    pub(super) fn token_received(
        &mut self,
        now: Now,
        id: Id,
        result: Result<TokenFacts, ()>,
        actions: &mut Vec<Action>,
    ) {
        if !matches!(self.token, TokenPhase::Requested { id: current, .. } if current == id) {
            return;
        }
        self.cancelled_requests = 0;
        let Ok(facts) = result else {
            return self.token_failed(now.elapsed);
        };
        let left = facts.valid.saturating_sub(now.unix);
        let trusted = u64::try_from(left)
            .ok()
            .filter(|left| *left > 0)
            .map(Duration::from_secs);
        let (expires, refresh_in) = match trusted.filter(|left| *left <= MAX_LIFETIME) {
            Some(left) => (
                Some(now.elapsed + left),
                left.saturating_sub(self.timeouts.refresh_before)
                    .max(self.timeouts.check_interval),
            ),
            None => {
                actions.push(Action::ClockSkewSuspected { left });
                (None, FALLBACK_REFRESH_INTERVAL)
            }
        };
        self.held = Some(HeldToken {
            id,
            expires,
            refresh_at: now.elapsed + refresh_in,
            single_use: facts.single_use,
            used: false,
            refusals: 0,
        });
        self.token = TokenPhase::Idle;
        if matches!(self.tunnel, TunnelPhase::Up { .. }) {
            self.token_failures = 0;
        }
    }

    /// Handles an attempt that ended before it used the token.
    pub(super) fn token_unused(&mut self) {
        if let Some(held) = &mut self.held {
            held.used = false;
        }
    }

    /// Handles the end of the session before a response arrived. The first time may be a
    /// coincidence: the request is repeated as soon as the session is back. But a broker ends a
    /// session for a request that its policy forbids, and a device that repeats it at once would
    /// never stay connected.
    pub(super) fn token_request_cancelled(&mut self, now: Duration) {
        self.cancelled_requests += 1;
        self.token = match self.cancelled_requests - 1 {
            0 => TokenPhase::Idle,
            again => TokenPhase::Waiting {
                until: now + TOKEN_RETRY.delay(again, self.rng.random()),
            },
        };
    }

    /// Handles an expired token. If it expired before its refresh time, its lifetime is very short
    /// or a clock is wrong, and another token would be no better.
    pub(super) fn token_expired(&mut self, now: Duration, held: &HeldToken) {
        if now >= held.refresh_at || !matches!(self.token, TokenPhase::Idle) {
            return;
        }
        if matches!(self.tunnel, TunnelPhase::Up { .. }) {
            self.no_request_before = held.refresh_at;
        } else {
            self.token_failed(now);
        }
    }

    /// Schedules the next request with back-off.
    pub(super) fn token_failed(&mut self, now: Duration) {
        self.token_failures += 1;
        let until = now + TOKEN_RETRY.delay(self.token_failures, self.rng.random());
        self.token = TokenPhase::Waiting { until };
    }

    /// Returns whether a token has to be requested.
    pub(super) fn token_needed(&self, now: Duration) -> bool {
        match &self.held {
            // While the tunnel is up there is time.
            None => !matches!(self.tunnel, TunnelPhase::Up { .. }) || now >= self.no_request_before,
            Some(held) if now >= held.refresh_at => true,
            // A used single-use token is useless once its connection has ended.
            Some(held) => {
                !held.usable(now)
                    && matches!(self.tunnel, TunnelPhase::Down | TunnelPhase::Waiting { .. })
            }
        }
    }
}
