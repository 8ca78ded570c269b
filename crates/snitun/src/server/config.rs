//! Configuration of a server: its limits and timeouts.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::limits::{Limits, Timeouts};

/// Configuration of a [`Server`](super::Server).
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Bounds on the data that each tunnel holds.
    pub limits: Limits,
    /// Timeouts of each tunnel.
    pub timeouts: Timeouts,
    /// Maximum messages of 8 KiB or more sent to a device per second; `None`, the default, for no
    /// limit.
    pub throttling: Option<NonZeroU32>,
    /// Timeout for the first bytes of a connection, and for the whole token of a device. Default 10
    /// s.
    pub first_byte_timeout: Duration,
    /// The same for a listener for devices only
    /// ([`ListenerRole::Devices`](super::ListenerRole::Devices)). Default 2 s.
    pub token_timeout: Duration,
    /// Timeout from there to a complete ClientHello of a caller. Default 2 s.
    pub hello_timeout: Duration,
    /// Idle timeout of a public connection. Default 90 s; checked every quarter of it, so it ends
    /// about when the reference ends it (90 to 120 s).
    pub public_idle: Duration,
    /// Time that a stopping server gives its callers to finish. Default 5 s: most responses are
    /// complete by then, and service managers do not wait long. No new connections are accepted
    /// meanwhile.
    pub stop_grace: Duration,
    /// Interval at which the token of a running tunnel is checked for expiry. Default 14,400 s; at
    /// least 100 ms.
    pub expiry_check: Duration,
    /// Maximum connections that are not yet authenticated or connected. Beyond it, new ones are
    /// closed at once. Default 512.
    pub max_in_flight: usize,
    /// Maximum such connections from one address. Beyond it, new ones are closed at once. Default
    /// 128: enough for an office behind one address, or a load balancer without the PROXY protocol,
    /// and too few for one address to use all permits.
    pub max_in_flight_per_address: usize,
    /// Maximum callers served at a time from one address (for IPv6: from one /64 network). Beyond
    /// it, new ones are closed. Default 512: half of the channels that a device has by default, so
    /// that no address uses them all, and more than an office behind one address needs. Behind a
    /// load balancer without the PROXY protocol all callers have one address: set it to
    /// [`max_connections`](Self::max_connections) there, or use the PROXY protocol.
    pub max_callers_per_address: usize,
    /// Maximum connections in total. Beyond it, new ones are closed at once. Default 16,384.
    pub max_connections: usize,
    /// Maximum `aes-gcm` keys that are remembered until their tokens expire, so that none is used
    /// twice. Beyond it, devices with `aes-gcm` are refused. Default 65,536, at 40 bytes each:
    /// enough for 60 new tokens a minute, each valid for a day. Keys of other ciphers are not
    /// remembered.
    pub max_used_keys: usize,
}

impl ServerConfig {
    /// Sets [`max_callers_per_address`](Self::max_callers_per_address), and raises the limits that
    /// so many callers of one device would reach first if they all arrived at once.
    pub fn set_callers_per_address(&mut self, callers: usize) {
        self.max_callers_per_address = callers;
        for limit in [
            &mut self.limits.max_channels,
            &mut self.max_in_flight,
            &mut self.max_in_flight_per_address,
            &mut self.max_connections,
        ] {
            *limit = (*limit).max(callers);
        }
    }
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self {
            limits: Limits::default(),
            timeouts: Timeouts::default(),
            throttling: None,
            first_byte_timeout: Duration::from_secs(10),
            token_timeout: Duration::from_secs(2),
            hello_timeout: Duration::from_secs(2),
            public_idle: Duration::from_secs(90),
            stop_grace: Duration::from_secs(5),
            expiry_check: Duration::from_secs(14_400),
            max_in_flight: 512,
            max_in_flight_per_address: 128,
            max_callers_per_address: 512,
            max_connections: 16_384,
            max_used_keys: 65_536,
        }
    }
}
