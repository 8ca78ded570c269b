//! `/v1/shadow/{name}`: get, report and watch a named shadow.

use std::time::Duration;

use axum::extract::{Path, Request, State};
use axum::http::StatusCode;
use axum::response::{Json, Response};
use cloud_facade::OpenedShadow;
use cloud_facade::shadow::{Delta, ShadowClient, parse_state};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::time::timeout;

use super::api_error::ApiError;
use super::instance::Instance;
use super::json_body::read;
use super::json_lines::{Lines, json_lines};
use crate::error::chain;
use crate::time_fmt::now;

/// Time limit for the broker's answers to the subscriptions of a shadow.
const SUBSCRIBE_TIMEOUT: Duration = Duration::from_secs(30);

/// A shadow of the device, as long as it is in use.
enum Shadow {
    /// One that the device always has.
    Own(ShadowClient),
    Opened(Box<OpenedShadow>),
}

impl Shadow {
    fn client(&self) -> &ShadowClient {
        match self {
            Self::Own(client) => client,
            Self::Opened(opened) => opened.client(),
        }
    }

    /// Opens a shadow, and waits for its subscriptions if the device is connected.
    async fn open(instance: &Instance, name: &str) -> Result<Self, ApiError> {
        if let Some(client) = instance.cloud.named_shadow(name)? {
            // Without its answers each request would only end with its time limit.
            let [accepted, ..] = client.id().filters();
            let refused = instance.cloud.iot()?.refused_subscriptions();
            if refused.iter().any(|filter| filter.as_str() == accepted) {
                let message = format!(
                    "the broker does not permit this device to subscribe to {accepted}: \
                     the platform's policy for this device has to allow it"
                );
                return Err(ApiError::new(StatusCode::FORBIDDEN, "refused", message));
            }
            return Ok(Self::Own(client));
        }
        let mut opened = instance.cloud.open_shadow(name).await?;
        if instance.cloud.status().iot.connected {
            let granted = timeout(SUBSCRIBE_TIMEOUT, opened.granted()).await;
            granted.map_err(|_| ApiError::timeout("the broker did not answer in time"))??;
        }
        Ok(Self::Opened(Box::new(opened)))
    }

    /// Opens a shadow for a request, which needs a connection.
    async fn open_online(instance: &Instance, name: &str) -> Result<Self, ApiError> {
        let iot = instance.cloud.status().iot;
        if !iot.connected {
            let reason = iot.reason.map(|reason| format!(": {reason}"));
            let message = format!(
                "there is no connection to the platform{}",
                reason.unwrap_or_default()
            );
            let status = StatusCode::SERVICE_UNAVAILABLE;
            return Err(ApiError::new(status, "offline", message));
        }
        Self::open(instance, name).await
    }
}

/// `GET /v1/shadow/{name}`.
pub(super) async fn get(
    State(instance): State<Instance>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let shadow = Shadow::open_online(&instance, &name).await?;
    let document = shadow.client().get().await?;
    Ok(Json(json!({
        "event": "shadow",
        "version": document.version,
        "desired": document.desired,
        "reported": document.reported,
        "delta": document.delta(),
    })))
}

/// `POST /v1/shadow/{name}`: reports a part of the state.
pub(super) async fn report(
    State(instance): State<Instance>,
    Path(name): Path<String>,
    request: Request,
) -> Result<Json<Value>, ApiError> {
    let body = read(request).await?;
    let text =
        std::str::from_utf8(&body).map_err(|_| ApiError::invalid("the body is not UTF-8"))?;
    let state = parse_state(text).map_err(|error| ApiError::invalid(chain(&error)))?;
    let shadow = Shadow::open_online(&instance, &name).await?;
    let version = shadow.client().report(state).await?;
    Ok(Json(json!({ "event": "reported", "version": version })))
}

struct Deltas {
    deltas: watch::Receiver<Delta>,
    first: bool,
    _shadow: Shadow,
}

impl Lines for Deltas {
    async fn next(&mut self) -> Option<Value> {
        loop {
            if !std::mem::replace(&mut self.first, false) {
                self.deltas.changed().await.ok()?;
            }
            let Delta { state, version, .. } = self.deltas.borrow_and_update().clone();
            if !state.is_empty() {
                let (event, ts) = ("shadow.delta", now());
                return Some(
                    json!({ "event": event, "state": state, "version": version, "ts": ts }),
                );
            }
        }
    }
}

/// `GET /v1/shadow/{name}/delta`: the delta, now and after each change.
pub(super) async fn watch(
    State(instance): State<Instance>,
    Path(name): Path<String>,
) -> Result<Response, ApiError> {
    let permit = instance.stream_permit()?;
    let shadow = Shadow::open(&instance, &name).await?;
    let deltas = shadow.client().delta();
    let lines = Deltas {
        deltas,
        first: true,
        _shadow: shadow,
    };
    Ok(json_lines(permit, lines))
}
