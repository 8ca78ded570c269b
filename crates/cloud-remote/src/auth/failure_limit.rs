//! The limit of wrong passwords: for each caller, and for all callers with an unknown address
//! together.
//!
//! An attempt takes a token and gives it back if the password is right. A caller without tokens is
//! refused before its password is looked at. Callers with an unknown address cannot be
//! distinguished, and a refusal would keep out all of them; so they wait for a token, in the order
//! of their attempts, of which a connection has one at a time. The attempts of an attacker then
//! delay a right password, but do not exclude it.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

use crate::limits::fair_share::Caller;

/// Wrong passwords of a caller at once: people try a few, and an office has one address.
const CALLER: Rate = Rate {
    burst: 10,
    interval: Duration::from_secs(10),
};
/// The same for all callers with an unknown address. They have at most half of all connections, 128
/// by default, so a right password waits less than the time limit of a check.
const UNKNOWN: Rate = Rate {
    burst: 20,
    interval: Duration::from_millis(200),
};
/// Maximum number of remembered callers: some hundred kilobytes.
const MAX_CALLERS: usize = 4_096;

#[derive(Debug, Clone, Copy)]
struct Rate {
    burst: u32,
    interval: Duration,
}

/// See the [module](self).
#[derive(Debug, Default)]
pub(super) struct FailureLimit {
    /// The time at which each caller has all of its tokens again.
    full_at: Mutex<HashMap<Caller, Instant>>,
    turn: tokio::sync::Mutex<()>,
}

/// An attempt that counts as a failure unless it [succeeds](Self::succeeded).
#[derive(Debug)]
#[must_use]
pub(super) struct Attempt<'a> {
    limit: &'a FailureLimit,
    caller: Caller,
}

impl FailureLimit {
    /// Starts an attempt of a caller with this address. Waits if the address is unknown.
    ///
    /// # Errors
    /// The time until the next attempt is allowed.
    pub(super) async fn attempt(&self, address: Option<IpAddr>) -> Result<Attempt<'_>, Duration> {
        // All unknown callers are one.
        let caller = Caller::new(address, 0);
        if address.is_some() {
            self.take(caller).map_err(|at| at - Instant::now())?;
        } else {
            // The lock is fair: the first one to wait is the first one to get it.
            let _turn = self.turn.lock().await;
            while let Err(at) = self.take(caller) {
                sleep_until(at).await;
            }
        }
        Ok(Attempt {
            limit: self,
            caller,
        })
    }

    /// Takes a token, or returns the time at which there is one.
    fn take(&self, caller: Caller) -> Result<(), Instant> {
        let now = Instant::now();
        let rate = rate(caller);
        let mut callers = self.full_at.lock().unwrap_or_else(PoisonError::into_inner);
        let full_at = callers.get(&caller).map_or(now, |at| (*at).max(now)) + rate.interval;
        let latest = now + rate.interval * rate.burst;
        if full_at > latest {
            return Err(now + (full_at - latest));
        }
        if callers.len() >= MAX_CALLERS && !callers.contains_key(&caller) {
            callers.retain(|_, at| *at > now);
            // The caller with the fewest failures is forgotten.
            let first = callers.iter().min_by_key(|(_, at)| **at);
            if let Some(first) = first.map(|(caller, _)| *caller)
                && callers.len() >= MAX_CALLERS
            {
                callers.remove(&first);
            }
        }
        callers.insert(caller, full_at);
        Ok(())
    }
}

impl Attempt<'_> {
    /// Gives the token back.
    pub(super) fn succeeded(self) {
        let callers = self.limit.full_at.lock();
        let mut callers = callers.unwrap_or_else(PoisonError::into_inner);
        if let Some(full_at) = callers.get_mut(&self.caller) {
            *full_at -= rate(self.caller).interval;
        }
    }
}

fn rate(caller: Caller) -> Rate {
    match caller {
        Caller::Network(_) => CALLER,
        Caller::Unknown(_) => UNKNOWN,
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;

    use super::*;

    fn ip(text: &str) -> Option<IpAddr> {
        Some(text.parse().unwrap())
    }

    /// Fails as often as the limit allows at once.
    fn fail_until_refused(limit: &FailureLimit, address: Option<IpAddr>) -> (u32, Duration) {
        let mut failures = 0;
        loop {
            match limit.attempt(address).now_or_never().unwrap() {
                Ok(_) => failures += 1,
                Err(wait) => return (failures, wait),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn failures_are_limited_per_caller_and_come_back_with_time() {
        let limit = FailureLimit::default();
        let attacker = ip("192.0.2.1");
        let refused = fail_until_refused(&limit, attacker);
        assert_eq!(refused, (CALLER.burst, CALLER.interval));
        assert!(limit.attempt(ip("192.0.2.2")).await.is_ok());
        tokio::time::advance(CALLER.interval).await;
        assert_eq!(fail_until_refused(&limit, attacker).0, 1);
        // An IPv6 network is one caller.
        fail_until_refused(&limit, ip("2001:db8::1"));
        assert_eq!(fail_until_refused(&limit, ip("2001:db8::2")).0, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn right_passwords_are_not_limited() {
        let limit = FailureLimit::default();
        for address in [ip("192.0.2.1"), None] {
            for _ in 0..100 {
                limit
                    .attempt(address)
                    .now_or_never()
                    .unwrap()
                    .unwrap()
                    .succeeded();
            }
        }
        assert_eq!(fail_until_refused(&limit, ip("192.0.2.1")).0, CALLER.burst);
    }

    #[tokio::test(start_paused = true)]
    async fn unknown_callers_wait_in_order_and_are_not_excluded() {
        let limit = FailureLimit::default();
        for _ in 0..UNKNOWN.burst {
            let _ = limit.attempt(None).now_or_never().unwrap();
        }
        let start = Instant::now();
        let mut attackers: Vec<_> = (0..128).map(|_| Box::pin(limit.attempt(None))).collect();
        for attacker in &mut attackers {
            assert!(attacker.now_or_never().is_none());
        }
        let attackers = futures_util::future::join_all(attackers);
        let honest = async {
            limit.attempt(None).await.unwrap().succeeded();
            start.elapsed()
        };
        let (attackers, waited) = tokio::join!(attackers, honest);
        assert_eq!(waited, UNKNOWN.interval * 129);
        assert!(attackers.iter().all(Result::is_ok));
        // Callers with an address are not delayed.
        assert!(limit.attempt(ip("192.0.2.1")).now_or_never().is_some());
    }

    #[tokio::test(start_paused = true)]
    async fn remembered_callers_are_bounded() {
        let limit = FailureLimit::default();
        let attacker = ip("192.0.2.1");
        fail_until_refused(&limit, attacker);
        for number in 0..2 * u32::try_from(MAX_CALLERS).unwrap() {
            let address = IpAddr::from((0x0a00_0000 + number).to_be_bytes());
            let _ = limit.attempt(Some(address)).await;
        }
        assert_eq!(limit.full_at.lock().unwrap().len(), MAX_CALLERS);
        // The worst one is not forgotten.
        assert_eq!(fail_until_refused(&limit, attacker).0, 0);
    }
}
