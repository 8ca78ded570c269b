//! The one task that owns a connection: rumqttc's event loop, made anew for each connection.
//!
//! The task only polls and passes on; it decides nothing and never waits for anybody but the
//! [driver](crate::driver), which takes events without blocking. `poll` must not be given up
//! half-way, so that dropping the [`Connection`] drops the event loop with it.
//!
//! What rumqttc is kept from, because it would lose messages or hang: reconnecting by itself,
//! holding requests of its own, being handed more than the window, packets larger than the server
//! takes, topic aliases.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{ConnAck, Filter, LastWill, Packet, Publish, PublishProperties};
use rumqttc::v5::{AsyncClient, ConnectionError, Event, EventLoop, MqttOptions};
use rumqttc::{NetworkOptions, TlsConfiguration, Transport};
use tokio::sync::mpsc;
use tokio::task::{AbortHandle, JoinSet};
use tokio::time::timeout;

use crate::cause::Cause;
use crate::config::{Acknowledge, SessionConfig};
use crate::core::Port;
use crate::inbound::MAX_UNACKNOWLEDGED;
use crate::link::{Incoming, LinkEvent, ServerTerms};
use crate::message::{Message, QoS, Subscription};
use crate::outbox::Outgoing;
use crate::tls;

/// Events on their way to the driver. The driver empties it without waiting; this only evens out
/// bursts, and back-pressure on the socket begins beyond it.
pub(crate) const EVENTS: usize = 64;

/// Requests that may stand before the event loop besides messages and acknowledgements: a SUBSCRIBE
/// and a DISCONNECT, with some room.
const SPARE_REQUESTS: usize = 8;

/// What the system may hold for sending (Linux doubles it). Left to itself it takes megabytes,
/// behind which pings and acknowledgements of a slow uplink come too late. This is half a second
/// at the rate that AWS IoT Core allows.
const SEND_BUFFER_BYTES: u32 = 128 << 10;

/// What [`SessionConfig::keep_alive`] must not fall below, even if the server asks for it:
/// rumqttc panics.
const MIN_KEEP_ALIVE: Duration = Duration::from_secs(5);

/// The event loop did not take a request; it has ended, or its window was miscounted.
#[derive(Debug)]
pub(crate) struct NotTaken;

/// A connection being made, or made. Dropping it ends it at once.
#[derive(Debug)]
pub(crate) struct Connection {
    client: AsyncClient,
    events: mpsc::Receiver<LinkEvent>,
    task: AbortHandle,
}

impl Connection {
    /// Starts to connect, with a task among `tasks`.
    pub(crate) fn open(config: &SessionConfig, port: Port, tasks: &mut JoinSet<()>) -> Self {
        let limits = &config.limits;
        let requests =
            usize::from(limits.in_flight) + usize::from(MAX_UNACKNOWLEDGED) + SPARE_REQUESTS;
        let (client, event_loop) = AsyncClient::new(options(config, port), requests);
        let (sender, events) = mpsc::channel(EVENTS);
        let pump = Pump {
            event_loop,
            events: sender,
            keep_alive: config.keep_alive,
            connect: config.timeouts.connect,
            in_flight: config.limits.in_flight,
        };
        Self {
            client,
            events,
            task: tasks.spawn(pump.run()),
        }
    }

    /// The next event.
    ///
    /// # Cancel safety
    ///
    /// No event is lost when the future is dropped.
    pub(crate) async fn event(&mut self) -> LinkEvent {
        // The task ends without a word only by a panic.
        let failed = || LinkEvent::Lost(Cause::Internal("the connection's task panicked".into()));
        self.events.recv().await.unwrap_or_else(failed)
    }

    /// The next event, if there is one already.
    pub(crate) fn try_event(&mut self) -> Option<LinkEvent> {
        self.events.try_recv().ok()
    }

