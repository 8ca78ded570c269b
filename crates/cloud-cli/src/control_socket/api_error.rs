//! Errors of the endpoints: `{"error":{"code":…,"message":…}}` with a status.

use axum::http::StatusCode;
use axum::response::{IntoResponse, Json, Response};
use cloud_facade::iot::{
    DeliveryError, PublishError, ReasonCode, RequestError, StreamError, SubscribeError,
};
use cloud_facade::shadow::RequestError as ShadowError;
use cloud_facade::{NotRunning, OpenShadowError, ReceiveError, SendError};
use serde_json::json;

use crate::error::chain;

/// An error of an endpoint. Codes are a contract with programs.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        let message = message.into();
        Self {
            status,
            code,
            message,
        }
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request", message)
    }

    pub(super) fn timeout(message: impl Into<String>) -> Self {
        Self::new(StatusCode::GATEWAY_TIMEOUT, "timeout", message)
    }

    /// Returns the error as a JSON object.
    pub(super) fn json(&self) -> serde_json::Value {
        json!({ "error": { "code": self.code, "message": self.message } })
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(self.json())).into_response()
    }
}

impl From<NotRunning> for ApiError {
    fn from(_: NotRunning) -> Self {
        let message = "the device is stopping";
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "stopping", message)
    }
}

impl From<PublishError> for ApiError {
    fn from(error: PublishError) -> Self {
        let (status, code) = match &error {
            PublishError::Topic(_) => (StatusCode::BAD_REQUEST, "invalid_topic"),
            PublishError::Properties(_) => (StatusCode::BAD_REQUEST, "invalid_properties"),
            PublishError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            PublishError::OutboxFull { .. } => (StatusCode::TOO_MANY_REQUESTS, "outbox_full"),
            PublishError::NotStored(_) => (StatusCode::INSUFFICIENT_STORAGE, "not_stored"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<DeliveryError> for ApiError {
    fn from(error: DeliveryError) -> Self {
        let (status, code) = match &error {
            DeliveryError::Refused(ReasonCode::NOT_AUTHORIZED) => {
                (StatusCode::FORBIDDEN, "refused")
            }
            DeliveryError::Refused(_) => (StatusCode::BAD_GATEWAY, "refused"),
            DeliveryError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, "too_large"),
            DeliveryError::NotSupported(_) => (StatusCode::NOT_IMPLEMENTED, "not_supported"),
            DeliveryError::Expired => (StatusCode::GATEWAY_TIMEOUT, "expired"),
            DeliveryError::Displaced => (StatusCode::SERVICE_UNAVAILABLE, "displaced"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<SendError> for ApiError {
    fn from(error: SendError) -> Self {
        match error {
            SendError::NotRunning(error) => error.into(),
            SendError::Publish(error) | SendError::Request(RequestError::Publish(error)) => {
                error.into()
            }
            SendError::Request(RequestError::Delivery(error)) => error.into(),
            SendError::Request(error) => {
                let (status, code) = match &error {
                    RequestError::Timeout(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
                    RequestError::Busy(_) | RequestError::TooMany(_) => {
                        (StatusCode::CONFLICT, "busy")
                    }
                    RequestError::NotSubscribed(_) | RequestError::SubscriptionRefused(_) => {
                        (StatusCode::FORBIDDEN, "refused")
                    }
                    _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
                };
                Self::new(status, code, chain(&error))
            }
            other => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "failed", chain(&other)),
        }
    }
}

impl From<SubscribeError> for ApiError {
    fn from(error: SubscribeError) -> Self {
        let (status, code) = match &error {
            SubscribeError::TooMany(_) => (StatusCode::TOO_MANY_REQUESTS, "too_many"),
            SubscribeError::Refused(_) => (StatusCode::FORBIDDEN, "refused"),
            _ => (StatusCode::SERVICE_UNAVAILABLE, "stopping"),
        };
        Self::new(status, code, chain(&error))
    }
}

impl From<ReceiveError> for ApiError {
    fn from(error: ReceiveError) -> Self {
        match error {
            ReceiveError::NotRunning(error) => error.into(),
            ReceiveError::Subscribe(error) => error.into(),
            ReceiveError::Stream(StreamError::HoldsNone) => {
                let message = "messages wait for an acknowledgement only in an instance with --session-expiry";
                Self::new(StatusCode::CONFLICT, "no_session", message)
            }
            ReceiveError::SecretAction(_) => {
                Self::new(StatusCode::FORBIDDEN, "secret_action", chain(&error))
            }
            other => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", chain(&other)),
        }
    }
}

impl From<OpenShadowError> for ApiError {
    fn from(error: OpenShadowError) -> Self {
        match error {
            OpenShadowError::NotRunning(error) => error.into(),
            OpenShadowError::Subscribe(error) => error.into(),
            OpenShadowError::Name(_) => {
                Self::new(StatusCode::BAD_REQUEST, "invalid_name", chain(&error))
            }
            other => Self::new(StatusCode::TOO_MANY_REQUESTS, "too_many", chain(&other)),
        }
    }
}

impl From<ShadowError> for ApiError {
    fn from(error: ShadowError) -> Self {
        if error.is_not_found() {
            let message = "there is no shadow yet; the first `shadow report` creates it";
            return Self::new(StatusCode::NOT_FOUND, "no_shadow", message);
        }
        let (status, code) = match &error {
            ShadowError::Invalid(_) => (StatusCode::BAD_REQUEST, "invalid_state"),
            ShadowError::Rejected(_) => (StatusCode::BAD_GATEWAY, "rejected"),
            ShadowError::TimedOut(_) => (StatusCode::GATEWAY_TIMEOUT, "timeout"),
            ShadowError::Bus(_) => (StatusCode::SERVICE_UNAVAILABLE, "offline"),
            ShadowError::Busy(_) => (StatusCode::TOO_MANY_REQUESTS, "busy"),
            _ => (StatusCode::BAD_GATEWAY, "failed"),
        };
        let message = format!("the shadow service: {}", chain(&error));
        Self::new(status, code, message)
    }
}
