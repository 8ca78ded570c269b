//! `GET /v1/subscribe?ack=manual` and `POST /v1/ack`: messages that a client acknowledges.
//!
//! The session holds them. When a stream ends, the messages without an acknowledgement are for the
//! next stream with a filter that matches, and the subscription stays for as long as they are held.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use cloud_facade::HeldSubscription;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::JsonBody;
use super::json_lines::Lines;
use super::message_lines::{message_json, subscribed};
use super::unacknowledged_messages::UnacknowledgedMessages;

/// How long the subscription of a stream that has ended stays: as long as a message is held.
const LINGER: Duration = Duration::from_secs(60);

/// The stream of a filter's messages.
pub(super) struct HeldStream {
    unacknowledged: Arc<UnacknowledgedMessages>,
    id: u64,
    /// `None` once the stream has ended.
    subscription: Option<HeldSubscription>,
    is_subscribed: bool,
    is_refused: bool,
}

impl HeldStream {
    pub(super) fn new(instance: &Instance, subscription: HeldSubscription) -> Self {
        Self {
            unacknowledged: Arc::clone(&instance.unacknowledged),
            id: instance.unacknowledged.next_id(),
            subscription: Some(subscription),
            is_subscribed: false,
            is_refused: false,
        }
    }
}

impl Lines for HeldStream {
    async fn next(&mut self) -> Option<Value> {
        let HeldSubscription {
            subscription,
            messages,
            ..
        } = self.subscription.as_mut()?;
        if self.is_refused {
            return None;
        }
        if !self.is_subscribed {
            self.is_subscribed = true;
            let (line, is_granted) = subscribed(subscription).await;
            self.is_refused = !is_granted;
            return Some(line);
        }
        let held = messages.recv().await?;
        let mut line = message_json(&held.message);
        let is_redelivered = held.is_redelivered;
        let id = self.unacknowledged.add(self.id, held);
        line.insert("id".to_owned(), id.to_string().into());
        line.insert("redelivered".to_owned(), is_redelivered.into());
        Some(line.into())
    }
}

impl Drop for HeldStream {
    fn drop(&mut self) {
        self.unacknowledged.give_back(self.id);
        if let Some(HeldSubscription { subscription, .. }) = self.subscription.take()
            && !self.is_refused
            && let Some(permit) = self.unacknowledged.linger_permit()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                sleep(LINGER).await;
                drop((subscription, permit));
            });
        }
    }
}

#[derive(Debug, Deserialize)]
pub(super) struct Acknowledge {
    id: String,
}

pub(super) async fn acknowledge(
    State(instance): State<Instance>,
    JsonBody(Acknowledge { id }): JsonBody<Acknowledge>,
) -> Result<Json<Value>, ApiError> {
    if instance.unacknowledged.acknowledge(&id) {
        return Ok(Json(json!({ "event": "acknowledged", "id": id })));
    }
    Err(ApiError::new(
        StatusCode::NOT_FOUND,
        "unknown_message",
        "no message with this ID waits for an acknowledgement; the instance acknowledges each after a minute",
    ))
}
