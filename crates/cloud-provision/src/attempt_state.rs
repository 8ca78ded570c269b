//! The progress of a registration, for callers that drop its future.
//!
//! A dropped future returns no error, so the client tracks whether a request may have been sent: a
//! request follows its connection immediately, and a layer around the connector observes the
//! connection.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tower::{Layer, Service};

use crate::error::ProvisionError;

/// Progress of a registration. See [`Client::stage`](crate::Client::stage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RequestStage {
    /// No request was sent, or the platform answered that it did not register the device. The key
    /// remains valid.
    Unsent,
    /// A request was sent and its outcome is unknown: the platform may have registered the device
    /// and used up the key.
    Sent,
    /// The platform registered the device, and its response arrived.
    Answered,
}

/// Tracks the attempts of a registration. Clones share the state.
#[derive(Debug, Clone, Default)]
pub(crate) struct AttemptTracker(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// An attempt is in progress.
    in_flight: bool,
    /// The current attempt has a connection.
    connected: bool,
    /// An earlier attempt may have registered the device.
    ambiguous: bool,
    answered: bool,
}

impl AttemptTracker {
    pub(crate) fn stage(&self) -> RequestStage {
        let state = self.lock();
        if state.answered {
            RequestStage::Answered
        } else if state.ambiguous || (state.in_flight && state.connected) {
            RequestStage::Sent
        } else {
            RequestStage::Unsent
        }
    }

    pub(crate) fn reset(&self) {
        *self.lock() = State::default();
    }

    pub(crate) fn start_attempt(&self) {
        let mut state = self.lock();
        (state.in_flight, state.connected) = (true, false);
    }

    pub(crate) fn finish_attempt<T>(&self, result: &Result<T, ProvisionError>) {
        let mut state = self.lock();
        state.in_flight = false;
        match result {
            Ok(_) => state.answered = true,
            // A gateway's 503 can hide a success, as its 502 can, while another attempt may follow.
            Err(error) => {
                state.ambiguous |=
                    error.may_have_registered() || matches!(error, ProvisionError::Server { .. });
            }
        }
    }

    /// Ignores poisoning: no update can panic halfway.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for AttemptTracker {
    type Service = ConnectObserver<S>;

    fn layer(&self, inner: S) -> ConnectObserver<S> {
        ConnectObserver {
            inner,
            tracker: self.clone(),
        }
    }
}

/// A connector that records established connections.
#[derive(Debug, Clone)]
pub(crate) struct ConnectObserver<S> {
    inner: S,
    tracker: AttemptTracker,
}

impl<S, R> Service<R> for ConnectObserver<S>
where
    S: Service<R>,
    S::Future: Send + 'static,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<S::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let (connecting, tracker) = (self.inner.call(request), self.tracker.clone());
        Box::pin(async move {
            let connection = connecting.await?;
            tracker.lock().connected = true;
            Ok(connection)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> Result<(), ProvisionError> {
        Err(ProvisionError::Server {
            url: "https://api.example".to_owned(),
            status: 503,
            message: None,
            retry_after: None,
        })
    }

    fn unreachable() -> Result<(), ProvisionError> {
        Err(ProvisionError::Unreachable {
            url: "https://api.example".to_owned(),
            reason: "refused".into(),
        })
    }

    #[test]
    fn connection_marks_sent_and_ambiguity_persists() {
        let tracker = AttemptTracker::default();
        tracker.reset();
        assert_eq!(tracker.stage(), RequestStage::Unsent);
        tracker.start_attempt();
        assert_eq!(tracker.stage(), RequestStage::Unsent);
        tracker.lock().connected = true;
        assert_eq!(tracker.stage(), RequestStage::Sent);
        tracker.finish_attempt(&unreachable());
        assert_eq!(tracker.stage(), RequestStage::Unsent);
        tracker.start_attempt();
        tracker.finish_attempt(&server());
        assert_eq!(tracker.stage(), RequestStage::Sent);
        tracker.start_attempt();
        tracker.finish_attempt(&unreachable());
        assert_eq!(tracker.stage(), RequestStage::Sent);
        tracker.start_attempt();
        tracker.finish_attempt(&Ok(()));
        assert_eq!(tracker.stage(), RequestStage::Answered);
        tracker.reset();
        assert_eq!(tracker.stage(), RequestStage::Unsent);
    }
}
