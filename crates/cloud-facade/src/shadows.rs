//! Shadows of the host's own, beside the one that carries the device's configuration.
//!
//! They are kept up to date as that one is: fetched after each connection, and anew where messages were lost. What is in them
//! is the host's affair; nothing else here looks at it.

use std::sync::Arc;

use cloud_config::DeviceConfig;
use cloud_iot::{SessionEvent, SessionHandle, Subscription, TopicError};
use cloud_shadow::{InFlightLimit, ShadowClient, ShadowConfig, ShadowId};
use tokio::sync::Notify;
use tokio::sync::broadcast::Receiver;
use tokio::sync::broadcast::error::RecvError;
use tokio::task::JoinSet;

use crate::adapters::Bus;
use crate::initialize::InitializeError;
use crate::topics::CONFIG_SHADOW;

/// The shadows with these names, each once.
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

/// What the session has to subscribe to for them.
pub(crate) fn subscriptions(ids: &[ShadowId]) -> Result<Vec<Subscription>, TopicError> {
    ids.iter()
        .flat_map(ShadowId::filters)
        .map(Subscription::new)
        .collect()
}

/// What runs for them. Dropping it ends it.
pub(crate) struct Shadows {
    clients: Vec<ShadowClient>,
    follower: JoinSet<()>,
}

impl Shadows {
    pub(crate) async fn start(
        bus: &Bus,
        ids: Vec<ShadowId>,
        in_flight_limit: &InFlightLimit,
    ) -> Result<Self, InitializeError> {
        let lost = Arc::new(Notify::new());
        let mut clients = Vec::with_capacity(ids.len());
        for id in ids {
            let bus = Bus {
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

/// Has them fetched after each connection, whenever it is not certain whether there was a new one, and where messages were
/// lost.
async fn follow(
    clients: Vec<ShadowClient>,
    session: SessionHandle,
    mut events: Receiver<SessionEvent>,
    lost: Arc<Notify>,
) {
    // Whoever came too late for the first connection goes by the state.
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
