//! On-connect and on-disconnect hooks.
//!
//! Hooks of one kind run concurrently. An error, a panic or a timeout of one is logged and affects
//! neither the others nor the session.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::{UntrustedText, warn_throttled};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::task::JoinSet;
use tower::BoxError;

use crate::error::cause::Cause;
use crate::log_throttles::LogThrottles;

type Outcome = Result<(), BoxError>;
type Hook<A> = Arc<dyn Fn(A) -> BoxFuture<'static, Outcome> + Send + Sync>;

/// Hooks by kind.
#[derive(Default)]
pub(crate) struct Hooks {
    connect: Vec<Hook<()>>,
    disconnect: Vec<Hook<Option<Arc<Cause>>>>,
}

impl Hooks {
    pub(crate) fn add_connect<F, Fut>(&mut self, hook: F)
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.connect.push(Arc::new(move |()| hook().boxed()));
    }

    pub(crate) fn add_disconnect<F, Fut>(&mut self, hook: F)
    where
        F: Fn(Option<Arc<Cause>>) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Outcome> + Send + 'static,
    {
        self.disconnect
            .push(Arc::new(move |cause| hook(cause).boxed()));
    }

    pub(crate) fn run_connect(
        &self,
        running: &mut JoinSet<()>,
        limit: Duration,
        throttles: &Arc<LogThrottles>,
    ) {
        run(&self.connect, "connect", (), running, limit, throttles);
    }

    pub(crate) fn run_disconnect(
        &self,
        cause: Option<Arc<Cause>>,
        running: &mut JoinSet<()>,
        limit: Duration,
        throttles: &Arc<LogThrottles>,
    ) {
        run(
            &self.disconnect,
            "disconnect",
            cause,
            running,
            limit,
            throttles,
        );
    }
}

fn run<A: Clone + Send + 'static>(
    hooks: &[Hook<A>],
    kind: &'static str,
    argument: A,
    running: &mut JoinSet<()>,
    limit: Duration,
    throttles: &Arc<LogThrottles>,
) {
    for hook in hooks {
        let (hook, argument) = (Arc::clone(hook), argument.clone());
        let throttles = Arc::clone(throttles);
        running.spawn(async move {
            // Called inside the task, so that a panic of the call is caught as well.
            match tokio::time::timeout(limit, async { hook(argument).await }).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    let error = UntrustedText::of(&error);
                    warn_throttled!(throttles.hook, kind, %error, "a hook failed");
                }
                Err(_) => {
                    warn_throttled!(throttles.hook, kind, ?limit, "a hook timed out");
                }
            }
        });
    }
}
