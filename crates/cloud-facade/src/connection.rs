//! What the broker is told of this device: the session's configuration, from the directory's.

use cloud_config::{DeviceConfig, SerialNumber};
use cloud_iot::{Message, QoS, Router, SessionConfig, Subscription, tls};
use cloud_shadow::ShadowId;
use tokio::sync::broadcast;
use tower::BoxError;

use crate::event::Event;
use crate::initialize::InitializeError;
use crate::topics::{
    CERTIFICATE, CONFIG_SHADOW, DeviceTopics, IOT_CERTIFICATE, OFFLINE, ONLINE, PLATFORM, TOKEN,
};

/// AWS IoT Core's port for MQTT with client certificates.
const MQTT_PORT: u16 = 8883;

/// The shadow that carries the device's configuration.
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
) -> Result<SessionConfig, InitializeError> {
    if device.iot_thing_name.as_str() != serial_number.as_str() {
        tracing::warn!(
            thing = %device.iot_thing_name, %serial_number,
            "the thing name is not the serial number; shadow topics carry the one, all others the other"
        );
    }
    let tls = tls::client_config(
        device.iot_roots.certificates().iter().cloned(),
        device.iot.chain().to_vec(),
        device.iot.key(),
    )?;
    let endpoint = &device.iot_endpoint;
    let mut config =
        SessionConfig::new(endpoint.host.as_str(), device.iot_thing_name.as_str(), tls);
    config.port = endpoint.port_or(MQTT_PORT);
    config.will = Some(Message::new(topics.status(), OFFLINE).qos(QoS::AtMostOnce));
    config.birth = Some(Message::new(topics.status(), ONLINE));
    config.goodbye = Some(Message::new(topics.status(), OFFLINE));
    let shadow = config_shadow(device)?;
    config.subscriptions = [PLATFORM.to_owned(), topics.answers()]
        .into_iter()
        .chain(shadow.filters())
        .map(Subscription::new)
        .collect::<Result<_, _>>()?;
    Ok(config)
}

/// Hands the platform's own messages to whoever listens for events.
pub(crate) fn router(
    topics: &DeviceTopics,
    events: &broadcast::Sender<Event>,
) -> Result<Router, InitializeError> {
    // Late answers to these carry secrets for keys that are gone; nobody may see them, and nobody needs them.
    let secret = [&TOKEN, &CERTIFICATE, &IOT_CERTIFICATE].map(|action| topics.answer(action));
    let events = events.clone();
    let tell = tower::service_fn(move |message: Message| {
        if secret.contains(&message.topic) {
            tracing::debug!(
                topic = message.topic,
                "an answer that nobody waits for is ignored"
            );
        } else {
            // An error means that nobody listens.
            let _ = events.send(Event::PlatformMessage {
                topic: message.topic,
                payload: message.payload,
            });
        }
        std::future::ready(Ok::<(), BoxError>(()))
    });
    Ok(Router::new()
        .route(PLATFORM, tell.clone())?
        .route(topics.answers(), tell)?)
}
