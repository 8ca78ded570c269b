//! `GET /v1/subscribe`: the messages of a topic filter, which the instance acknowledges.

use axum::extract::{Query, State};
use axum::response::Response;
use cloud_facade::TopicSubscription;
use cloud_facade::iot::{QoS, Subscription};
use serde::Deserialize;
use serde_json::Value;

use super::api_error::ApiError;
use super::held_messages::HeldStream;
use super::instance::Instance;
use super::json_lines::{Lines, json_lines};
use super::message_lines::{message_json, subscribed};
use super::payload::missed;
use super::publish::qos;

#[derive(Debug, Deserialize)]
pub(super) struct Subscribe {
    filter: String,
    qos: Option<u8>,
    #[serde(default)]
    ack: Acknowledgement,
}

/// How messages are acknowledged.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Acknowledgement {
    /// The instance.
    #[default]
    Auto,
    /// The client, by `POST /v1/ack`.
    Manual,
}

pub(super) async fn subscribe(
    State(instance): State<Instance>,
    Query(query): Query<Subscribe>,
) -> Result<Response, ApiError> {
    let permit = instance.stream_permit()?;
    let qos = qos(query.qos)?;
    let subscription = Subscription::new(query.filter)
        .map_err(|error| ApiError::invalid(error.to_string()))?
        .qos(qos);
    if let Acknowledgement::Manual = query.ack {
        if qos == QoS::AtMostOnce {
            let message = "only messages at quality of service 1 can be acknowledged";
            return Err(ApiError::invalid(message));
        }
        let subscription = instance.cloud.subscribe_held(subscription)?;
        let lines = HeldStream::new(&instance, subscription);
        return Ok(json_lines(permit, lines));
    }
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
                (line, is_granted) = subscribed(subscription) => {
                    self.phase = match is_granted {
                        true => Phase::Subscribed,
                        false => Phase::Refused,
                    };
                    return Some(line);
                }
                // A retained message may be there at once.
                received = messages.recv() => received?,
            },
        };
        Some(match received {
            Ok(message) => message_json(&message).into(),
            Err(lagged) => missed(lagged.dropped),
        })
    }
}
