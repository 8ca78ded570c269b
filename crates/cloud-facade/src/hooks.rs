//! What the host application wants to be told while the cloud connection lives.
//!
//! Hooks of one moment run together. Each has [`HOOK_TIME_LIMIT`]; one that fails, panics or hangs is logged and harms neither
//! the others nor the connection. A stop ends those that still run, except the ones that it has itself caused.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use cloud_net::{LogThrottle, UntrustedText, error_throttled, warn_throttled};
use futures_util::future::join_all;

/// How long a hook may take. Hooks that run before ONLINE hold it back, so this is short; and it is shorter than what the
/// session gives its own hooks (10 s), of which all of ours together are one.
pub const HOOK_TIME_LIMIT: Duration = Duration::from_secs(8);

/// A moment in the life of the connection that hooks can be attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Moment {
    /// The configuration is loaded; nothing is connected yet.
    Initialized,
    /// IoT messaging and remote access have been started.
    Started,
    /// Everything has been stopped.
    Stopped,
    /// All subscriptions are granted; ONLINE goes out after the hooks.
    IotConnected,
    /// The connection to the broker is gone.
    IotDisconnected,
    /// The tunnel is up and has answered.
    RemoteConnected,
    /// The tunnel is gone.
    RemoteDisconnected,
}

tokio::task_local! {
    /// Set in the task of a hook.
    static IN_HOOK: ();
}

/// Whether the caller is a hook: it must not wait for what waits for it.
pub(crate) fn called_by_hook() -> bool {
    IN_HOOK.try_with(|()| ()).is_ok()
}

type HookError = Box<dyn std::error::Error + Send + Sync>;
type HookFuture = Pin<Box<dyn Future<Output = Result<(), HookError>> + Send>>;
type Hook = Arc<dyn Fn() -> HookFuture + Send + Sync>;

/// The host application's hooks, any number for each [`Moment`].
///
/// A hook may call [`ClesydeCloud::stop`](crate::ClesydeCloud::stop), which does not make it wait. It should hold a
/// [`WeakClesydeCloud`](crate::WeakClesydeCloud): one that holds a `ClesydeCloud` keeps it alive for ever, being a part of it.
///
/// ```
/// use cloud_facade::{Hooks, Moment};
///
/// let hooks = Hooks::new()
///     .on(Moment::IotConnected, || async { println!("online"); Ok(()) })
///     .on(Moment::Stopped, || async { Err("logged, and no more than that".into()) });
/// assert_eq!(hooks.count(Moment::Stopped), 1);
/// ```
#[derive(Clone, Default)]
pub struct Hooks {
    hooks: Vec<(Moment, Hook)>,
    /// Limits the warnings about hooks that fail: one that runs at each connection can do so each time.
    log: Arc<LogThrottle>,
}

impl Hooks {
    /// No hooks.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a hook for a moment.
    #[must_use]
    pub fn on<F, Fut>(mut self, moment: Moment, hook: F) -> Self
    where
        F: Fn() -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        self.hooks
            .push((moment, Arc::new(move || Box::pin(hook()))));
        self
    }

    /// The same hooks for one device, with a rate limit of its own for their warnings.
    pub(crate) fn for_device(self) -> Self {
        let log = Arc::default();
        Self { log, ..self }
    }

    /// How many hooks a moment has.
    pub fn count(&self, moment: Moment) -> usize {
        self.hooks.iter().filter(|(at, _)| *at == moment).count()
    }

    /// Runs all hooks of a moment together and returns when the last one has ended, or after [`HOOK_TIME_LIMIT`].
    pub(crate) async fn run(&self, moment: Moment) {
        self.run_within(moment, HOOK_TIME_LIMIT).await;
    }

    /// As [`Self::run`], with a time limit of the caller's.
    pub(crate) async fn run_within(&self, moment: Moment, limit: Duration) {
        let running = self
            .hooks
            .iter()
            .filter(|(at, _)| *at == moment)
            .map(|(_, hook)| {
                let hook = Arc::clone(hook);
                // Called in there, so that a panic of the call itself is caught as well.
                let call = IN_HOOK.scope((), async move { hook().await });
                let mut task = AbortOnDrop(tokio::spawn(call));
                let log = Arc::clone(&self.log);
                async move {
                    match tokio::time::timeout(limit, &mut task.0).await {
                        Ok(Ok(Ok(()))) => {}
                        Ok(Ok(Err(error))) => {
                            let error = UntrustedText::of(&error);
                            warn_throttled!(log, ?moment, %error, "a hook failed");
                        }
                        Ok(Err(_)) => error_throttled!(log, ?moment, "a hook panicked"),
                        Err(_) => {
                            warn_throttled!(
                                log,
                                ?moment,
                                ?limit,
                                "a hook took too long and was ended"
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
            .entries(self.hooks.iter().map(|(moment, _)| moment))
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
    async fn a_hook_is_known_as_such() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let hooks = Hooks::new().on(Moment::Started, move || {
            let sent = sender.send(called_by_hook());
            async move { sent.map_err(Into::into) }
        });
        hooks.run(Moment::Started).await;
        assert_eq!(receiver.try_recv(), Ok(true));
        assert!(!called_by_hook());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_a_panicking_and_a_hanging_hook_harm_nobody() {
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
            .on(Moment::Started, || async { Err("no".into()) })
            .on(Moment::Started, || async { panic!("on purpose") })
            .on(Moment::Started, panics_when_called)
            .on(Moment::Started, std::future::pending)
            .on(Moment::Started, counted.clone())
            .on(Moment::Stopped, counted);
        let begun = tokio::time::Instant::now();
        hooks.run(Moment::Started).await;
        assert_eq!(
            ran.load(Ordering::Relaxed),
            1,
            "the good one ran, and no hook of another moment"
        );
        assert_eq!(
            begun.elapsed(),
            HOOK_TIME_LIMIT,
            "the hanging one was ended"
        );
    }
}
