//! What a server is told: its limits and how long it waits.

use std::num::NonZeroU32;
use std::time::Duration;

use crate::limits::{Limits, Timeouts};

/// How a server behaves.
#[derive(Clone, Debug)]
pub struct ServerConfig {
    /// Bounds on what each tunnel holds.
    pub limits: Limits,
    /// Bounds on waiting, for each tunnel.
    pub timeouts: Timeouts,
    /// Messages of 8 KiB or more sent to a device in a second at most; `None`, the default, for no limit.
    pub throttling: Option<NonZeroU32>,
    /// How long a connection may take until it has shown what it is, and a device until its whole token is there.
    /// Default 10 s.
    pub first_byte_timeout: Duration,
    /// The same where only devices connect ([`PortRole::Devices`](super::PortRole::Devices)). Default 2 s.
    pub token_timeout: Duration,
    /// How long a caller may take from there to a complete ClientHello. Default 2 s.
    pub hello_timeout: Duration,
    /// How long a public connection may be idle. Default 90 s; noticed within another quarter of it, so about when the
    /// reference does (90 to 120 s).
    pub public_idle: Duration,
    /// How long a server that is being stopped leaves the callers it is serving to finish. Default 5 s: most answers are
    /// whole by then, and whoever stops the service need not be patient. Nobody new is let in meanwhile.
    pub stop_grace: Duration,
    /// How often a running tunnel's token is looked at. Default 14,400 s; at least 100 ms.
    pub expiry_check: Duration,
    /// Connections that have not yet shown what they want. Beyond it, new ones are closed at once. Default 512.
    pub max_in_flight: usize,
    /// Such connections from one address. Beyond it, new ones are closed at once. Default 128: a whole office behind one
    /// address, or a load balancer that does not say for whom it speaks, gets by; nobody fills all places alone.
    pub max_in_flight_per_address: usize,
    /// Callers of one address (of IPv6: of one network of 64 bits) that are being served. Beyond it, new ones are closed.
    /// Default 512: half of the channels that a device has by default, so that nobody holds them all, and more than an office
    /// behind one address needs. Behind a load balancer that does not say for whom it speaks, all callers have one address:
    /// make it as large as [`max_connections`](Self::max_connections) there, or use the PROXY protocol.
    pub max_callers_per_address: usize,
    /// Connections in all. Beyond it, new ones are closed at once. Default 16,384.
    pub max_connections: usize,
    /// `aes-gcm` keys that are remembered until their tokens have run out, so that none is taken twice. Beyond it, devices
    /// that want `aes-gcm` are refused. Default 65,536, at 40 bytes each: 60 new tokens a minute, each good for a day, fit
    /// well; no others are remembered.
    pub max_spent_keys: usize,
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
            max_spent_keys: 65_536,
        }
    }
}
