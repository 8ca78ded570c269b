//! Limits on the resources that callers can use.

pub(crate) mod connection_activity;
pub(crate) mod connection_limit;
pub(crate) mod exchange;
pub(crate) mod fair_share;
pub(crate) mod idle_timeout;
pub(crate) mod receive_window;
pub(crate) mod request_limit;

use std::time::Duration;

use crate::timeouts::MAX_DURATION;

/// Header fields that hyper takes by default, with room for them on the stack.
const HYPER_DEFAULT: usize = 100;
/// Upper bound of [`Limits::header_fields`]: a header of 64 KiB has no more fields.
const MAX_HEADER_FIELDS: usize = 16 * 1024;

/// Limits on the resources that callers can use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Maximum concurrent connections. Default 256. Half of them are reserved for callers with a
    /// known address, because all unknown ones may be the same caller. Addresses of IPv6 callers
    /// are known from version 2 of the tunnel's protocol.
    pub connections: usize,
    /// Maximum concurrent connections from one IPv4 address or one IPv6 /64 network. Default 64: a
    /// household behind one address, with several browsers. Long-lived streams (event streams,
    /// WebSockets) do not count, up to three quarters of [`connections`](Self::connections): an
    /// office has one address, too.
    pub connections_per_address: usize,
    /// Maximum concurrent requests from one such address or network, over all of its connections;
    /// others wait. Long-lived streams do not count, likewise. Default 64.
    pub requests_per_address: usize,
    /// Maximum header fields of a request, and of a response of a forwarded application over
    /// HTTP/1.1. Default 200, twice as many as of Apache and HAProxy; at most 16,384. A request
    /// with more is answered with 431, and instead of a response with more the caller gets 502. A
    /// number above 99 costs 64 bytes for each of them, allocated and freed with each message.
    pub header_fields: usize,
    /// Timeout until the response of a forwarded application starts, from the end of the request.
    /// Default 120 s: relays close an idle connection after 90–120 s.
    pub response: Duration,
    /// Timeout of a TLS handshake. Default 10 s.
    pub tls_handshake: Duration,
    /// Timeout of a request's header, from the end of the previous request; so an idle HTTP/1.1
    /// connection is closed after it. Default 30 s.
    pub request_header: Duration,
    /// Idle timeout: a connection without traffic in either direction is closed after it, for any
    /// protocol, and so is an HTTP connection without requests, once its WebSockets have ended.
    /// Default 180 s: relays close an idle connection after 90–120 s.
    pub idle: Duration,
    /// Minimum data rate, in bytes per second, at which a caller sends a request's body and
    /// receives a response, measured over a minute while the device waits for the caller. A slower
    /// request is answered with 408, a slower response is aborted. Default 240. 0 disables the
    /// limit.
    pub min_data_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_address: 64,
            requests_per_address: 64,
            header_fields: 200,
            response: Duration::from_secs(120),
            tls_handshake: Duration::from_secs(10),
            request_header: Duration::from_secs(30),
            idle: Duration::from_secs(180),
            min_data_rate: 240,
        }
    }
}

impl Limits {
    /// Returns the limits with durations clamped to [`MAX_DURATION`], and the header fields to
    /// [`MAX_HEADER_FIELDS`].
    pub(crate) fn clamped(mut self) -> Self {
        self.header_fields = self.header_fields.min(MAX_HEADER_FIELDS);
        for duration in [
            &mut self.tls_handshake,
            &mut self.request_header,
            &mut self.response,
            &mut self.idle,
        ] {
            *duration = (*duration).min(MAX_DURATION);
        }
        self
    }

    /// Returns the size of hyper's table of header fields, if its default is too small. There is
    /// room for one more than the limit, so that a request with too many gets our answer, not
    /// hyper's.
    pub(crate) fn header_table(&self) -> Option<usize> {
        let fields = self.header_fields + 1;
        (fields > HYPER_DEFAULT).then_some(fields)
    }
}
