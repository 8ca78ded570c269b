//! The lines of a stream of messages.

use cloud_facade::iot::{ActiveSubscription, Message, QoS};
use serde_json::{Map, Value, json};

use super::api_error::ApiError;
use super::payload::{add_payload, add_properties};
use crate::time_fmt::now;

/// Returns the first line of a stream, and whether the broker has granted the subscription.
///
/// # Cancel safety
/// It can be called again.
pub(super) async fn subscribed(subscription: &mut ActiveSubscription) -> (Value, bool) {
    match subscription.granted().await {
        Ok(()) => {
            let filter = subscription.filter().as_str();
            let line = json!({ "event": "subscribed", "filter": filter, "ts": now() });
            (line, true)
        }
        Err(error) => (ApiError::from(error).json(), false),
    }
}

pub(super) fn message_json(message: &Message) -> Map<String, Value> {
    let qos = match message.qos {
        QoS::AtMostOnce => 0,
        QoS::AtLeastOnce => 1,
    };
    let mut object = Map::new();
    object.insert("event".to_owned(), "message".into());
    object.insert("topic".to_owned(), message.topic.as_str().into());
    add_payload(&mut object, &message.payload);
    object.insert("qos".to_owned(), qos.into());
    object.insert("retain".to_owned(), message.retain.into());
    if let Some(properties) = &message.properties {
        add_properties(&mut object, properties);
    }
    object.insert("ts".to_owned(), now().into());
    object
}
