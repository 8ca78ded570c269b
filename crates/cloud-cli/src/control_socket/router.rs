//! The endpoints.

use axum::Router;
use axum::body::Body;
use axum::http::{HeaderName, HeaderValue, StatusCode, Uri, header};
use axum::middleware::map_response;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};

use super::api_error::ApiError;
use super::instance::Instance;
use super::{
    VERSION, access, actions, doctor, events, held_messages, log, publish, request, shadow, status,
    subscribe,
};

/// Returns the endpoints of a device.
pub(crate) fn router(instance: Instance) -> Router {
    let endpoints = Router::new()
        .route("/status", get(status::status))
        .route("/url", get(status::url))
        .route("/doctor", get(doctor::doctor))
        .route("/log", get(log::log))
        .route("/events", get(events::events))
        .route("/publish", post(publish::publish))
        .route("/subscribe", get(subscribe::subscribe))
        .route("/ack", post(held_messages::acknowledge))
        .route("/request", post(request::request))
        .route("/actions/{action}", get(actions::register))
        .route("/actions/{action}/{id}", post(actions::answer))
        .route("/shadow/{name}", get(shadow::get).post(shadow::report))
        .route("/shadow/{name}/delta", get(shadow::watch))
        .route("/access", get(access::get).put(access::set));
    Router::new()
        .nest(&format!("/{VERSION}"), endpoints)
        .fallback(unknown_path)
        .layer(map_response(finish))
        .with_state(instance)
}

async fn unknown_path(uri: Uri) -> ApiError {
    let prefix = format!("/{VERSION}/");
    let code = if uri.path().starts_with(&prefix) {
        "not_found"
    } else {
        "unsupported_version"
    };
    let message = format!(
        "version {} of the program has no such path; its paths begin with {prefix}",
        env!("CARGO_PKG_VERSION")
    );
    ApiError::new(StatusCode::NOT_FOUND, code, message)
}

/// The program's version, in each response.
const PROGRAM_VERSION: HeaderName = HeaderName::from_static("clesyde-cloud-version");

/// Adds the program's version, and makes errors of the HTTP library JSON too.
async fn finish(response: Response) -> Response {
    let is_json = |response: &Response| {
        let content_type = response.headers().get(header::CONTENT_TYPE);
        content_type.is_some_and(|value| value.as_bytes().starts_with(b"application/"))
    };
    let status = response.status();
    let mut response =
        if (status.is_client_error() || status.is_server_error()) && !is_json(&response) {
            let code = match status {
                StatusCode::METHOD_NOT_ALLOWED => "method_not_allowed",
                _ => "invalid_request",
            };
            let reason = axum::body::to_bytes(response.into_body(), 4096).await;
            let reason = reason.unwrap_or_default();
            let reason = match String::from_utf8_lossy(&reason) {
                text if text.is_empty() => status.to_string(),
                text => text.into_owned(),
            };
            ApiError::new(status, code, reason).into_response()
        } else {
            response.map(Body::new)
        };
    let version = HeaderValue::from_static(env!("CARGO_PKG_VERSION"));
    response.headers_mut().insert(PROGRAM_VERSION, version);
    response
}
