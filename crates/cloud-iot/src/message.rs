//! What travels: messages, their quality of service, subscriptions.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes as wire;

use crate::limits::Limits;
use crate::topic::{TopicError, TopicFilter, check_depth, check_name};

/// What a message costs in a queue beyond its topic and payload, in bytes: the bookkeeping around
/// it. Without it a queue bounded in bytes would hold any number of empty messages.
const OVERHEAD_BYTES: usize = 128;

/// How surely a message is delivered. AWS IoT Core has no "exactly once", so neither has this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QoS {
    /// QoS 0: written once; lost if the connection fails at that moment.
    AtMostOnce,
    /// QoS 1, the default: repeated on the next connection until the server acknowledges it; may
    /// arrive twice.
    #[default]
    AtLeastOnce,
}

impl From<QoS> for wire::QoS {
    fn from(qos: QoS) -> Self {
        match qos {
            QoS::AtMostOnce => Self::AtMostOnce,
            QoS::AtLeastOnce => Self::AtLeastOnce,
        }
    }
}

/// A message, sent or received.
///
/// ```
/// use cloud_iot::{Message, QoS};
///
/// let message = Message::new("c/d/7/status", r#"{"state":"ONLINE"}"#).qos(QoS::AtMostOnce);
/// assert_eq!(message.payload, r#"{"state":"ONLINE"}"#);
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct Message {
    /// Where it is published; no wildcards.
    pub topic: String,
    /// Its content, any bytes.
    pub payload: Bytes,
    /// How surely it is delivered.
    pub qos: QoS,
    /// Whether the server keeps it for later subscribers (sent), or had kept it (received).
    pub retain: bool,
}

impl Message {
    /// A message at [`QoS::AtLeastOnce`], not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::default(),
            retain: false,
        }
    }

    /// The same message with another quality of service.
    #[must_use]
    pub fn qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }

    /// The same message, to be kept by the server for later subscribers.
    #[must_use]
    pub fn retained(self) -> Self {
        Self {
            retain: true,
            ..self
        }
    }

    /// What it counts in a queue that is bounded in bytes.
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD_BYTES + self.topic.len() + self.payload.len()
    }

    /// The size of its PUBLISH packet in bytes, as the server's limit counts it.
    /// With `expires` it carries its expiry.
    pub(crate) fn packet_bytes(&self, expires: bool) -> usize {
        let packet_id = match self.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => 2,
        };
        let properties = if expires { 5 } else { 0 };
        // Topic with its length, packet id, properties with their length, payload.
        let rest = 2 + self.topic.len() + packet_id + 1 + properties + self.payload.len();
        let length_field = match rest {
            0..=127 => 1,
            128..=16_383 => 2,
            16_384..=2_097_151 => 3,
            _ => 4,
        };
        1 + length_field + rest
    }

    pub(crate) fn check_topic(&self, limits: &Limits) -> Result<(), TopicError> {
        check_name(&self.topic, limits.topic_bytes)?;
        check_depth(&self.topic, limits.topic_slashes)
    }
}

/// How a message is to be treated beyond what it says itself; see
/// [`publish_with`](crate::SessionHandle::publish_with).
///
/// ```
/// use std::time::Duration;
/// use cloud_iot::PublishOptions;
///
/// let options = PublishOptions::new().expires_in(Duration::from_secs(60));
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct PublishOptions {
    /// How long the message is worth delivering, from now on. Default: for ever. After that time it
    /// is given up here ([`Expired`](crate::DeliveryError::Expired)); the server, told what is left
    /// in whole seconds rounded up, gives it up for subscribers that it has not reached.
    pub expires_in: Option<Duration>,
}

impl PublishOptions {
    /// The defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// The same options with a time after which the message is given up.
    #[must_use]
    pub fn expires_in(self, time: Duration) -> Self {
        Self {
            expires_in: Some(time),
        }
    }
}

/// Payloads may hold secrets of the application, so only their length is shown.
impl fmt::Debug for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Message")
            .field("topic", &self.topic)
            .field("payload_bytes", &self.payload.len())
            .field("qos", &self.qos)
            .field("retain", &self.retain)
            .finish()
    }
}

/// What a session asks the server for on every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Subscription {
    /// Which topics.
    pub filter: TopicFilter,
    /// The highest quality of service wanted.
    pub qos: QoS,
}

impl Subscription {
    /// A subscription at [`QoS::AtLeastOnce`].
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the filter is not valid.
    pub fn new(filter: impl Into<String>) -> Result<Self, TopicError> {
        Ok(Self {
            filter: TopicFilter::new(filter)?,
            qos: QoS::default(),
        })
    }

    /// The same subscription with another quality of service.
    #[must_use]
    pub fn qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_size_is_what_the_codec_writes() {
        for payload in [0, 100, 113, 114, 16_369, 16_370, 131_072] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                let message = Message::new("some/topic", vec![0; payload]).qos(qos);
                for expires in [false, true] {
                    let properties = expires.then(|| wire::v5::PublishProperties {
                        message_expiry_interval: Some(60),
                        ..Default::default()
                    });
                    let body = vec![0; payload];
                    let mut publish =
                        wire::v5::Publish::new("some/topic", qos.into(), body, properties);
                    publish.pkid = 7;
                    let mut written = bytes::BytesMut::new();
                    publish.write(&mut written).unwrap();
                    let counted = message.packet_bytes(expires);
                    assert_eq!(counted, written.len(), "{payload} {qos:?} {expires}");
                }
            }
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let shown = format!("{:?}", Message::new("a", "hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
