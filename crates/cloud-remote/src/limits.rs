//! Bounds on what callers can take of this device.

pub(crate) mod connection_activity;
pub(crate) mod connection_limit;
pub(crate) mod exchange;
pub(crate) mod fair_share;
pub(crate) mod idle_timeout;
pub(crate) mod request_limit;

use std::time::Duration;

use crate::timeouts::MAX_DURATION;

/// Bounds on what callers can take of this device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Connections at once, in all. Default 256. Half of them are for callers whose address is known: others may all be the
    /// same. Of those over IPv6 it is known from version 2 of the tunnel's protocol.
    pub connections: usize,
    /// Connections at once from one address, or over IPv6 from one network of 64 bits. Default 64: a household behind one
    /// address, with several browsers.
    pub connections_per_address: usize,
    /// For a TLS handshake. Default 10 s.
    pub tls_handshake: Duration,
    /// For a request's header, from the end of the request before; so an idle HTTP/1.1 connection lives this long.
    /// Default 30 s.
    pub request_header: Duration,
    /// A connection over which nothing goes either way for this long is ended, whatever it is used for, and so is HTTP
    /// without a request for this long, once what is open on it (a WebSocket) is done. Default 180 s: relays themselves end
    /// one after 90–120 s.
    pub idle: Duration,
    /// The least rate, in bytes a second, at which a caller sends its request's body and takes its answer, in the time in which
    /// the device waits for it; taken over a minute. A slower request is answered with 408, a slower answer is cut.
    /// Default 240. 0 is for none.
    pub min_data_rate: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 256,
            connections_per_address: 64,
            tls_handshake: Duration::from_secs(10),
            request_header: Duration::from_secs(30),
            idle: Duration::from_secs(180),
            min_data_rate: 240,
        }
    }
}

impl Limits {
    /// With no span so long that the end of it cannot be told.
    pub(crate) fn clamped(mut self) -> Self {
        for span in [
            &mut self.tls_handshake,
            &mut self.request_header,
            &mut self.idle,
        ] {
            *span = (*span).min(MAX_DURATION);
        }
        self
    }
}
