//! Bodies of requests, bounded in size and time.

use std::time::Duration;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest, Request};
use axum::http::StatusCode;
use http_body_util::BodyExt;
use serde::de::DeserializeOwned;
use tokio::time::timeout;

use super::api_error::ApiError;

/// Maximum size of a body: the largest payload, 128 KiB, in base64, and its properties.
const MAX_BODY_SIZE: usize = 256 * 1024;

/// A larger body is read up to this size: a client that still sends it would not see the response.
const MAX_DISCARDED: usize = 16 * MAX_BODY_SIZE;

/// Time limit for a body. Clients are on this machine and send it at once.
const BODY_TIMEOUT: Duration = Duration::from_secs(5);

/// A body of any type in JSON. Its content type does not matter: `curl` sends another one.
pub(super) struct JsonBody<T>(pub(super) T);

impl<T: DeserializeOwned, S: Sync> FromRequest<S> for JsonBody<T> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let body = read(request).await?;
        // The error may quote values, which came from the client.
        let parsed = serde_json::from_slice(&body);
        parsed
            .map(Self)
            .map_err(|error| ApiError::invalid(format!("the body: {error}")))
    }
}

/// Reads a body as it is.
pub(super) async fn read(request: Request) -> Result<Bytes, ApiError> {
    let read = timeout(BODY_TIMEOUT, collect(request.into_body())).await;
    read.unwrap_or_else(|_| {
        let (status, code) = (StatusCode::REQUEST_TIMEOUT, "timeout");
        Err(ApiError::new(
            status,
            code,
            "the body did not arrive in time",
        ))
    })
}

async fn collect(mut body: Body) -> Result<Bytes, ApiError> {
    let (mut bytes, mut size) = (Vec::new(), 0);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| ApiError::invalid("the body ended early"))?;
        let Ok(data) = frame.into_data() else {
            continue;
        };
        size += data.len();
        if size <= MAX_BODY_SIZE {
            bytes.extend_from_slice(&data);
        } else if size > MAX_DISCARDED {
            break;
        }
    }
    if size > MAX_BODY_SIZE {
        return Err(ApiError::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("the body is larger than {MAX_BODY_SIZE} bytes"),
        ));
    }
    Ok(bytes.into())
}
