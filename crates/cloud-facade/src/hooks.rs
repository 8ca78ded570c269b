//! Hooks: callbacks of the host application at points in the life of the connection.
//!
//! Hooks of one point run concurrently. Each has [`HOOK_TIME_LIMIT`]; a failure, panic or timeout
//! is logged and affects neither other hooks nor the connection. A stop cancels running hooks,
//! except those that it runs itself.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::{LogThrottle, UntrustedText, error_throttled, warn_throttled};
use futures_util::future::join_all;

/// Time limit of a hook. Hooks that run before ONLINE delay it, so the limit is short; and it is
/// shorter than the session's own limit (10 s), to which all hooks together count as one.
pub const HOOK_TIME_LIMIT: Duration = Duration::from_secs(8);

/// A point in the life of the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum HookPoint {
    /// The configuration is loaded; nothing is connected yet.
    Initialized,
    /// IoT messaging and remote access have been started.
    Started,
    /// Everything has been stopped.
    Stopped,
    /// All subscriptions are granted; ONLINE is published after the hooks.
    IotConnected,
    /// The connection to the broker was lost.
    IotDisconnected,
    /// The tunnel is open and its PING was answered.
    RemoteConnected,
    /// The tunnel was lost.
    RemoteDisconnected,
}

tokio::task_local! {
    /// Set in the task of a hook.
    static IN_HOOK: ();
}

/// Whether the caller is a hook, which must not wait for an operation that waits for hooks.
pub(crate) fn called_by_hook() -> bool {
    IN_HOOK.try_with(|()| ()).is_ok()
}

type HookError = Box<dyn std::error::Error + Send + Sync>;
type HookFuture = Pin<Box<dyn Future<Output = Result<(), HookError>> + Send>>;
type Hook = Arc<dyn Fn() -> HookFuture + Send + Sync>;

/// The host application's hooks, any number for each [`HookPoint`].
///
/// A hook may call [`ClesydeCloud::stop`](crate::ClesydeCloud::stop), which returns at once. It should
/// hold a [`WeakClesydeCloud`](crate::WeakClesydeCloud): a `ClesydeCloud` in its own hook is never
/// dropped.
///
/// ```
/// use cloud_facade::{Hooks, HookPoint};
///
/// let hooks = Hooks::new()
///     .on(HookPoint::IotConnected, || async { println!("online"); Ok(()) })
///     .on(HookPoint::Stopped, || async { Err("this error is only logged".into()) });
/// assert_eq!(hooks.count(HookPoint::Stopped), 1);
/// ```
#[derive(Clone, Default)]
pub struct Hooks {
    hooks: Vec<(HookPoint, Hook)>,
    /// Limits the warnings about failing hooks, which may run at each connection.
    log: Arc<LogThrottle>,
}

impl Hooks {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a hook.
    #[must_use]
    pub fn on<F, Fut>(mut self, point: HookPoint, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        self.hooks.push((point, Arc::new(move || Box::pin(hook()))));
        self
    }

    /// Returns the hooks with a log throttle of their own.
    pub(crate) fn for_device(self) -> Self {
        let log = Arc::default();
        Self { log, ..self }
    }

    /// Returns the number of hooks at a point.
    pub fn count(&self, point: HookPoint) -> usize {
        self.hooks.iter().filter(|(at, _)| *at == point).count()
    }

    /// Runs all hooks of a point concurrently; returns when the last one has ended, or after
    /// [`HOOK_TIME_LIMIT`].
    pub(crate) async fn run(&self, point: HookPoint) {
        self.run_within(point, HOOK_TIME_LIMIT).await;
    }

    /// Like [`Self::run`], with another time limit.
    pub(crate) async fn run_within(&self, point: HookPoint, limit: Duration) {
        let running = self
            .hooks
            .iter()
            .filter(|(at, _)| *at == point)
            .map(|(_, hook)| {
                let hook = Arc::clone(hook);
                // Called inside the task, so that a panic of the call itself is caught too.
                let call = IN_HOOK.scope((), async move { hook().await });
                let mut task = AbortOnDrop(tokio::spawn(call));
                let log = Arc::clone(&self.log);
                async move {
                    match tokio::time::timeout(limit, &mut task.0).await {
                        Ok(Ok(Ok(()))) => {}
                        Ok(Ok(Err(error))) => {
                            let error = UntrustedText::of(&error);
                            warn_throttled!(log, ?point, %error, "a hook failed");
                        }
                        Ok(Err(_)) => error_throttled!(log, ?point, "a hook panicked"),
                        Err(_) => {
                            warn_throttled!(
                                log,
                                ?point,
                                ?limit,
                                "a hook timed out and was cancelled"
                            )
                        }
                    }
                }
            });
        join_all(running).await;
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.hooks.iter().map(|(point, _)| point))
            .finish()
    }
}

/// A hook's task must not outlive the wait for it.
struct AbortOnDrop(tokio::task::JoinHandle<Result<(), HookError>>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    fn panics_when_called() -> HookFuture {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn hook_is_detected_as_caller() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let hooks = Hooks::new().on(HookPoint::Started, move || {
            let sent = sender.send(called_by_hook());
            async move { sent.map_err(Into::into) }
        });
        hooks.run(HookPoint::Started).await;
        assert_eq!(receiver.try_recv(), Ok(true));
        assert!(!called_by_hook());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_panicking_and_hanging_hooks_are_isolated() {
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = {
            let ran = ran.clone();
            move || {
                let ran = ran.clone();
                async move {
                    ran.fetch_add(1, Ordering::Relaxed);
                    Ok(())
                }
            }
        };
        let hooks = Hooks::new()
            .on(HookPoint::Started, || async { Err("no".into()) })
            .on(HookPoint::Started, || async { panic!("on purpose") })
            .on(HookPoint::Started, panics_when_called)
            .on(HookPoint::Started, std::future::pending)
            .on(HookPoint::Started, counted.clone())
            .on(HookPoint::Stopped, counted);
        let begun = tokio::time::Instant::now();
        hooks.run(HookPoint::Started).await;
        assert_eq!(
            ran.load(Ordering::Relaxed),
            1,
            "the good one ran, and no hook of another point"
        );
        assert_eq!(
            begun.elapsed(),
            HOOK_TIME_LIMIT,
            "the hanging one was ended"
        );
    }
}
