//! Named shadows that the host opens while the device runs.

use std::fmt;
use std::sync::Arc;

use cloud_iot::{ActiveSubscription, Session, SubscribeError, Subscription};
use cloud_shadow::{ShadowClient, ShadowConfig, ShadowId};
use tokio::sync::Notify;
use tokio::task::JoinSet;

use crate::adapters::ShadowBus;
use crate::error::NotRunning;
use crate::shadows::{ShadowSource, follow};

/// A named shadow that was opened while the device runs; see
/// [`ClesydeCloud::open_shadow`](crate::ClesydeCloud::open_shadow). Dropping it ends its
/// subscriptions, unless the configuration or another one has the same shadow.
pub struct OpenedShadow {
    client: ShadowClient,
    subscriptions: Vec<ActiveSubscription>,
    _follower: JoinSet<()>,
}

/// An error of opening a shadow.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenShadowError {
    /// It is not running.
    #[error(transparent)]
    NotRunning(#[from] NotRunning),
    /// The name is not that of a shadow.
    #[error(transparent)]
    Name(#[from] cloud_shadow::InvalidName),
    /// The session rejected a subscription.
    #[error(transparent)]
    Subscribe(#[from] SubscribeError),
    /// A filter is not valid.
    #[error(transparent)]
    Filter(#[from] cloud_iot::TopicError),
    /// The client did not start.
    #[error(transparent)]
    Start(#[from] cloud_shadow::StartError),
}

impl OpenedShadow {
    pub(crate) async fn open(source: ShadowSource, name: &str) -> Result<Self, OpenShadowError> {
        let ShadowSource {
            bus,
            in_flight_limit,
            thing_name,
        } = source;
        let id = ShadowId::named(&thing_name, name)?;
        let mut subscriptions = Vec::new();
        for filter in id.filters() {
            subscriptions.push(bus.session.subscribe(Subscription::new(filter)?)?);
        }
        let bus = ShadowBus {
            lost: Arc::new(Notify::new()),
            ..bus
        };
        let session: Session = bus.session.clone();
        let (events, lost) = (session.events(), Arc::clone(&bus.lost));
        let config = ShadowConfig::new(id).in_flight_limit(in_flight_limit);
        let client = ShadowClient::start(bus, config).await?;
        let mut follower = JoinSet::new();
        follower.spawn(follow(vec![client.clone()], session, events, lost));
        Ok(Self {
            client,
            subscriptions,
            _follower: follower,
        })
    }

    /// Waits until the broker has granted the subscriptions, without which no request has an
    /// answer. Without a connection it waits for one.
    ///
    /// # Errors
    /// [`SubscribeError`].
    ///
    /// # Cancel safety
    /// The future can be dropped, and the method called again.
    pub async fn granted(&mut self) -> Result<(), SubscribeError> {
        for subscription in &mut self.subscriptions {
            subscription.granted().await?;
        }
        Ok(())
    }

    /// Returns the client, which works as long as this value exists.
    pub fn client(&self) -> &ShadowClient {
        &self.client
    }
}

impl fmt::Debug for OpenedShadow {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("OpenedShadow")
            .field(self.client.id())
            .finish()
    }
}
