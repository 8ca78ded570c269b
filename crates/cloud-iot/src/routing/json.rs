//! Handlers of JSON payloads, with serde.

use std::fmt;

use cloud_net::Malformed;
use serde::de::DeserializeOwned;
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
    fn payload_is_not_shown() {
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
