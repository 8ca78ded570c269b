//! `POST /v1/publish`.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use cloud_facade::iot::{
    Message, MessageProperties, PublishError, PublishOptions, QoS, StoreError,
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use tokio::time::timeout;

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::JsonBody;
use super::payload::{Payload, decode};

/// Time limit for the broker's acknowledgement, and for the disk.
const ACKNOWLEDGE_TIMEOUT: Duration = Duration::from_secs(30);

/// When the response is sent.
#[derive(Debug, Clone, Copy, Default, Deserialize, Serialize, clap::ValueEnum)]
#[serde(rename_all = "snake_case")]
pub(crate) enum WaitFor {
    /// When the broker has acknowledged the message; at quality of service 0, when it is written to
    /// the connection
    #[default]
    Acknowledged,
    /// When the message is on the disk, and survives the process and a power cut
    Stored,
    /// At once: the message is sent when there is a connection
    Queued,
}

#[derive(Debug, Deserialize)]
pub(super) struct Publish {
    topic: String,
    #[serde(flatten)]
    payload: Payload,
    qos: Option<u8>,
    #[serde(default)]
    retain: bool,
    content_type: Option<String>,
    response_topic: Option<String>,
    /// Base64.
    correlation_data: Option<String>,
    #[serde(default)]
    user_properties: Vec<(String, String)>,
    /// Seconds.
    expires_in: Option<u32>,
    #[serde(default)]
    wait: WaitFor,
}

/// Parses a quality of service.
pub(super) fn qos(level: Option<u8>) -> Result<QoS, ApiError> {
    match level {
        Some(0) => Ok(QoS::AtMostOnce),
        Some(1) | None => Ok(QoS::AtLeastOnce),
        Some(_) => Err(ApiError::invalid("qos is 0 or 1")),
    }
}

pub(super) async fn publish(
    State(instance): State<Instance>,
    JsonBody(publish): JsonBody<Publish>,
) -> Result<Response, ApiError> {
    let topic = publish.topic;
    let data = publish.correlation_data.as_deref();
    let mut properties = MessageProperties::new();
    properties.content_type = publish.content_type;
    properties.response_topic = publish.response_topic;
    properties.correlation_data = data
        .map(|text| decode("correlation_data", text))
        .transpose()?;
    properties.user_properties = publish.user_properties;
    let mut message = Message::new(topic.as_str(), publish.payload.bytes()?)
        .qos(qos(publish.qos)?)
        .with_properties(properties);
    message.retain = publish.retain;
    let mut options = PublishOptions::new();
    options.expires_in = publish
        .expires_in
        .map(|time| Duration::from_secs(time.into()));

    let session = instance.cloud.iot()?;
    let (status, event) = match publish.wait {
        WaitFor::Queued => {
            drop(session.publish_with(message, options)?);
            (StatusCode::ACCEPTED, "queued")
        }
        WaitFor::Stored => {
            let stored = session.publish_stored(message, options);
            let receipt = timeout(ACKNOWLEDGE_TIMEOUT, stored).await;
            drop(
                receipt
                    .map_err(|_| not_in_time("stored"))?
                    .map_err(stored_error)?,
            );
            (StatusCode::ACCEPTED, "stored")
        }
        WaitFor::Acknowledged => {
            let receipt = session.publish_with(message, options)?;
            let acknowledged = timeout(ACKNOWLEDGE_TIMEOUT, receipt).await;
            acknowledged.map_err(|_| not_in_time("acknowledged by the broker"))??;
            (StatusCode::OK, "published")
        }
    };
    Ok((status, Json(json!({ "event": event, "topic": topic }))).into_response())
}

fn not_in_time(state: &str) -> ApiError {
    ApiError::timeout(format!(
        "it was not {state} within {} s; the instance keeps it, and sends it when it can",
        ACKNOWLEDGE_TIMEOUT.as_secs()
    ))
}

fn stored_error(error: PublishError) -> ApiError {
    match error {
        PublishError::NotStored(StoreError::NotKept) => ApiError::new(
            StatusCode::CONFLICT,
            "no_outbox",
            "only a message at quality of service 1 is stored, and only by an instance with --outbox",
        ),
        other => other.into(),
    }
}
