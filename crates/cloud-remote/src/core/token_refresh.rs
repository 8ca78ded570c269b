//! The token's machine: when one is needed, and what a fresh one is worth.
//!
//! `valid` is turned into monotonic time once, on arrival. If it makes no sense by the wall clock, the token is used all
//! the same: the relay is the one who knows.

use std::time::Duration;

use super::{Action, Core, Id, Now, TokenFacts, TokenPhase, TunnelPhase, UsedToken};
use crate::backoff::TOKEN_RETRY;

/// A token whose `valid` makes no sense by our clock is replaced after this time.
const BLIND_REFRESH: Duration = Duration::from_secs(60 * 60);
/// No token is made for longer than this; if `valid` says so, it is our clock that is wrong.
const LONGEST_LIFETIME: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// The newest token.
#[derive(Debug)]
pub(super) struct HeldToken {
    /// Of the request that brought it.
    pub(super) id: Id,
    /// `None` if only the relay can tell.
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

    /// For a connection.
    pub(super) fn take(&mut self) -> UsedToken {
        self.used = true;
        UsedToken {
            id: self.id,
            expires: self.expires,
        }
    }
}

impl Core {
    /// An answer has come, or the request has failed.
    pub(super) fn token_answer(
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
        let (expires, refresh_in) = match trusted.filter(|left| *left <= LONGEST_LIFETIME) {
            Some(left) => (
                Some(now.elapsed + left),
                left.saturating_sub(self.timing.refresh_before)
                    .max(self.timing.check_interval),
            ),
            None => {
                actions.push(Action::ClockSkewSuspected { left });
                (None, BLIND_REFRESH)
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
        actions.push(Action::KeepToken(id));
        if matches!(self.tunnel, TunnelPhase::Up { .. }) {
            self.token_failures = 0;
        }
    }

    /// The attempt to connect ended before the token was needed.
    pub(super) fn token_unused(&mut self) {
        if let Some(held) = &mut self.held {
            held.used = false;
        }
    }

    /// The session to the platform has ended before an answer came. Once may be chance: then it is asked again at once on the
    /// next one. But a broker ends a session for a request that its rules forbid, and then whatever else needs the session
    /// would never have it for long.
    pub(super) fn token_request_cancelled(&mut self, now: Duration) {
        self.cancelled_requests += 1;
        self.token = match self.cancelled_requests - 1 {
            0 => TokenPhase::Idle,
            again => TokenPhase::Waiting {
                until: now + TOKEN_RETRY.delay(again, &mut self.rng),
            },
        };
    }

    /// The token has run out. If it did so before it could be refreshed, it is made for a moment only, or a clock is wrong;
    /// another one would be no better.
    pub(super) fn token_expired(&mut self, now: Duration, held: &HeldToken) {
        if now >= held.refresh_at || !matches!(self.token, TokenPhase::Idle) {
            return;
        }
        if matches!(self.tunnel, TunnelPhase::Up { .. }) {
            self.no_need_before = held.refresh_at;
        } else {
            self.token_failed(now);
        }
    }

    /// The next request comes after a delay.
    pub(super) fn token_failed(&mut self, now: Duration) {
        self.token_failures += 1;
        let until = now + TOKEN_RETRY.delay(self.token_failures, &mut self.rng);
        self.token = TokenPhase::Waiting { until };
    }

    /// Whether one is to be asked for, if that is possible now.
    pub(super) fn token_needed(&self, now: Duration) -> bool {
        match &self.held {
            // As long as the tunnel holds there is time.
            None => !matches!(self.tunnel, TunnelPhase::Up { .. }) || now >= self.no_need_before,
            Some(held) if now >= held.refresh_at => true,
            // A used token for a single connection is of no use any more once that connection is gone.
            Some(held) => {
                !held.usable(now)
                    && matches!(self.tunnel, TunnelPhase::Down | TunnelPhase::Waiting { .. })
            }
        }
    }
}
