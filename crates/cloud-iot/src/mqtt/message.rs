//! Messages, quality of service and subscriptions.

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes as codec;

use crate::mqtt::message_properties::MessageProperties;
use crate::mqtt::topic::{TopicError, TopicFilter, check_depth, check_name};

/// Identifies an accepted message for the life of the session.
pub(crate) type MessageId = u64;

/// Cost of a queued message beyond its topic and payload, in bytes. Without it a queue bounded in
/// bytes would hold any number of empty messages.
const OVERHEAD_BYTES: usize = 128;

/// Quality of service. AWS IoT Core has no "exactly once", so neither has this crate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub enum QoS {
    /// QoS 0: written once; lost if the connection fails at that moment.
    AtMostOnce,
    /// QoS 1, the default: resent on the next connection until the server acknowledges it; may
    /// arrive twice.
    #[default]
    AtLeastOnce,
}

impl From<QoS> for codec::QoS {
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
#[non_exhaustive]
pub struct Message {
    /// Topic to publish to, without wildcards.
    pub topic: String,
    /// Payload, any bytes.
    pub payload: Bytes,
    /// Quality of service.
    pub qos: QoS,
    /// Whether the server retains it for later subscribers (sent), or had retained it (received).
    pub retain: bool,
    /// Properties for its receivers; `None` if there are none.
    pub properties: Option<Box<MessageProperties>>,
}

impl Message {
    /// Creates a message at [`QoS::AtLeastOnce`], not retained.
    pub fn new(topic: impl Into<String>, payload: impl Into<Bytes>) -> Self {
        Self {
            topic: topic.into(),
            payload: payload.into(),
            qos: QoS::default(),
            retain: false,
            properties: None,
        }
    }

    /// Sets the quality of service.
    #[must_use]
    pub fn qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }

    /// Sets the retain flag.
    #[must_use]
    pub fn retained(self) -> Self {
        Self {
            retain: true,
            ..self
        }
    }

    /// Sets the properties.
    #[must_use]
    pub fn with_properties(self, properties: MessageProperties) -> Self {
        Self {
            properties: (!properties.is_empty()).then(|| Box::new(properties)),
            ..self
        }
    }

    /// Returns the encoded size of the properties in bytes.
    fn properties_bytes(&self) -> usize {
        let properties = self.properties.as_deref();
        properties.map_or(0, MessageProperties::encoded_bytes)
    }

    /// Returns the cost in a queue that is bounded in bytes.
    pub(crate) fn cost(&self) -> usize {
        OVERHEAD_BYTES + self.topic.len() + self.payload.len() + self.properties_bytes()
    }

    /// Returns the size of the PUBLISH packet in bytes, as the server's limit counts it. With
    /// `expires`, the packet has an expiry interval.
    pub(crate) fn packet_bytes(&self, expires: bool) -> usize {
        let packet_id = match self.qos {
            QoS::AtMostOnce => 0,
            QoS::AtLeastOnce => 2,
        };
        let properties = if expires { 5 } else { 0 } + self.properties_bytes();
        // Topic with its length, packet id, properties with their length, payload.
        packet_bytes(
            2 + self.topic.len()
                + packet_id
                + length_bytes(properties)
                + properties
                + self.payload.len(),
        )
    }

    pub(crate) fn check_topic(
        &self,
        max_bytes: usize,
        max_slashes: usize,
    ) -> Result<(), TopicError> {
        check_name(&self.topic, max_bytes)?;
        check_depth(&self.topic, max_slashes)
    }
}

/// Returns the size of a packet with a body of this size.
fn packet_bytes(body: usize) -> usize {
    1 + length_bytes(body) + body
}

/// Returns the size of a length, a Variable Byte Integer.
fn length_bytes(length: usize) -> usize {
    match length {
        0..=127 => 1,
        128..=16_383 => 2,
        16_384..=2_097_151 => 3,
        _ => 4,
    }
}

/// Returns the size of a SUBSCRIBE packet in bytes.
pub(crate) fn subscribe_bytes(subscriptions: &[Subscription]) -> usize {
    // Each filter has a length and options.
    let filters = subscriptions
        .iter()
        .map(|s| 2 + s.filter.as_str().len() + 1);
    // Packet identifier, length of the properties, filters.
    packet_bytes(2 + 1 + filters.sum::<usize>())
}

/// Options for publishing a message; see [`publish_with`](crate::Session::publish_with).
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
    /// How long the message may take to be delivered, from now on. Default: no limit. After that
    /// time the session drops it ([`Expired`](crate::DeliveryError::Expired)). The server receives
    /// the remaining time in whole seconds, rounded up, and applies it to subscribers that it has
    /// not reached.
    pub expires_in: Option<Duration>,
}

impl PublishOptions {
    /// Returns the defaults.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the time after which the message expires.
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
            .field("properties", &self.properties)
            .finish()
    }
}

