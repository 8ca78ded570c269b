//! The configuration of the session with the broker, from the device's configuration.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;
use cloud_config::{DeviceConfig, SerialNumber};
use cloud_iot::rustls::sign::CertifiedKey;
use cloud_iot::{Message, QoS, Router, SessionConfig, Subscription, tls};
use cloud_shadow::ShadowId;
use tokio::sync::broadcast;
use tower::BoxError;

use crate::error::InitializeError;
use crate::event::Event;
use crate::topics::{Action, CONFIG_SHADOW, DeviceTopics, OFFLINE, ONLINE, PLATFORM};

/// Changes the configuration of the session with the broker.
#[derive(Clone)]
pub(crate) struct ConfigureSession(Arc<dyn Fn(SessionConfig) -> SessionConfig + Send + Sync>);

impl Default for ConfigureSession {
    fn default() -> Self {
        Self::new(|config| config)
    }
}

impl ConfigureSession {
    pub(crate) fn new(
        change: impl Fn(SessionConfig) -> SessionConfig + Send + Sync + 'static,
    ) -> Self {
        Self(Arc::new(change))
    }

    pub(crate) fn apply(&self, config: SessionConfig) -> SessionConfig {
        (self.0)(config)
    }
}

impl fmt::Debug for ConfigureSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ConfigureSession")
    }
}

/// AWS IoT Core's port for MQTT with client certificates.
const MQTT_PORT: u16 = 8883;

/// Returns the ID of the configuration shadow.
pub(crate) fn config_shadow<R>(device: &DeviceConfig<R>) -> Result<ShadowId, InitializeError> {
    Ok(ShadowId::named(
        device.iot_thing_name.as_str(),
        CONFIG_SHADOW,
    )?)
}

pub(crate) fn session_config<R>(
    device: &DeviceConfig<R>,
    serial_number: &SerialNumber,
    topics: &DeviceTopics,
    identity: Option<CertifiedKey>,
    change: &ConfigureSession,
) -> Result<SessionConfig, InitializeError> {
    if device.iot_thing_name.as_str() != serial_number.as_str() {
        tracing::warn!(
            thing = %device.iot_thing_name, %serial_number,
            "the thing name differs from the serial number; shadow topics contain the thing name, all others the serial number"
        );
    }
    let roots = device.iot_roots.certificates().iter().cloned();
    let tls = match identity {
        None => tls::client_config(roots, device.iot.chain().to_vec(), device.iot.key())?,
        Some(identity) => tls::client_config_with_identity(roots, identity)?,
    };
    let endpoint = &device.iot_endpoint;
    let (host, client_id) = (endpoint.host.as_str(), device.iot_thing_name.as_str());
    let new = SessionConfig::new(host, client_id, Arc::clone(&tls));
    let mut config = change.apply(new.port(endpoint.port_or(MQTT_PORT)));
    (config.host, config.client_id) = (host.to_owned(), client_id.to_owned());
    config.port = endpoint.port_or(MQTT_PORT);
    config.tls = tls;
    config.will = Some(Message::new(topics.status(), OFFLINE).qos(QoS::AtMostOnce));
    config.birth = Some(Message::new(topics.status(), ONLINE));
    config.goodbye = Some(Message::new(topics.status(), OFFLINE));
    let shadow = config_shadow(device)?;
    // Without the answers there are neither tokens nor certificates.
    let mut subscriptions = vec![Subscription::new(topics.answers())?.required()];
    for filter in std::iter::once(PLATFORM.to_owned()).chain(shadow.filters()) {
        subscriptions.push(Subscription::new(filter)?);
    }
    config.subscriptions.splice(0..0, subscriptions);
    Ok(config)
}

/// A route of the platform's messages of one action.
pub(crate) struct ActionRoute {
    pub(crate) action: Action,
    pub(crate) handle: Arc<ActionHandle>,
}

type ActionHandle =
    dyn Fn(Bytes) -> Pin<Box<dyn Future<Output = Result<(), BoxError>> + Send>> + Send + Sync;

/// Routes the platform's messages to the event channel, and to the host's handlers of actions.
pub(crate) fn router(
    topics: &DeviceTopics,
    events: &broadcast::Sender<Event>,
    actions: Vec<ActionRoute>,
) -> Result<Router, InitializeError> {
    // Late responses to these requests contain secrets, so they are not forwarded.
    let secret = topics.secret();
    let events = events.clone();
    let emit = tower::service_fn(move |message: Message| {
        if secret.contains(&message.topic) {
            tracing::debug!(
                topic = message.topic,
                "ignored a response without a pending request"
            );
        } else {
            // An error means that there is no receiver.
            let _ = events.send(Event::PlatformMessageReceived {
                topic: message.topic,
                payload: message.payload,
            });
        }
        std::future::ready(Ok::<(), BoxError>(()))
    });
    let mut router = Router::new()
        .route(PLATFORM, emit.clone())?
        .route(topics.answers(), emit)?;
    for ActionRoute { action, handle } in actions {
        let handler = tower::service_fn(move |message: Message| handle(message.payload));
        router = router.route(topics.answer(&action), handler)?;
    }
    Ok(router)
}
