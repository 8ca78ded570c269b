//! Responses that are streams of JSON lines.
//!
//! A line is made when the client has room for it: its source is bounded and counts what it drops
//! meanwhile, which a `missed` line reports. So a slow client costs no memory.

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use futures_util::stream;
use serde_json::Value;
use tokio::sync::OwnedSemaphorePermit;

/// A source of lines.
pub(super) trait Lines: Send + 'static {
    /// Returns the next line; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Option<Value>> + Send;
}

/// Streams the lines of a source.
pub(super) fn json_lines(permit: OwnedSemaphorePermit, lines: impl Lines) -> Response {
    let lines = stream::unfold((lines, permit), async |(mut lines, permit)| {
        let mut line = lines.next().await?.to_string();
        line.push('\n');
        Some((
            Ok::<_, std::convert::Infallible>(Bytes::from(line)),
            (lines, permit),
        ))
    });
    let content_type = [(header::CONTENT_TYPE, "application/x-ndjson")];
    (content_type, Body::from_stream(lines)).into_response()
}
