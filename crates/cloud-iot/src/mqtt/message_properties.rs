//! Properties of a message for its receivers (MQTT 5.0, 3.3.2.3).

use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::v5::PublishProperties;

use crate::mqtt::property::{
    CONTENT_TYPE, CORRELATION_DATA, MESSAGE_EXPIRY, RESPONSE_TOPIC, USER_PROPERTY, Value,
    read_properties,
};
use crate::mqtt::reader::{Fault, Packet};
use crate::mqtt::topic::check_name;

/// Maximum encoded size of a message's properties in bytes: AWS IoT Core's limit for user
/// properties, which are the largest part.
const MAX_BYTES: usize = 8 << 10;

/// Properties of a message that the server passes on to its receivers.
///
/// ```
/// use cloud_iot::{Message, MessageProperties};
///
/// let properties = MessageProperties::new()
///     .content_type("application/json")
///     .user_property("unit", "°C");
/// let message = Message::new("c/d/7/temperature", "21.5").with_properties(properties);
/// # assert!(message.properties.is_some());
/// ```
#[derive(Clone, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct MessageProperties {
    /// Type of the payload, such as a MIME type.
    pub content_type: Option<String>,
    /// Topic for responses, without wildcards.
    pub response_topic: Option<String>,
    /// Data that joins a response with its request.
    pub correlation_data: Option<Bytes>,
    /// Names and values of the application, in order; a name may occur several times.
    pub user_properties: Vec<(String, String)>,
    /// How long a received message is still valid, counted from its arrival, in whole seconds;
    /// `None` without a limit. Of a sent message this is
    /// [`PublishOptions::expires_in`](crate::PublishOptions::expires_in), and this field has no
    /// effect.
    pub expires_in: Option<Duration>,
}

impl MessageProperties {
    /// Returns no properties.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the content type.
    #[must_use]
    pub fn content_type(mut self, content_type: impl Into<String>) -> Self {
        self.content_type = Some(content_type.into());
        self
    }

    /// Sets the topic for responses.
    #[must_use]
    pub fn response_topic(mut self, topic: impl Into<String>) -> Self {
        self.response_topic = Some(topic.into());
        self
    }

    /// Sets the correlation data.
    #[must_use]
    pub fn correlation_data(mut self, data: impl Into<Bytes>) -> Self {
        self.correlation_data = Some(data.into());
        self
    }

    /// Adds a user property.
    #[must_use]
    pub fn user_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.user_properties.push((name.into(), value.into()));
        self
    }

    /// Returns whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Returns what is wrong with the properties, if anything is. The server would end the
    /// connection because of it.
    pub(crate) fn check(&self, max_topic_bytes: usize) -> Result<(), String> {
        let size = self.encoded_bytes();
        if size > MAX_BYTES {
            return Err(format!(
                "they have {size} bytes, at most {MAX_BYTES} are allowed"
            ));
        }
        if let Some(topic) = &self.response_topic {
            check_name(topic, max_topic_bytes).map_err(|error| error.to_string())?;
        }
        let texts = (self.user_properties.iter()).flat_map(|(name, value)| [name, value]);
        if texts.chain(&self.content_type).any(|t| t.contains('\0')) {
            return Err("they contain a NUL character".to_owned());
        }
        Ok(())
    }

    /// Returns the encoded size in bytes.
    pub(crate) fn encoded_bytes(&self) -> usize {
        // Each has an identifier, and each value a length.
        let value = |bytes: Option<usize>| bytes.map_or(0, |bytes| 1 + 2 + bytes);
        let pairs = self.user_properties.iter();
        value(self.content_type.as_ref().map(String::len))
            + value(self.response_topic.as_ref().map(String::len))
            + value(self.correlation_data.as_ref().map(Bytes::len))
            + pairs
                .map(|(name, text)| 1 + 2 + name.len() + 2 + text.len())
                .sum::<usize>()
    }

    /// Returns the encoded properties, as in a packet.
    #[cfg(feature = "durable")]
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut encoded = Vec::with_capacity(self.encoded_bytes());
        let mut put = |id: u8, values: &[&[u8]]| {
            encoded.push(id);
            for value in values {
                // `check` has limited the length.
                let length = u16::try_from(value.len()).unwrap_or(u16::MAX);
                encoded.extend(length.to_be_bytes());
                encoded.extend(value.iter().take(length.into()));
            }
        };
        for (id, value) in [
            (
                CONTENT_TYPE,
                self.content_type.as_ref().map(String::as_bytes),
            ),
            (
                RESPONSE_TOPIC,
                self.response_topic.as_ref().map(String::as_bytes),
            ),
            (CORRELATION_DATA, self.correlation_data.as_deref()),
        ] {
            if let Some(value) = value {
                put(id, &[value]);
            }
        }
        for (name, value) in &self.user_properties {
            put(USER_PROPERTY, &[name.as_bytes(), value.as_bytes()]);
        }
        encoded
    }

    /// Decodes the properties of a PUBLISH; `None` if it has none of these.
    pub(crate) fn decode(bytes: &[u8]) -> Result<Option<Box<Self>>, Fault> {
        let mut properties = Self::default();
        read_properties(Packet::Publish, bytes, |id, value| match (id, value) {
            (MESSAGE_EXPIRY, Value::Number(seconds)) => {
                properties.expires_in = Some(Duration::from_secs(seconds.into()));
            }
            (CONTENT_TYPE, Value::Text(text)) => properties.content_type = Some(text.to_owned()),
            (RESPONSE_TOPIC, Value::Text(text)) => {
                properties.response_topic = Some(text.to_owned());
            }
            (CORRELATION_DATA, Value::Binary(data)) => {
                properties.correlation_data = Some(Bytes::copy_from_slice(data));
            }
            (USER_PROPERTY, Value::TextPair(name, value)) => {
                let property = (name.to_owned(), value.to_owned());
                properties.user_properties.push(property);
            }
            _ => {}
        })?;
        Ok((!properties.is_empty()).then(|| Box::new(properties)))
    }
}

impl From<MessageProperties> for PublishProperties {
    fn from(properties: MessageProperties) -> Self {
        Self {
            content_type: properties.content_type,
            response_topic: properties.response_topic,
            correlation_data: properties.correlation_data,
            user_properties: properties.user_properties,
            ..Self::default()
        }
    }
}

/// Like a payload, they may hold secrets of the application.
impl fmt::Debug for MessageProperties {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MessageProperties")
            .field("bytes", &self.encoded_bytes())
            .finish_non_exhaustive()
    }
}
