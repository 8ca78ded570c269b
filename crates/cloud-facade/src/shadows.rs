//! Named shadows of the host, besides the configuration shadow.
//!
//! They are fetched after each connection, and again after lost messages. Only the host uses their
//! content.

use std::sync::Arc;

use cloud_config::DeviceConfig;
use cloud_iot::{Session, SessionEvent, Subscription, TopicError};
use cloud_shadow::{InFlightLimit, ShadowClient, ShadowConfig, ShadowId};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use crate::adapters::ShadowBus;
use crate::error::InitializeError;
use crate::topics::CONFIG_SHADOW;

/// Returns the IDs of the shadows with these names, without duplicates.
pub(crate) fn ids<R>(
    device: &DeviceConfig<R>,
    names: &[String],
) -> Result<Vec<ShadowId>, InitializeError> {
    let mut ids: Vec<ShadowId> = Vec::with_capacity(names.len());
    for name in names.iter().filter(|name| *name != CONFIG_SHADOW) {
        let id = ShadowId::named(device.iot_thing_name.as_str(), name)?;
        if !ids.contains(&id) {
            ids.push(id);
        }
    }
    Ok(ids)
}

/// Returns the subscriptions for these shadows.
pub(crate) fn subscriptions(ids: &[ShadowId]) -> Result<Vec<Subscription>, TopicError> {
    ids.iter()
        .flat_map(ShadowId::filters)
        .map(Subscription::new)
        .collect()
}

/// What the client of another shadow of this device needs.
#[derive(Clone)]
pub(crate) struct ShadowSource {
    pub(crate) bus: ShadowBus,
    pub(crate) in_flight_limit: InFlightLimit,
    pub(crate) thing_name: String,
}

/// The clients of the shadows and their task. Dropping it ends them.
pub(crate) struct Shadows {
    clients: Vec<ShadowClient>,
    follower: JoinSet<()>,
}

impl Shadows {
    pub(crate) async fn start(
        bus: &ShadowBus,
        ids: Vec<ShadowId>,
        in_flight_limit: &InFlightLimit,
    ) -> Result<Self, InitializeError> {
        let lost = Arc::new(Notify::new());
        let mut clients = Vec::with_capacity(ids.len());
        for id in ids {
            let bus = ShadowBus {
                lost: Arc::clone(&lost),
                ..bus.clone()
            };
            let config = ShadowConfig::new(id).in_flight_limit(in_flight_limit.clone());
            clients.push(ShadowClient::start(bus, config).await?);
        }
        let mut follower = JoinSet::new();
        if !clients.is_empty() {
            let events = bus.session.events();
            follower.spawn(follow(clients.clone(), bus.session.clone(), events, lost));
        }
        Ok(Self { clients, follower })
    }

    pub(crate) fn get(&self, name: &str) -> Option<ShadowClient> {
        let is_it = |client: &&ShadowClient| client.id().name() == Some(name);
        self.clients.iter().find(is_it).cloned()
    }

    pub(crate) async fn stop(&mut self) {
        self.follower.shutdown().await;
        for client in &self.clients {
            client.stop().await;
        }
    }
}

/// Fetches the shadows after each connection, after missed session events, and after lost messages.
pub(crate) async fn follow(
    clients: Vec<ShadowClient>,
    session: Session,
    mut events: Receiver<SessionEvent>,
    lost: Arc<Notify>,
) {
    // The first connection may precede the subscription to events.
    let mut online = session.state().borrow().is_online();
    drop(session);
    loop {
        if online {
            for client in &clients {
                client.connected().await;
            }
        }
        online = tokio::select! {
            event = events.recv() => match event {
                Ok(SessionEvent::Connected) | Err(RecvError::Lagged(_)) => true,
                Ok(_) => false,
                Err(RecvError::Closed) => return,
            },
            () = lost.notified() => {
                for client in &clients {
                    client.resync().await;
                }
                false
            }
        };
    }
}
