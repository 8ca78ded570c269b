//! Runs the hooks of the host, isolated from each other and from the connection.

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

pub(crate) type HookError = Box<dyn std::error::Error + Send + Sync>;
pub(crate) type HookFuture = Pin<Box<dyn Future<Output = Result<(), HookError>> + Send>>;
pub(crate) type Hook = Box<dyn Fn() -> HookFuture + Send + Sync>;

/// The hooks of one device. Clones share them.
#[derive(Clone)]
pub(crate) struct HookRunner {
    hooks: Arc<[(HookPoint, Hook)]>,
    /// Limits the warnings about failing hooks, which may run at each connection.
    log: Arc<LogThrottle>,
}

impl HookRunner {
    pub(crate) fn new(hooks: impl IntoIterator<Item = (HookPoint, Hook)>) -> Self {
        Self {
            hooks: hooks.into_iter().collect(),
            log: Arc::default(),
        }
    }

    /// Whether there are hooks at a point.
    pub(crate) fn has(&self, point: HookPoint) -> bool {
        self.hooks.iter().any(|(at, _)| *at == point)
    }

    /// Runs all hooks of a point concurrently; returns when the last one has ended, or after
    /// [`HOOK_TIME_LIMIT`].
    pub(crate) async fn run(&self, point: HookPoint) {
        self.run_within(point, HOOK_TIME_LIMIT).await;
    }

    /// Like [`Self::run`], with another time limit.
    pub(crate) async fn run_within(&self, point: HookPoint, limit: Duration) {
        let indices = (0..self.hooks.len()).filter(|index| self.hooks[*index].0 == point);
        let running = indices.map(|index| {
            let hooks = Arc::clone(&self.hooks);
            // Called inside the task, so that a panic of the call itself is caught too.
            let call = IN_HOOK.scope((), async move { (hooks[index].1)().await });
            let mut task = AbortOnDrop(tokio::spawn(call));
            let log = &self.log;
            async move {
                match tokio::time::timeout(limit, &mut task.0).await {
                    Ok(Ok(Ok(()))) => {}
                    Ok(Ok(Err(error))) => {
                        let error = UntrustedText::of(&error);
                        warn_throttled!(log, ?point, %error, "a hook failed");
                    }
                    Ok(Err(_)) => error_throttled!(log, ?point, "a hook panicked"),
                    Err(_) => {
                        warn_throttled!(log, ?point, ?limit, "a hook timed out and was cancelled")
                    }
                }
            }
        });
        join_all(running).await;
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

    fn hook<Fut>(hook: impl Fn() -> Fut + Send + Sync + 'static) -> Hook
    where
        Fut: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        Box::new(move || Box::pin(hook()))
    }

    fn panics_when_called() -> HookFuture {
        panic!("on purpose")
    }

    #[tokio::test]
    async fn hook_is_detected_as_caller() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let sends = hook(move || {
            let sent = sender.send(called_by_hook());
            async move { sent.map_err(Into::into) }
        });
        let hooks = HookRunner::new([(HookPoint::Started, sends)]);
        hooks.run(HookPoint::Started).await;
        assert_eq!(receiver.try_recv(), Ok(true));
        assert!(!called_by_hook());
    }

    #[tokio::test(start_paused = true)]
    async fn failing_panicking_and_hanging_hooks_are_isolated() {
        let ran = Arc::new(AtomicUsize::new(0));
        let counted = || {
            let ran = ran.clone();
            hook(move || {
                ran.fetch_add(1, Ordering::Relaxed);
                async { Ok(()) }
            })
        };
        let hooks = HookRunner::new([
            (HookPoint::Started, hook(|| async { Err("no".into()) })),
            (HookPoint::Started, hook(|| async { panic!("on purpose") })),
            (HookPoint::Started, hook(panics_when_called)),
            (HookPoint::Started, hook(std::future::pending)),
            (HookPoint::Started, counted()),
            (HookPoint::Stopped, counted()),
        ]);
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
