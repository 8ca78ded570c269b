//! `GET /v1/subscribe?ack=manual` and `POST /v1/ack`: messages that a client acknowledges.
//!
//! The session holds them. When a stream ends, the messages without an acknowledgement are for the
//! next stream with a filter that matches, and the subscription stays for as long as they are held.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::Json;
use cloud_facade::HeldSubscription;
use cloud_facade::iot::HeldMessage;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::sleep;

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::JsonBody;
use super::json_lines::Lines;
use super::message_lines::{message_json, subscribed};

/// Maximum messages that clients have. The session holds fewer at once; the oldest beyond are not
/// held any more.
const MAX_UNACKNOWLEDGED: usize = 64;

/// How long the subscription of a stream that has ended stays: as long as a message is held.
const LINGER: Duration = Duration::from_secs(60);

/// The messages that clients have not acknowledged, by ID.
#[derive(Debug, Default)]
pub(super) struct UnacknowledgedMessages(Mutex<Unacknowledged>);

#[derive(Debug, Default)]
struct Unacknowledged {
    last_id: u64,
    /// With the stream of each.
    messages: BTreeMap<u64, (u64, HeldMessage)>,
}

impl UnacknowledgedMessages {
    fn lock(&self) -> MutexGuard<'_, Unacknowledged> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        let mut state = self.lock();
        state.last_id += 1;
        state.last_id
    }

    fn add(&self, stream: u64, message: HeldMessage) -> u64 {
        let id = self.next_id();
        let mut state = self.lock();
        state.messages.insert(id, (stream, message));
        let oldest = (state.messages.len() > MAX_UNACKNOWLEDGED)
            .then(|| state.messages.pop_first())
            .flatten();
        // Dropping it calls the session.
        drop(state);
        drop(oldest);
        id
    }

    fn acknowledge(&self, id: &str) -> bool {
        let id = id.parse().ok();
        let message = id.and_then(|id: u64| self.lock().messages.remove(&id));
        message.is_some_and(|(_, message)| message.acknowledge())
    }

    fn give_back(&self, stream: u64) {
        let mut state = self.lock();
        let of_stream: Vec<_> = state
            .messages
            .extract_if(.., |_, (other, _)| *other == stream)
            .collect();
        drop(state);
        drop(of_stream);
    }
}

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
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            runtime.spawn(async move {
                sleep(LINGER).await;
                drop(subscription);
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
