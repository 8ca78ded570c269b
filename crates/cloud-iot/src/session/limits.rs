//! Limits and timeouts of a session.

use std::time::Duration;

use crate::error::ConfigError;
use crate::session::setters::setters;

/// Limits of a session's queues, so that neither a long outage nor a busy server exhausts the
/// memory.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    /// Accepted messages that are not delivered yet, 1–1,000,000. Default: 1000.
    pub outbox_messages: usize,
    /// Their total cost in bytes (topic, payload and 128 for each message), at least 1. Default: 4
    /// MiB.
    pub outbox_bytes: usize,
    /// QoS 1 messages sent and not yet acknowledged, 1–1000; the server may lower it. Default: 100,
    /// AWS IoT Core's limit.
    pub in_flight: u16,
    /// Messages published per second, 10–1,000,000; `None` for no limit. Default: 100, AWS IoT
    /// Core's limit. A tenth may be sent at once, the others follow evenly.
    pub publishes_per_second: Option<u32>,
    /// Bytes of published packets per second, at least 4096; `None` for no limit. Default: 512 KiB,
    /// AWS IoT Core's limit. A quarter may be sent at once. A single larger packet waits until the
    /// full quarter is available.
    pub bytes_per_second: Option<u32>,
    /// Maximum payload of a published message in bytes, 1–16 MiB. Default: 128 KiB, AWS IoT Core's
    /// limit.
    pub payload_bytes: usize,
    /// Maximum length of a published topic in bytes, 1–65535. Default: 256, AWS IoT Core's limit.
    pub topic_bytes: usize,
    /// Maximum slashes in a published topic, 0–65535; in topics that begin with `$aws/` the first
    /// three do not count. Default: 7, AWS IoT Core's limit.
    pub topic_slashes: usize,
    /// Maximum received packet in bytes, 1024–16 MiB; CONNECT announces it. Default: 150,000,
    /// slightly above AWS IoT Core's limit.
    pub incoming_packet_bytes: u32,
    /// QoS 1 messages that the server may send before they are acknowledged, 1–1000, with
    /// [`Acknowledge::AfterHandlers`](crate::Acknowledge::AfterHandlers). Default: 32, half of a
    /// route's queue.
    pub incoming_in_flight: u16,
    /// Filters in one SUBSCRIBE packet, 1–100. Default: 8, AWS IoT Core's limit.
    pub filters_per_subscribe: usize,
    /// Queued messages of one [stream](crate::MessageStream), 1–100,000. Default: 64.
    pub stream_messages: usize,
    /// Their total cost in bytes, at least 1. Default: 1 MiB.
    pub stream_bytes: usize,
    /// Open streams, 1–10,000. Default: 64.
    pub streams: usize,
    /// Requests that wait for a response, 1–10,000. Default: 64.
    pub requests: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            outbox_messages: 1000,
            outbox_bytes: 4 << 20,
            in_flight: 100,
            publishes_per_second: Some(100),
            bytes_per_second: Some(512 << 10),
            payload_bytes: 128 << 10,
            topic_bytes: 256,
            topic_slashes: 7,
            incoming_packet_bytes: 150_000,
            incoming_in_flight: 32,
            filters_per_subscribe: 8,
            stream_messages: 64,
            stream_bytes: 1 << 20,
            streams: 64,
            requests: 64,
        }
    }
}

