//! How far a registration has come, for whoever gives one up.
//!
//! Whoever drops the future of a registration has no error to go by. What became of the key is known here: a request goes out
//! right after its connection is made, and that is noticed by a layer around whatever makes connections.

use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tower::{Layer, Service};

use crate::error::ProvisionError;

/// How far a registration has come. See [`Client::stage`](crate::Client::stage).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stage {
    /// The platform has not been asked, or has said that it did not register the device. The key is as good as before.
    Unsent,
    /// The platform has been asked, and it is not known what came of it: it may have registered the device and used up the key.
    Sent,
    /// The platform has registered the device, and its answer is here.
    Answered,
}

/// Clones are the same.
#[derive(Debug, Clone, Default)]
pub(crate) struct Progress(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// An attempt is under way.
    asking: bool,
    /// That attempt has a connection.
    connected: bool,
    /// An attempt before it ended so that it may have registered the device.
    doubt: bool,
    answered: bool,
}

impl Progress {
    pub(crate) fn stage(&self) -> Stage {
        let state = self.lock();
        if state.answered {
            Stage::Answered
        } else if state.doubt || (state.asking && state.connected) {
            Stage::Sent
        } else {
            Stage::Unsent
        }
    }

    /// A registration begins.
    pub(crate) fn begin(&self) {
        *self.lock() = State::default();
    }

    /// An attempt begins.
    pub(crate) fn ask(&self) {
        let mut state = self.lock();
        (state.asking, state.connected) = (true, false);
    }

    /// It has ended.
    pub(crate) fn end<T>(&self, result: &Result<T, ProvisionError>) {
        let mut state = self.lock();
        state.asking = false;
        match result {
            Ok(_) => state.answered = true,
            // A gateway's 503 can hide a success as well as its 502, as long as another attempt may follow.
            Err(error) => {
                state.doubt |=
                    error.may_have_registered() || matches!(error, ProvisionError::Server { .. });
            }
        }
    }

    /// Nothing is left half-done under this that a panic could expose.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<S> Layer<S> for Progress {
    type Service = Noticing<S>;

    fn layer(&self, inner: S) -> Noticing<S> {
        Noticing {
            inner,
            progress: self.clone(),
        }
    }
}

/// Notices connections that are made.
#[derive(Debug, Clone)]
pub(crate) struct Noticing<S> {
    inner: S,
    progress: Progress,
}

impl<S, R> Service<R> for Noticing<S>
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
        let (connecting, progress) = (self.inner.call(request), self.progress.clone());
        Box::pin(async move {
            let connection = connecting.await?;
            progress.lock().connected = true;
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
    fn a_request_is_out_with_its_connection_and_a_doubt_stays() {
        let progress = Progress::default();
        progress.begin();
        assert_eq!(progress.stage(), Stage::Unsent);
        progress.ask();
        assert_eq!(progress.stage(), Stage::Unsent);
        progress.lock().connected = true;
        assert_eq!(progress.stage(), Stage::Sent);
        progress.end(&unreachable());
        assert_eq!(progress.stage(), Stage::Unsent);
        progress.ask();
        progress.end(&server());
        assert_eq!(progress.stage(), Stage::Sent);
        progress.ask();
        progress.end(&unreachable());
        assert_eq!(progress.stage(), Stage::Sent);
        progress.ask();
        progress.end(&Ok(()));
        assert_eq!(progress.stage(), Stage::Answered);
        progress.begin();
        assert_eq!(progress.stage(), Stage::Unsent);
    }
}
