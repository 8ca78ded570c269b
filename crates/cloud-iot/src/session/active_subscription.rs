//! Subscriptions that are added while the session runs.

use std::fmt;
use std::sync::Arc;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::core::Granted;
use crate::driver::shared::Shared;
use crate::error::SubscribeError;
use crate::mqtt::message::Subscription;
use crate::mqtt::topic::TopicFilter;

/// A subscription that was added while the session runs, on this connection and all later ones; see
/// [`Session::subscribe`](crate::Session::subscribe). Dropping it unsubscribes, unless
/// the configuration or another one of these has the same filter.
#[must_use = "dropping it unsubscribes"]
pub struct ActiveSubscription {
    shared: Arc<Shared>,
    filter: TopicFilter,
    granted: Answer,
}

enum Answer {
    Known(Granted),
    Waiting(oneshot::Receiver<Granted>),
}

impl ActiveSubscription {
    pub(crate) fn add(
        shared: &Arc<Shared>,
        subscription: Subscription,
    ) -> Result<Self, SubscribeError> {
        let filter = subscription.filter.clone();
        let add =
            |core: &mut crate::core::Core| core.add_subscription(subscription, Instant::now());
        let granted = Answer::Waiting(shared.with_core(add)?);
        Ok(Self {
            shared: Arc::clone(shared),
            filter,
            granted,
        })
    }

    /// Returns the topic filter.
    pub fn filter(&self) -> &TopicFilter {
        &self.filter
    }

    /// Waits until the server has granted the subscription, the first time. Without a connection it
    /// waits for one. A subscription that is refused is made again on each connection.
    ///
    /// # Errors
    ///
    /// [`SubscribeError::Refused`], or [`SubscribeError::Stopped`].
    ///
    /// # Cancel safety
    ///
    /// The future can be dropped, and the method called again.
    pub async fn granted(&mut self) -> Result<(), SubscribeError> {
        if let Answer::Waiting(receiver) = &mut self.granted {
            let granted = receiver.await.unwrap_or(Err(SubscribeError::Stopped));
            self.granted = Answer::Known(granted);
        }
        match &self.granted {
            Answer::Known(granted) => granted.clone(),
            Answer::Waiting(_) => Err(SubscribeError::Stopped),
        }
    }
}

impl Drop for ActiveSubscription {
    fn drop(&mut self) {
        let release = |core: &mut crate::core::Core| {
            core.release_subscription(&self.filter, Instant::now());
        };
        self.shared.with_core(release);
    }
}

impl fmt::Debug for ActiveSubscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("ActiveSubscription")
            .field(&self.filter)
            .finish()
    }
}