impl Limits {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        outbox_messages: usize,
        outbox_bytes: usize,
        in_flight: u16,
        publishes_per_second: Option<u32>,
        bytes_per_second: Option<u32>,
        payload_bytes: usize,
        topic_bytes: usize,
        topic_slashes: usize,
        incoming_packet_bytes: u32,
        incoming_in_flight: u16,
        filters_per_subscribe: usize,
        stream_messages: usize,
        stream_bytes: usize,
        streams: usize,
        requests: usize,
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        let checks = [
            (
                (1..=1_000_000).contains(&self.outbox_messages),
                "limits.outbox_messages",
                "1 to 1,000,000",
            ),
            (self.outbox_bytes > 0, "limits.outbox_bytes", "at least 1"),
            (
                (1..=1000).contains(&self.in_flight),
                "limits.in_flight",
                "1 to 1000",
            ),
            (
                self.publishes_per_second
                    .is_none_or(|rate| (10..=1_000_000).contains(&rate)),
                "limits.publishes_per_second",
                "10 to 1,000,000",
            ),
            (
                self.bytes_per_second.is_none_or(|rate| rate >= 4096),
                "limits.bytes_per_second",
                "at least 4096",
            ),
            (
                (1..=16 << 20).contains(&self.payload_bytes),
                "limits.payload_bytes",
                "1 to 16 MiB",
            ),
            (
                (1..=65_535).contains(&self.topic_bytes),
                "limits.topic_bytes",
                "1 to 65535",
            ),
            (
                self.topic_slashes <= 65_535,
                "limits.topic_slashes",
                "0 to 65535",
            ),
            (
                (1024..=16 << 20).contains(&self.incoming_packet_bytes),
                "limits.incoming_packet_bytes",
                "1024 to 16 MiB",
            ),
            (
                (1..=1000).contains(&self.incoming_in_flight),
                "limits.incoming_in_flight",
                "1 to 1000",
            ),
            (
                (1..=100).contains(&self.filters_per_subscribe),
                "limits.filters_per_subscribe",
                "1 to 100",
            ),
            (
                (1..=100_000).contains(&self.stream_messages),
                "limits.stream_messages",
                "1 to 100,000",
            ),
            (self.stream_bytes > 0, "limits.stream_bytes", "at least 1"),
            (
                (1..=10_000).contains(&self.streams),
                "limits.streams",
                "1 to 10,000",
            ),
            (
                (1..=10_000).contains(&self.requests),
                "limits.requests",
                "1 to 10,000",
            ),
        ];
        for (good, name, range) in checks {
            if !good {
                return Err(ConfigError::OutOfRange { name, range });
            }
        }
        Ok(())
    }
}

/// Timeouts of a session.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timeouts {
    /// Name lookup, TCP, TLS and CONNACK together, 1–300 s in whole seconds. Default: 20 s.
    pub connect: Duration,
    /// From a SUBSCRIBE to its SUBACK, at least 1 ms. Default: 30 s.
    pub subscribe: Duration,
    /// From a QoS 1 message to its PUBACK, at least 1 ms. Default: 30 s. MQTT 5 does not allow
    /// resending on a live connection, so the session reconnects after the timeout.
    pub acknowledge: Duration,
    /// For each on-connect or on-disconnect hook, at least 1 ms. Default: 10 s.
    pub hook: Duration,
    /// For a shutdown when the last handle is dropped without [`stop`](crate::Session::stop),
    /// at least 1 ms. Default: 5 s.
    pub drop: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(20),
            subscribe: Duration::from_secs(30),
            acknowledge: Duration::from_secs(30),
            hook: Duration::from_secs(10),
            drop: Duration::from_secs(5),
        }
    }
}

impl Timeouts {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        connect: Duration,
        subscribe: Duration,
        acknowledge: Duration,
        hook: Duration,
        drop: Duration,
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        if self.connect.subsec_nanos() != 0 || !(1..=300).contains(&self.connect.as_secs()) {
            return Err(ConfigError::OutOfRange {
                name: "timeouts.connect",
                range: "1 s to 300 s in whole seconds",
            });
        }
        for (value, name) in [
            (self.subscribe, "timeouts.subscribe"),
            (self.acknowledge, "timeouts.acknowledge"),
            (self.hook, "timeouts.hook"),
            (self.drop, "timeouts.drop"),
        ] {
            if value < Duration::from_millis(1) || value > Duration::from_secs(86_400) {
                return Err(ConfigError::OutOfRange {
                    name,
                    range: "1 ms to one day",
                });
            }
        }
        Ok(())
    }
}
