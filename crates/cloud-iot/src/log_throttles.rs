//! Rate limits of a session's log lines that the server, or a handler of its messages, can cause.
//!
//! Each route has its own limits, so that one route does not hide the lines of another.

use cloud_net::LogThrottle;

/// One limit for each kind of line.
#[derive(Debug, Default)]
pub(crate) struct LogThrottles {
    pub(crate) online: LogThrottle,
    pub(crate) offline: LogThrottle,
    pub(crate) takeover: LogThrottle,
    pub(crate) fallback_port: LogThrottle,
    pub(crate) downgraded: LogThrottle,
    pub(crate) subscription_refused: LogThrottle,
    pub(crate) unexpected_packet: LogThrottle,
    pub(crate) store_failed: LogThrottle,
    pub(crate) hook: LogThrottle,
    pub(crate) undeliverable: LogThrottle,
    pub(crate) slow_stream: LogThrottle,
    pub(crate) birth_rejected: LogThrottle,
    pub(crate) session_message_refused: LogThrottle,
    pub(crate) restored_failed: LogThrottle,
    pub(crate) poison: LogThrottle,
    pub(crate) throttled: LogThrottle,
}
