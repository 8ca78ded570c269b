//! `GET /v1/subscribe`: the messages of a topic filter.

use axum::extract::{Query, State};
use axum::response::Response;
use cloud_facade::TopicSubscription;
use cloud_facade::iot::{Message, QoS, Subscription};
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_lines::{Lines, json_lines};
use super::payload::{add_payload, add_properties, missed};
use super::publish::qos;
use crate::time_fmt::now;

#[derive(Debug, Deserialize)]
pub(super) struct Subscribe {
    filter: String,
    qos: Option<u8>,
}

pub(super) async fn subscribe(
    State(instance): State<Instance>,
    Query(Subscribe { filter, qos: level }): Query<Subscribe>,
) -> Result<Response, ApiError> {
    let permit = instance.stream_permit()?;
    let subscription = Subscription::new(filter)
        .map_err(|error| ApiError::invalid(error.to_string()))?
        .qos(qos(level)?);
    let subscription = instance.cloud.subscribe(subscription)?;
    let lines = Messages {
        subscription,
        phase: Phase::Subscribing,
    };
    Ok(json_lines(permit, lines))
}

enum Phase {
    Subscribing,
    Subscribed,
    Refused,
}

struct Messages {
    subscription: TopicSubscription,
    phase: Phase,
}

impl Lines for Messages {
    async fn next(&mut self) -> Option<Value> {
        let TopicSubscription {
            subscription,
            messages,
            ..
        } = &mut self.subscription;
        let received = match self.phase {
            Phase::Refused => return None,
            Phase::Subscribed => messages.recv().await?,
            Phase::Subscribing => tokio::select! {
                granted = subscription.granted() => {
                    return Some(match granted {
                        Ok(()) => {
                            self.phase = Phase::Subscribed;
                            let filter = subscription.filter().as_str();
                            json!({ "event": "subscribed", "filter": filter, "ts": now() })
                        }
                        Err(error) => {
                            self.phase = Phase::Refused;
                            ApiError::from(error).json()
                        }
                    });
                }
                // A retained message may be there at once.
                received = messages.recv() => received?,
            },
        };
        Some(match received {
            Ok(message) => message_json(&message),
            Err(lagged) => missed(lagged.dropped),
        })
    }
}

fn message_json(message: &Message) -> Value {
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
    object.into()
}
