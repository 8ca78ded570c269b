//! Handlers of JSON payloads, with serde.

use std::fmt;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tower::{BoxError, Service, ServiceExt, service_fn};

use crate::mqtt::message::Message;

/// Payload of a received message, for a handler added by [`Router::json`](crate::Router::json).
#[derive(Clone, PartialEq, Eq)]
pub struct Json<T> {
    /// Topic of the message.
    pub topic: String,
    /// Parsed payload.
    pub value: T,
}

/// The payload may contain application secrets, so it is not shown.
impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// The payload does not match the handler's type. The error contains the position and no content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the payload is {} (line {line}, column {column})", if *.is_json { "JSON, but not of the expected form" } else { "not JSON" })]
#[non_exhaustive]
pub struct Malformed {
    /// Whether the payload is valid JSON.
    pub is_json: bool,
    /// Line of the error, from 1.
    pub line: usize,
    /// Column of the error in bytes, from 1.
    pub column: usize,
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        Self {
            is_json: error.is_data(),
            line: error.line(),
            column: error.column(),
        }
    }
}

/// Wraps a handler so that payloads are parsed first.
pub(crate) fn json_handler<T, S>(
    service: S,
) -> impl Service<
    Message,
    Response = (),
    Error = BoxError,
    Future = impl Future<Output = Result<(), BoxError>> + Send + 'static,
> + Clone
+ Send
+ 'static
where
    T: DeserializeOwned + Send + 'static,
    S: Service<Json<T>, Response = ()> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
{
    service_fn(move |message: Message| {
        let service = service.clone();
        async move {
            let value = serde_json::from_slice(&message.payload).map_err(Malformed::from)?;
            let topic = message.topic;
            let handled = service.oneshot(Json { topic, value });
            handled.await.map_err(Into::into)
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_has_position_and_no_content() {
        let fault = |payload: &str| {
            let error = serde_json::from_str::<Vec<u32>>(payload).unwrap_err();
            Malformed::from(error)
        };
        let shown = fault("[1,\n\"hunter2\"]").to_string();
        assert_eq!(
            shown,
            "the payload is JSON, but not of the expected form (line 2, column 9)"
        );
        assert_eq!(
            fault("[1,").to_string(),
            "the payload is not JSON (line 1, column 3)"
        );
        let value = "hunter2";
        let shown = format!(
            "{:?}",
            Json {
                topic: "t".into(),
                value
            }
        );
        assert!(!shown.contains("hunter2"), "{shown}");
    }
}
