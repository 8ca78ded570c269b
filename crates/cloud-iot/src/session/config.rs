//! Session configuration, validated before the start.

use std::collections::HashSet;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::Proxy;
use rustls::pki_types::ServerName;

use crate::core::backoff::Backoff;
use crate::error::ConfigError;
use crate::mqtt::message::{Message, Subscription};
use crate::mqtt::topic::TopicFilter;
use crate::session::limits::{Limits, Timeouts};
use crate::session::setters::setters;

/// Maximum length of a client ID in AWS IoT Core, in bytes.
const MAX_CLIENT_ID_BYTES: usize = 128;

/// A shorter interval would measure network delays. AWS IoT Core allows 30 s and more.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The port of MQTT over TLS.
const MQTT_PORT: u16 = 8883;

/// The port that almost every firewall allows.
const HTTPS_PORT: u16 = 443;

/// Maximum subscriptions on one connection in AWS IoT Core.
pub(crate) const MAX_SUBSCRIPTIONS: usize = 50;

/// Maximum time that a caller waits for a message to be stored.
const MAX_STORE_DELAY: Duration = Duration::from_secs(60);

/// Below, a reader has no time; beyond, a reader that does not acknowledge stops the server for too
/// long.
const HOLD_RANGE: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_secs(600);

/// Maximum back-off, for devices that could be back sooner.
const MAX_WAIT: Duration = Duration::from_secs(86_400);

/// Configuration of a session. [`SessionConfig::new`] sets the defaults.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SessionConfig {
    /// Server: a DNS name or an IP address, which its certificate must contain.
    pub host: String,
    /// TCP port. On 443 without an ALPN name in `tls`, AWS's ALPN name is added.
    pub port: u16,
    /// Fallback port for when the main port is unreachable because of a firewall: TCP fails, the
    /// connection ends during the TLS handshake, or the peer does not speak TLS. Attempts then
    /// alternate between the ports, and a port that works is kept until it is unreachable. The
    /// fallback port is also left when TLS or MQTT fails there before CONNACK, because another
    /// service may answer. Default: [`FallbackPort::Auto`].
    pub fallback_port: FallbackPort,
    /// MQTT client ID, 1–128 bytes. The server allows one connection per ID.
    pub client_id: String,
    /// Settings for verifying the server and for the client certificate; see [`tls`](crate::tls).
    pub tls: Arc<rustls::ClientConfig>,
    /// Maximum time to detect a dead connection, 5–65535 s in whole seconds. Default: 60 s. The
    /// session probes the server after half of it without a packet, and the response has the other
    /// half. The server receives the interval in CONNECT and may request a shorter one; a longer
    /// one is ignored.
    pub keep_alive: Duration,
    /// Published by the server when the connection ends without DISCONNECT. Default: none.
    pub will: Option<Message>,
    /// How long the server waits with the will, 1 s to 136 years in whole seconds, and not longer
    /// than [`session_expiry`](Self::session_expiry), which is required: a connection that is back
    /// within that time leaves no will. A planned reconnection then sends no
    /// [goodbye message](Self::goodbye) either. Default: none, so that the will follows at once.
    pub will_delay: Option<Duration>,
    /// Published on each connection, after the on-connect hooks and before all other messages; at
    /// QoS 1 while a message is suspected of ending connections. Default: none.
    pub birth: Option<Message>,
    /// Published before a clean disconnect, after all other messages. Default: none.
    pub goodbye: Option<Message>,
    /// Subscriptions of each connection; the server must grant the
    /// [required](Subscription::required) ones. Default: none.
    pub subscriptions: Vec<Subscription>,
    /// How long the server keeps the session after a connection has ended, 1 s to 136 years in
    /// whole seconds; the server may shorten it. Default: none, so that each connection starts with
    /// a clean session.
    ///
    /// QoS 1 messages that are published meanwhile arrive on the next connection. While the server
    /// has the session, the session does not subscribe again, except once per process, because the
    /// previous process may have used other subscriptions.
    pub session_expiry: Option<Duration>,
    /// When a received QoS 1 message is acknowledged. Default: on receipt.
    pub acknowledge: Acknowledge,
    /// How long a QoS 1 message is held for a reader that acknowledges it
    /// ([`Session::held_messages`]), 1 s to 10 min from its arrival; then the session acknowledges
    /// it. Needs [`Acknowledge::AfterHandlers`]. Default: none.
    ///
    /// A message that no route or stream takes waits for a reader so long. While it waits, later
    /// messages are delivered and not acknowledged. Once they are three quarters of
    /// [`Limits::incoming_in_flight`], the server would soon stop, and it is held for 2 s only.
    ///
    /// [`Session::held_messages`]: crate::Session::held_messages
    pub hold: Option<Duration>,
    /// What happens when the outbox is full. Default: the new message is refused. Messages in
    /// flight are never dropped.
    pub overflow: Overflow,
    /// How long accepted messages wait to be written together, if the session has a
    /// [store](crate::SessionBuilder::outbox_store), 0 to 60 s. Messages that are acknowledged
    /// within that time are not written. Default: 200 ms, more than most servers need to
    /// acknowledge, so that a device that is online hardly wears its flash.
    pub store_delay: Duration,
    /// Limits of queues and sizes.
    pub limits: Limits,
    /// Delays between connection attempts.
    pub backoff: Backoff,
    /// Timeouts.
    pub timeouts: Timeouts,
    /// Proxy, for example from [`Proxy::from_env`]. Default: none, regardless of the
    /// environment.
    pub proxy: Option<Proxy>,
    /// Port of the last successful connection, from [`Session::port`], for the first attempt.
    /// Default: none. Ports other than `port` and the fallback port are ignored, so the value may
    /// come from an outdated file.
    ///
    /// [`Session::port`]: crate::Session::port
    pub preferred_port: Option<u16>,
}

