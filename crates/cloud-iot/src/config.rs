//! What a session is made from, checked before anything is started.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::ServerName;

use crate::backoff::Backoff;
use crate::error::ConfigError;
use crate::limits::{Limits, Timeouts};
use crate::message::{Message, Subscription};
use crate::proxy::Proxy;

/// AWS IoT Core's longest client id, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 128;

/// Below this it is the network's own delays that are measured. AWS IoT Core allows 30 s and more.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The port of MQTT over TLS.
const MQTT_PORT: u16 = 8883;

/// The port that nearly every firewall lets through.
const HTTPS_PORT: u16 = 443;

/// AWS IoT Core takes this many subscriptions on one connection.
const MAX_SUBSCRIPTIONS: usize = 50;

/// What somebody who waits for a message to be stored can be asked to wait.
const MAX_STORE_DELAY: Duration = Duration::from_secs(60);

/// A device that may be back sooner must not stay away for longer.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// Everything a session needs, by value. [`SessionConfig::new`] fills in the defaults.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// The server: a DNS name or an IP address, which its certificate must carry.
    pub host: String,
    /// Its TCP port. With 443 and no ALPN name in `tls`, the name that AWS wants there is added.
    pub port: u16,
    /// Another port for when this one cannot be reached, because a firewall lets only some through,
    /// be it that TCP fails, that the connection ends before TLS is up, or that something answers which is no TLS.
    /// The attempts then take turns, and the port on which a connection was made is kept until it
    /// cannot be reached any more. The fallback port is also left when TLS or MQTT fails there before
    /// CONNACK, since something else than the server may answer. Default: [`FallbackPort::Auto`].
    pub fallback_port: FallbackPort,
    /// The MQTT client id, 1–128 bytes. The server allows one connection for each id.
    pub client_id: String,
    /// How to verify the server and to prove who this device is; see [`tls`](crate::tls).
    pub tls: Arc<rustls::ClientConfig>,
    /// How long a dead connection may go unnoticed, 5–65535 s in whole seconds. Default: 60 s. After
    /// half of it without a packet from the server it is probed, and the answer has the other half.
    /// The server is told as well, and may ask for a shorter interval; a longer one is not taken.
    pub keep_alive: Duration,
    /// Published by the server when the connection ends without a goodbye. Default: none.
    pub will: Option<Message>,
    /// Published on each connection, after the on-connect hooks and before everything else; at QoS 1 while another message
    /// is suspected of ending connections. Default: none.
    pub birth: Option<Message>,
    /// Published before a clean disconnect, after everything else. Default: none.
    pub goodbye: Option<Message>,
    /// Asked for on each connection; each must be granted. Default: none.
    pub subscriptions: Vec<Subscription>,
    /// How long the server keeps the session after a connection has ended, 1 s to 136 years in whole
    /// seconds; it may allow less. Default: none, so that each connection begins with a clean start.
    ///
    /// What is published at QoS 1 meanwhile comes with the next connection. As long as the server
    /// has the session, the subscriptions are not asked for again, except once in each process: the
    /// one before may have asked for others.
    pub session_expiry: Option<Duration>,
    /// When a received QoS 1 message is acknowledged. Default: on receipt.
    pub acknowledge: Acknowledge,
    /// What happens when the outbox is full. Default: the new message is refused. Messages that have
    /// been handed over to the connection never make room.
    pub overflow: Overflow,
    /// How long accepted messages wait to be written together, if the session has a
    /// [store](crate::SessionBuilder::outbox_store), 0 to 60 s. What is acknowledged within that time is
    /// not written at all. Default: 200 ms, more than most servers take to acknowledge, so that the
    /// flash of a device that is online hardly wears.
    pub store_delay: Duration,
    /// Bounds of queues and sizes.
    pub limits: Limits,
    /// Waits between attempts to connect.
    pub backoff: Backoff,
    /// Time limits.
    pub timeouts: Timeouts,
    /// An HTTP proxy to go through, such as [`Proxy::from_env`] finds. Default: none, whatever the
    /// environment says.
    pub proxy: Option<Proxy>,
    /// The port on which a connection was made last time, as [`SessionHandle::port`] told: the first
    /// attempt goes there. Default: none, and any other than `port` and the fallback port counts as
    /// none, so that it may come from a file that is out of date.
    ///
    /// [`SessionHandle::port`]: crate::SessionHandle::port
    pub last_port: Option<u16>,
}

