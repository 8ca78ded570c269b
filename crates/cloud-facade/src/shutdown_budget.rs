//! The time limits of a stop.
//!
//! | part | limit | what |
//! |---|---|---|
//! | `remote` | 1.5 s | open public connections, then the tunnel; messaging stays connected meanwhile |
//! | `session` | 2 s, and what the tunnel has left | outbox, OFFLINE, DISCONNECT, hooks of the disconnect |
//! | `remote_hooks` | 0.5 s | running hooks of remote access |
//! | `stopped_hooks` | 0.5 s, and what the others have left | hooks of the stop |
//! | `total` | 4.5 s | the sum |
//!
//! The parts run in this order. The crates divide their part themselves:
//!
//! | part | constant | share | for |
//! |---|---|---|---|
//! | `remote` | `UPGRADED_GRACE` of cloud-remote | the first 1 s | WebSockets, before they are closed |
//! | | `CLOSE_GRACE` | the first 1 s | connections without requests, before they are closed |
//! | | `CUT_RESERVE` | the last quarter, at most 1 s | closing by force what is still open |
//! | | `CUT_TIMEOUT` | twice 0.18 s of that quarter | the end of the tunnel, then of the tasks |
//! | `session` | `FLUSH_SHARE` of cloud-iot | the first three quarters | the outbox, before OFFLINE and DISCONNECT |
//! | | `STOP_GRACE` | 1 s beyond the limit | tasks that hang, which is an error in cloud-iot |
//!
//! [`MIN_STOP_DEADLINE`](cloud_remote::MIN_STOP_DEADLINE) is the least that `remote` needs for its
//! shares.

use std::time::Duration;

use tokio::time::Instant;

/// Maximum duration of [`ClesydeCloud::stop`](crate::ClesydeCloud::stop). Service managers kill a
/// process after 5 s or more.
pub const STOP_DEADLINE: Duration = BUDGET.total;

/// The limits in use.
pub(crate) const BUDGET: ShutdownBudget = ShutdownBudget {
    total: Duration::from_millis(4500),
    remote: Duration::from_millis(1500),
    session: Duration::from_secs(2),
    remote_hooks: Duration::from_millis(500),
    stopped_hooks: Duration::from_millis(500),
    unused_remote: Duration::from_millis(500),
};

/// The limits of the parts of a stop; see the table of the module.
pub(crate) struct ShutdownBudget {
    pub(crate) total: Duration,
    pub(crate) remote: Duration,
    /// The least that the session has; only the test reads it, as the session has all that is left.
    #[cfg_attr(not(test), allow(dead_code))]
    session: Duration,
    pub(crate) remote_hooks: Duration,
    stopped_hooks: Duration,
    /// For remote access that a deferred start has started during the stop. It has no connections
    /// and ends beside the session.
    pub(crate) unused_remote: Duration,
}

impl ShutdownBudget {
    /// Returns the session's part of the time until `deadline`.
    pub(crate) fn session_until(&self, deadline: Instant) -> Duration {
        deadline
            .saturating_duration_since(Instant::now())
            .saturating_sub(self.remote_hooks + self.stopped_hooks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_sum_up_to_total() {
        let parts = [
            BUDGET.remote,
            BUDGET.session,
            BUDGET.remote_hooks,
            BUDGET.stopped_hooks,
        ];
        assert_eq!(parts.iter().sum::<Duration>(), BUDGET.total);
        assert!(BUDGET.unused_remote <= BUDGET.session);
        assert!(cloud_remote::MIN_STOP_DEADLINE <= BUDGET.remote);
        assert_eq!(STOP_DEADLINE, BUDGET.total);
    }

    #[tokio::test(start_paused = true)]
    async fn session_has_its_part_after_slowest_tunnel() {
        let deadline = Instant::now() + BUDGET.total;
        tokio::time::advance(BUDGET.remote).await;
        assert_eq!(BUDGET.session_until(deadline), BUDGET.session);
        tokio::time::advance(BUDGET.session).await;
        assert_eq!(BUDGET.session_until(deadline), Duration::ZERO);
    }
}