    pub(crate) fn subscribe(&self, subscriptions: &[Subscription]) -> Result<(), NotTaken> {
        let filters = subscriptions
            .iter()
            .map(|s| Filter::new(s.filter.as_str(), s.qos.into()));
        self.client
            .try_subscribe_many(filters)
            .map_err(|_| NotTaken)
    }

    pub(crate) fn publish(&self, message: Outgoing) -> Result<(), NotTaken> {
        let Outgoing {
            message:
                Message {
                    topic,
                    payload,
                    qos,
                    retain,
                },
            expires_in,
        } = message;
        let done = match expires_in {
            None => self.client.try_publish(topic, qos.into(), retain, payload),
            Some(left) => {
                // Rounded up: 0 would be no time at all.
                let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
                let properties = PublishProperties {
                    message_expiry_interval: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
                    ..PublishProperties::default()
                };
                self.client.try_publish_with_properties(
                    topic,
                    qos.into(),
                    retain,
                    payload,
                    properties,
                )
            }
        };
        done.map_err(|_| NotTaken)
    }

    pub(crate) fn acknowledge(&self, packet_id: u16) -> Result<(), NotTaken> {
        let mut publish = Publish::new("", WireQoS::AtLeastOnce, Bytes::new(), None);
        publish.pkid = packet_id;
        self.client.try_ack(&publish).map_err(|_| NotTaken)
    }

    pub(crate) fn disconnect(&self) -> Result<(), NotTaken> {
        self.client.try_disconnect().map_err(|_| NotTaken)
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.task.abort();
    }
}

fn options(config: &SessionConfig, port: Port) -> MqttOptions {
    let (port, tls) = match port {
        Port::Main => (config.port, Arc::clone(&config.tls)),
        Port::Fallback(port) => (port, tls::with_alpn(Arc::clone(&config.tls))),
    };
    let mut network = NetworkOptions::new();
    network.set_tcp_nodelay(true);
    network.set_tcp_send_buffer_size(SEND_BUFFER_BYTES);
    network.set_connection_timeout(config.timeouts.connect.as_secs());
    let mut options = MqttOptions::new(&config.client_id, &config.host, port);
    options
        .set_transport(Transport::tls_with_config(TlsConfiguration::Rustls(tls)))
        .set_keep_alive(config.keep_alive)
        .set_clean_start(config.session_expiry.is_none())
        .set_connection_timeout(config.timeouts.connect.as_secs())
        .set_max_packet_size(Some(config.limits.incoming_packet_bytes))
        .set_outgoing_inflight_upper_limit(config.limits.in_flight)
        .set_network_options(network);
    if let Some(expiry) = config.session_expiry {
        let seconds = u32::try_from(expiry.as_secs()).unwrap_or(u32::MAX);
        options.set_session_expiry_interval(Some(seconds));
    }
    if config.acknowledge == Acknowledge::AfterHandlers {
        options
            .set_manual_acks(true)
            .set_receive_maximum(Some(config.limits.incoming_in_flight));
    }
    if let Some(will) = &config.will {
        let payload = will.payload.to_vec();
        options.set_last_will(LastWill::new(
            &will.topic,
            payload,
            will.qos.into(),
            will.retain,
            None,
        ));
    }
    options
}

struct Pump {
    event_loop: EventLoop,
    events: mpsc::Sender<LinkEvent>,
    keep_alive: Duration,
    connect: Duration,
    in_flight: u16,
}

impl Pump {
    async fn run(mut self) {
        loop {
            // An event comes at least with every ping. A peer that takes nothing any more holds
            // `poll` for ever in the middle of a write, where its own keep-alive cannot look.
            let watchdog = self.connect + 2 * self.keep_alive + Duration::from_secs(1);
            let event = match timeout(watchdog, self.event_loop.poll()).await {
                Ok(Ok(event)) => self.translate(event),
                Ok(Err(error)) => return self.lost(&error).await,
                Err(_) => Some(LinkEvent::Lost(Cause::Stalled)),
            };
            let Some(event) = event else { continue };
            let last = matches!(event, LinkEvent::Disconnected | LinkEvent::Lost(_));
            if self.events.send(event).await.is_err() || last {
                return;
            }
        }
    }