impl SessionConfig {
    /// A configuration with the defaults, on port 8883.
    pub fn new(
        host: impl Into<String>,
        client_id: impl Into<String>,
        tls: Arc<rustls::ClientConfig>,
    ) -> Self {
        Self {
            host: host.into(),
            port: MQTT_PORT,
            fallback_port: FallbackPort::default(),
            client_id: client_id.into(),
            tls,
            keep_alive: Duration::from_secs(60),
            will: None,
            birth: None,
            goodbye: None,
            subscriptions: Vec::new(),
            session_expiry: None,
            acknowledge: Acknowledge::default(),
            overflow: Overflow::default(),
            store_delay: Duration::from_millis(200),
            limits: Limits::default(),
            backoff: Backoff::default(),
            timeouts: Timeouts::default(),
            proxy: None,
            last_port: None,
        }
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if ServerName::try_from(self.host.as_str()).is_err() {
            return Err(ConfigError::Host(self.host.clone()));
        }
        if self.port == 0 || self.fallback_port == FallbackPort::Port(0) {
            return Err(ConfigError::Port);
        }
        if self.client_id.is_empty() || self.client_id.len() > MAX_CLIENT_ID_BYTES {
            return Err(ConfigError::ClientId {
                length: self.client_id.len(),
                limit: MAX_CLIENT_ID_BYTES,
            });
        }
        let keep_alive = self.keep_alive;
        if keep_alive < MIN_KEEP_ALIVE
            || keep_alive.as_secs() > u64::from(u16::MAX)
            || keep_alive.subsec_nanos() != 0
        {
            return Err(ConfigError::KeepAlive(keep_alive));
        }
        if let Some(expiry) = self.session_expiry
            && (expiry.subsec_nanos() != 0
                || !(1..=u64::from(u32::MAX)).contains(&expiry.as_secs()))
        {
            return Err(ConfigError::OutOfRange {
                name: "session_expiry",
                range: "1 s to 4294967295 s in whole seconds",
            });
        }
        if self.store_delay > MAX_STORE_DELAY {
            return Err(ConfigError::OutOfRange {
                name: "store_delay",
                range: "0 to 60 s",
            });
        }
        self.limits.validate()?;
        self.timeouts.validate()?;
        validate_backoff(&self.backoff)?;
        for (name, message) in [
            ("will", &self.will),
            ("birth", &self.birth),
            ("goodbye", &self.goodbye),
        ] {
            let Some(message) = message else { continue };
            message
                .check_topic(&self.limits)
                .map_err(|error| ConfigError::Topic {
                    message: name,
                    error,
                })?;
            let (size, limit) = (message.payload.len(), self.limits.payload_bytes);
            // A will's length has a field of 16 bits.
            let limit = if name == "will" {
                limit.min(usize::from(u16::MAX))
            } else {
                limit
            };
            if size > limit {
                return Err(ConfigError::TooLarge {
                    message: name,
                    size,
                    limit,
                });
            }
        }
        if self.subscriptions.len() > MAX_SUBSCRIPTIONS {
            return Err(ConfigError::Subscriptions {
                count: self.subscriptions.len(),
                limit: MAX_SUBSCRIPTIONS,
            });
        }
        let mut seen = HashSet::new();
        for subscription in &self.subscriptions {
            if !seen.insert(&subscription.filter) {
                return Err(ConfigError::DuplicateSubscription(
                    subscription.filter.clone(),
                ));
            }
        }
        Ok(())
    }
}

fn validate_backoff(backoff: &Backoff) -> Result<(), ConfigError> {
    let out_of_range = |name, range| Err(ConfigError::OutOfRange { name, range });
    if backoff.unit.is_zero() {
        return out_of_range("backoff.unit", "longer than 0");
    }
    if backoff.max_exponent > 16 {
        return out_of_range("backoff.max_exponent", "0 to 16");
    }
    // What is added to a clock must not pass its end.
    if backoff.ceiling < backoff.unit || backoff.ceiling > MAX_WAIT {
        return out_of_range("backoff.ceiling", "from backoff.unit to one day");
    }
    Ok(())
}

/// The port that is tried when the main one cannot be reached, always with the ALPN name
/// [`ALPN_AWS_MQTT`](crate::tls::ALPN_AWS_MQTT) unless the TLS configuration has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FallbackPort {
    /// 443 beside 8883, as AWS IoT Core has it; none beside any other port.
    #[default]
    Auto,
    /// None.
    Never,
    /// This one.
    Port(u16),
}

impl FallbackPort {
    pub(crate) fn beside(self, main: u16) -> Option<u16> {
        match self {
            Self::Auto => (main == MQTT_PORT).then_some(HTTPS_PORT),
            Self::Never => None,
            Self::Port(port) => Some(port),
        }
    }
}

/// When a received QoS 1 message is acknowledged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Acknowledge {
    /// At once. What a crash finds in a handler's queue is lost.
    #[default]
    OnReceipt,
    /// When all [routes](crate::Router) that it falls under have handled it, whether well or not, or
    /// dropped it because their queue was full. What was not acknowledged when the connection ended
    /// comes again, if the server keeps the session
    /// ([`session_expiry`](SessionConfig::session_expiry)); it is not handled twice unless the process
    /// was started anew in between, or the connection ended while its acknowledgement was on its way. Streams count as handled once they hold the message.
    ///
    /// Acknowledgements leave in the order in which the messages came, so that a slow handler delays
    /// those of the others, and the server holds back new messages when
    /// [`incoming_in_flight`](Limits::incoming_in_flight) are not acknowledged.
    AfterHandlers,
}

/// What happens to a message that finds the outbox full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// It is [refused](crate::PublishError::OutboxFull); what was accepted stays.
    #[default]
    Refuse,
    /// The oldest messages make room, whatever their quality of service; their receipts tell
    /// ([`Displaced`](crate::DeliveryError::Displaced)). For values of which only the latest count.
    DropOldest,
    /// The oldest messages at QoS 0 make room, and their receipts tell. If there are not enough of
    /// them the new one is refused: what was accepted at QoS 1 stays.
    DropAtMostOnce,
}