impl SessionConfig {
    /// Creates a configuration with the defaults, on port 8883.
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
            will_delay: None,
            birth: None,
            goodbye: None,
            subscriptions: Vec::new(),
            session_expiry: None,
            acknowledge: Acknowledge::default(),
            hold: None,
            overflow: Overflow::default(),
            store_delay: Duration::from_millis(200),
            limits: Limits::default(),
            backoff: Backoff::default(),
            timeouts: Timeouts::default(),
            proxy: None,
            preferred_port: None,
        }
    }

    setters! {
        port: u16,
        fallback_port: FallbackPort,
        keep_alive: Duration,
        subscriptions: Vec<Subscription>,
        acknowledge: Acknowledge,
        overflow: Overflow,
        store_delay: Duration,
        limits: Limits,
        backoff: Backoff,
        timeouts: Timeouts,
        proxy: Option<Proxy>,
        preferred_port: Option<u16>,
    }

    setters! {
        some
        will: Message,
        will_delay: Duration,
        birth: Message,
        goodbye: Message,
        session_expiry: Duration,
        hold: Duration,
    }

    /// Returns whether messages on `topic` cannot arrive because each subscription that covers it
    /// is among the `refused` ones.
    pub(crate) fn is_refused(&self, refused: &[TopicFilter], topic: &str) -> bool {
        let covering = |subscription: &&Subscription| subscription.filter.matches(topic);
        let mut covering = self.subscriptions.iter().filter(covering).peekable();
        covering.peek().is_some()
            && covering.all(|subscription| refused.contains(&subscription.filter))
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
        for (name, value) in [
            ("session_expiry", self.session_expiry),
            ("will_delay", self.will_delay),
        ] {
            if let Some(value) = value
                && (value.subsec_nanos() != 0
                    || !(1..=u64::from(u32::MAX)).contains(&value.as_secs()))
            {
                return Err(ConfigError::OutOfRange {
                    name,
                    range: "1 s to 4294967295 s in whole seconds",
                });
            }
        }
        // The server publishes the will at the end of the session at the latest.
        if self.will_delay.is_some() && self.will_delay > self.session_expiry {
            return Err(ConfigError::OutOfRange {
                name: "will_delay",
                range: "1 s to `session_expiry`, which must be set",
            });
        }
        if self.hold.is_some_and(|hold| !HOLD_RANGE.contains(&hold)) {
            return Err(ConfigError::OutOfRange {
                name: "hold",
                range: "1 s to 600 s",
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
                .check_topic(self.limits.topic_bytes, self.limits.topic_slashes)
                .map_err(|error| ConfigError::Topic {
                    message: name,
                    error,
                })?;
            let (size, limit) = (message.payload.len(), self.limits.payload_bytes);
            // The length field of a will has 16 bits.
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
    if backoff.base_delay.is_zero() {
        return out_of_range("backoff.base_delay", "longer than 0");
    }
    if backoff.max_exponent > 16 {
        return out_of_range("backoff.max_exponent", "0 to 16");
    }
    // A delay that is added to a clock must not overflow it.
    if backoff.max_delay < backoff.base_delay || backoff.max_delay > MAX_WAIT {
        return out_of_range("backoff.max_delay", "from backoff.base_delay to one day");
    }
    Ok(())
}

/// Port to try when the main port is unreachable, with the ALPN name
/// [`ALPN_AWS_MQTT`](crate::tls::ALPN_AWS_MQTT) unless the TLS configuration has others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum FallbackPort {
    /// 443 for 8883, as in AWS IoT Core; none for other ports.
    #[default]
    Auto,
    /// No fallback port.
    Never,
    /// This port.
    Port(u16),
}

impl FallbackPort {
    pub(crate) fn for_port(self, main: u16) -> Option<u16> {
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
    /// On receipt. A crash loses the messages in the handlers' queues.
    #[default]
    OnReceipt,
    /// When all matching [routes](crate::Router) have handled the message, with or without success,
    /// or dropped it because their queue was full. If the server keeps the session
    /// ([`session_expiry`](SessionConfig::session_expiry)), it resends messages that were not
    /// acknowledged when the connection ended. A message is handled twice only if the process
    /// restarted in between, or the connection ended during the acknowledgement. Streams count as
    /// handled once they hold the message, and [`HeldMessages`](crate::HeldMessages) once they
    /// acknowledge it.
    ///
    /// Acknowledgements leave in the order of arrival, so a slow handler delays the others, and the
    /// server stops sending when [`incoming_in_flight`](Limits::incoming_in_flight) messages are
    /// not acknowledged.
    AfterHandlers,
}

/// What happens to a new message when the outbox is full.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Overflow {
    /// It is [refused](crate::PublishError::OutboxFull); accepted messages stay.
    #[default]
    Refuse,
    /// The oldest messages are dropped, at any quality of service, and their receipts report
    /// [`Displaced`](crate::DeliveryError::Displaced). Useful for values of which only the latest
    /// matter.
    DropOldest,
    /// The oldest QoS 0 messages are dropped, and their receipts report it. If there are not enough
    /// of them, the new message is refused: accepted QoS 1 messages stay.
    DropAtMostOnce,
}
