//! `POST /v1/request`: a request to the platform, and its response.

use std::time::Duration;

use axum::extract::State;
use axum::response::Json;
use cloud_facade::Action;
use serde::Deserialize;
use serde_json::{Value, json};

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::JsonBody;

/// Default and maximum time limit for the response, in seconds.
const TIMEOUT: u32 = 30;
const MAX_TIMEOUT: u32 = 300;

#[derive(Debug, Deserialize)]
pub(super) struct Request {
    action: String,
    /// Any JSON value.
    #[serde(default)]
    payload: Value,
    /// Seconds.
    timeout: Option<u32>,
}

pub(super) async fn request(
    State(instance): State<Instance>,
    JsonBody(request): JsonBody<Request>,
) -> Result<Json<Value>, ApiError> {
    let action: Action = action(&request.action)?;
    // Refuses actions whose responses contain secrets.
    if instance.keeps_secrets {
        drop(instance.cloud.action_messages(&action)?);
    }
    let timeout = request.timeout.unwrap_or(TIMEOUT);
    if !(1..=MAX_TIMEOUT).contains(&timeout) {
        let message = format!("timeout is 1 to {MAX_TIMEOUT} seconds");
        return Err(ApiError::invalid(message));
    }
    let timeout = Duration::from_secs(timeout.into());
    let payload = request.payload.to_string();
    let answer = instance.cloud.request(&action, payload, timeout).await?;
    // An answer that is not JSON is text.
    let answer: Value = serde_json::from_slice(&answer)
        .unwrap_or_else(|_| String::from_utf8_lossy(&answer).into_owned().into());
    let line = json!({ "event": "answer", "action": action.as_str(), "answer": answer });
    Ok(Json(line))
}

/// Parses the name of an action.
pub(super) fn action(name: &str) -> Result<Action, ApiError> {
    let parsed = name.parse::<Action>();
    parsed.map_err(|error| ApiError::invalid(error.to_string()))
}