/// A subscription that a session makes on every connection.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Subscription {
    /// Topic filter.
    pub filter: TopicFilter,
    /// Maximum quality of service.
    pub qos: QoS,
    /// Whether the session is of no use without it: if the server refuses it, the connection ends
    /// and is made again later. Otherwise the session goes on without it, and
    /// [`SessionEvent::SubscriptionRefused`](crate::SessionEvent::SubscriptionRefused) reports it.
    pub required: bool,
    /// Whether the server leaves out messages that this session has published. Default: no.
    pub no_local: bool,
    /// Whether the server passes on the retain flag as the publisher has set it. Otherwise, which
    /// is the default, [`Message::retain`] says whether the server had retained the message.
    pub retain_as_published: bool,
    /// Which retained messages the server sends. Default: [`RetainHandling::EachSubscribe`].
    pub retain_handling: RetainHandling,
}

/// When the server sends the retained messages of a [subscription](Subscription).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum RetainHandling {
    /// At each SUBSCRIBE, which is at each connection unless the server keeps the session.
    #[default]
    EachSubscribe,
    /// At the first SUBSCRIBE in a session of the server.
    FirstSubscribe,
    /// Never.
    Never,
}

impl From<RetainHandling> for codec::v5::RetainForwardRule {
    fn from(handling: RetainHandling) -> Self {
        match handling {
            RetainHandling::EachSubscribe => Self::OnEverySubscribe,
            RetainHandling::FirstSubscribe => Self::OnNewSubscribe,
            RetainHandling::Never => Self::Never,
        }
    }
}

impl From<&Subscription> for codec::v5::Filter {
    fn from(subscription: &Subscription) -> Self {
        Self {
            nolocal: subscription.no_local,
            preserve_retain: subscription.retain_as_published,
            retain_forward_rule: subscription.retain_handling.into(),
            ..Self::new(subscription.filter.as_str(), subscription.qos.into())
        }
    }
}

impl Subscription {
    /// Creates a subscription at [`QoS::AtLeastOnce`], not required, with the default options.
    ///
    /// # Errors
    ///
    /// [`TopicError`] if the filter is not valid.
    pub fn new(filter: impl Into<String>) -> Result<Self, TopicError> {
        Ok(Self {
            filter: TopicFilter::new(filter)?,
            qos: QoS::default(),
            required: false,
            no_local: false,
            retain_as_published: false,
            retain_handling: RetainHandling::default(),
        })
    }

    /// Sets [`required`](Self::required).
    #[must_use]
    pub fn required(self) -> Self {
        Self {
            required: true,
            ..self
        }
    }

    /// Sets the maximum quality of service.
    #[must_use]
    pub fn qos(self, qos: QoS) -> Self {
        Self { qos, ..self }
    }

    /// Sets [`no_local`](Self::no_local).
    #[must_use]
    pub fn no_local(self) -> Self {
        Self {
            no_local: true,
            ..self
        }
    }

    /// Sets [`retain_as_published`](Self::retain_as_published).
    #[must_use]
    pub fn retain_as_published(self) -> Self {
        Self {
            retain_as_published: true,
            ..self
        }
    }

    /// Sets [`retain_handling`](Self::retain_handling).
    #[must_use]
    pub fn retain_handling(self, retain_handling: RetainHandling) -> Self {
        Self {
            retain_handling,
            ..self
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packet_size_is_what_the_codec_writes() {
        let long = "x".repeat(100);
        for payload in [0, 100, 113, 114, 16_369, 16_370, 131_072] {
            for qos in [QoS::AtMostOnce, QoS::AtLeastOnce] {
                for (expires, value) in [(false, ""), (true, ""), (true, "x"), (false, &long)] {
                    let mut message = Message::new("some/topic", vec![0; payload]).qos(qos);
                    if !value.is_empty() {
                        let properties = MessageProperties::new()
                            .content_type(value)
                            .response_topic(value)
                            .correlation_data(value.to_owned())
                            .user_property("name", value);
                        message = message.with_properties(properties.user_property("b", value));
                    }
                    let properties = (expires || !value.is_empty()).then(|| {
                        let properties = message.properties.clone().unwrap_or_default();
                        codec::v5::PublishProperties {
                            message_expiry_interval: expires.then_some(60),
                            ..(*properties).into()
                        }
                    });
                    let body = vec![0; payload];
                    let mut publish =
                        codec::v5::Publish::new("some/topic", qos.into(), body, properties);
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
    fn subscription_options_are_encoded() {
        let plain = || Subscription::new("a").unwrap();
        for (subscription, options) in [
            (plain(), 0b01),
            (plain().qos(QoS::AtMostOnce).no_local(), 0b100),
            (plain().retain_as_published(), 0b1001),
            (
                plain().retain_handling(RetainHandling::FirstSubscribe),
                0b01_0001,
            ),
            (plain().retain_handling(RetainHandling::Never), 0b10_0001),
        ] {
            let filter = codec::v5::Filter::from(&subscription);
            let subscribe = codec::v5::Subscribe::new_many([filter], None);
            let mut written = bytes::BytesMut::new();
            subscribe.write(&mut written).unwrap();
            assert_eq!(written.last(), Some(&options), "{subscription:?}");
            assert_eq!(subscribe_bytes(&[subscription]), written.len());
        }
    }

    #[test]
    fn debug_shows_no_payload() {
        let shown = format!("{:?}", Message::new("a", "hunter2"));
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
