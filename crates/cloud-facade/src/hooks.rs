//! Hooks: callbacks of the host application at points in the life of the connection.

use std::fmt;
use std::future::Future;
use std::sync::Arc;

use crate::cloud::WeakClesydeCloud;
use crate::hook_runner::{HookError, HookFuture, HookPoint, HookRunner};

/// A hook that is not bound to a device yet.
type Hook = Arc<dyn Fn(WeakClesydeCloud) -> HookFuture + Send + Sync>;

/// The host application's hooks, any number for each [`HookPoint`].
///
/// Hooks of one point run concurrently. Each has [`HOOK_TIME_LIMIT`](crate::HOOK_TIME_LIMIT); a
/// failure, panic or timeout is logged and affects neither other hooks nor the connection. A stop
/// cancels running hooks, except those that it runs itself.
///
/// A hook receives a [`WeakClesydeCloud`] of its device. It may call
/// [`ClesydeCloud::stop`](crate::ClesydeCloud::stop), which returns at once.
///
/// ```
/// use cloud_facade::{Hooks, HookPoint};
///
/// let hooks = Hooks::new()
///     .on(HookPoint::IotConnected, |cloud| async move {
///         if let Some(cloud) = cloud.upgrade() {
///             println!("{} is online", cloud.serial_number());
///         }
///         Ok(())
///     })
///     .on(HookPoint::Stopped, |_| async { Err("this error is only logged".into()) });
/// assert_eq!(hooks.count(HookPoint::Stopped), 1);
/// ```
#[derive(Clone, Default)]
pub struct Hooks(Vec<(HookPoint, Hook)>);

impl Hooks {
    /// Creates an empty set.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a hook.
    #[must_use]
    pub fn on<F, Fut>(mut self, point: HookPoint, hook: F) -> Self
    where
        F: Fn(WeakClesydeCloud) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<(), HookError>> + Send + 'static,
    {
        self.0
            .push((point, Arc::new(move |cloud| Box::pin(hook(cloud)))));
        self
    }

    /// Returns the number of hooks at a point.
    pub fn count(&self, point: HookPoint) -> usize {
        self.0.iter().filter(|(at, _)| *at == point).count()
    }

    /// Returns the hooks of a device.
    pub(crate) fn bind(self, cloud: &WeakClesydeCloud) -> HookRunner {
        HookRunner::new(self.0.into_iter().map(|(point, hook)| {
            let cloud = cloud.clone();
            let bound: crate::hook_runner::Hook = Box::new(move || hook(cloud.clone()));
            (point, bound)
        }))
    }
}

impl fmt::Debug for Hooks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list()
            .entries(self.0.iter().map(|(point, _)| point))
            .finish()
    }
}
