//! Handlers of what is inside a message: JSON, by serde.

use std::fmt;

use serde::de::DeserializeOwned;
use thiserror::Error;
use tower::{BoxError, Service, ServiceExt, service_fn};

use crate::message::Message;

/// The content of a received message, for a handler added by [`Router::json`](crate::Router::json).
#[derive(Clone, PartialEq, Eq)]
pub struct Json<T> {
    /// Where the message was published.
    pub topic: String,
    /// Its payload.
    pub value: T,
}

/// The payload may hold secrets of the application, so it is not shown.
impl<T> fmt::Debug for Json<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Json")
            .field("topic", &self.topic)
            .finish_non_exhaustive()
    }
}

/// A payload is not what the handler takes. It says where and in what way, and quotes nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the payload is {} (line {line}, column {column})", if *.is_json { "JSON, but not of the expected form" } else { "not JSON" })]
#[non_exhaustive]
pub struct Malformed {
    /// Whether it is JSON at all.
    pub is_json: bool,
    /// The line of the fault, from 1 up.
    pub line: usize,
    /// The column of the fault, in bytes, from 1 up.
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

/// Puts the extraction before a handler.
pub(crate) fn extracting<T, S>(
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
    fn it_says_where_and_quotes_nothing() {
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