    /// Passes on what had been received before the connection failed, and the reason.
    async fn lost(mut self, error: &ConnectionError) {
        let received = std::mem::take(&mut self.event_loop.state.events);
        for event in received {
            // What was about to be written is in doubt; it counts as not written.
            if matches!(
                event,
                Event::Incoming(Packet::PubAck(_) | Packet::Publish(_))
            ) && let Some(event) = self.translate(event)
                && self.events.send(event).await.is_err()
            {
                return;
            }
        }
        // The error itself is not logged: it may quote a packet, payload included.
        // The driver may have gone; then nobody wants to know.
        let _ = self.events.send(LinkEvent::Lost(Cause::from(error))).await;
    }

    fn translate(&mut self, event: Event) -> Option<LinkEvent> {
        match event {
            Event::Incoming(Packet::ConnAck(connack)) => {
                Some(LinkEvent::Connected(self.terms(&connack)))
            }
            Event::Incoming(Packet::SubAck(suback)) => Some(LinkEvent::Subscribed(
                suback.return_codes.into_iter().map(Into::into).collect(),
            )),
            Event::Incoming(Packet::PubAck(puback)) => {
                Some(LinkEvent::Acknowledged(puback.pkid, puback.reason.into()))
            }
            Event::Incoming(Packet::PingResp(_)) => Some(LinkEvent::Ponged),
            Event::Incoming(Packet::Publish(publish)) => received(publish).map(LinkEvent::Message),
            Event::Outgoing(rumqttc::Outgoing::Publish(id)) => Some(LinkEvent::Written(id)),
            Event::Outgoing(rumqttc::Outgoing::PingReq) => Some(LinkEvent::Pinged),
            Event::Outgoing(rumqttc::Outgoing::Disconnect) => Some(LinkEvent::Disconnected),
            _ => None,
        }
    }

    fn terms(&mut self, connack: &ConnAck) -> ServerTerms {
        let properties = connack.properties.as_ref();
        // rumqttc has taken over the server's interval: too short, it would panic or spin.
        if let Some(seconds) = properties.and_then(|p| p.server_keep_alive) {
            let asked = Duration::from_secs(seconds.into());
            self.keep_alive = if asked.is_zero() {
                self.keep_alive
            } else {
                asked.max(MIN_KEEP_ALIVE)
            };
            self.event_loop.options.set_keep_alive(self.keep_alive);
        }
        ServerTerms {
            receive_maximum: properties
                .and_then(|p| p.receive_max)
                .unwrap_or(self.in_flight),
            maximum_packet: properties.and_then(|p| p.max_packet_size),
            at_least_once: properties
                .and_then(|p| p.max_qos)
                .is_none_or(|qos| qos >= 1),
            retain: properties
                .and_then(|p| p.retain_available)
                .is_none_or(|flag| flag == 1),
            keep_alive: self.keep_alive,
            session_present: connack.session_present,
        }
    }
}

fn received(publish: Publish) -> Option<Incoming> {
    let Ok(topic) = String::from_utf8(publish.topic.into()) else {
        tracing::warn!("dropped a message: its topic is not UTF-8");
        return None;
    };
    if topic.is_empty() {
        tracing::warn!("dropped a message without a topic; no topic alias was offered");
        return None;
    }
    let qos = match publish.qos {
        WireQoS::AtMostOnce => QoS::AtMostOnce,
        WireQoS::AtLeastOnce | WireQoS::ExactlyOnce => QoS::AtLeastOnce,
    };
    let message = Message {
        topic,
        // The payload is a slice of the read buffer and would keep all of it alive.
        payload: Bytes::copy_from_slice(&publish.payload),
        qos,
        retain: publish.retain,
    };
    Some(Incoming {
        message,
        packet_id: publish.pkid,
        duplicate: publish.dup,
    })
}
