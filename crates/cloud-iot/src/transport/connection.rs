//! One connection: its establishment, then packets in both directions until it ends.
//!
//! Of rumqttc only the encoder is used. Its event loop connects by itself (one address after the
//! other, no proxy), loses the reason of a DISCONNECT, is not cancel-safe, can hang in a write
//! forever, and flushes once per packet. The state that it keeps (packet identifiers, messages in
//! flight, pings) is needed in the [core](crate::core) in any case. Here nothing blocks, polling is
//! cancel-safe, and pending packets leave with one write.
//!
//! A connection makes no decisions and has neither a task nor a timer: the [driver](crate::driver)
//! polls it, and the core drops it when a deadline passes. Dropping it closes the socket.
//!
//! Invariants: packets leave in the order in which they were queued; [`ConnectionEvent::Written`]
//! precedes all responses to the packet; the send queue is bounded, and while it is too long
//! nothing is received.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cloud_net::warn_throttled;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PingReq, PubAck, PubRec, PubRecReason,
    Publish, PublishProperties, Subscribe, Unsubscribe,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

use crate::core::acknowledgement_order::MAX_UNACKNOWLEDGED;
use crate::core::connect_options::ConnectOptions;
use crate::core::connection_event::{ConnectionEvent, Incoming};
use crate::error::cause::Cause;
use crate::log_throttles::LogThrottles;
use crate::mqtt::decode::{self, Received, Undeliverable};
use crate::mqtt::message::{Message, QoS, Subscription};
use crate::mqtt::topic::TopicFilter;
use crate::outbox::Outgoing;
use crate::session::config::{Acknowledge, MAX_SUBSCRIPTIONS, SessionConfig};
use crate::transport::connect::{Accepted, connect};
use crate::transport::framed::Framed;

/// Packets that are received before the resulting actions are performed.
pub(crate) const EVENTS: usize = 64;

/// Packets that may be queued besides messages and acknowledgements: a SUBSCRIBE and an UNSUBSCRIBE
/// for each filter, a PINGREQ and a DISCONNECT, with some reserve, and the acknowledgements of the
/// last received packets.
const SPARE_PACKETS: usize = 8 + 2 * MAX_SUBSCRIPTIONS + EVENTS;

/// Bytes of packets that are encoded ahead of the socket: enough for a full write, and little
/// compared to the messages, which are not copied until then.
const WRITE_AHEAD_BYTES: usize = 32 << 10;

/// The connection has ended, or its send queue is full.
#[derive(Debug)]
pub(crate) struct SendQueueFull;

type Opening = Pin<Box<dyn Future<Output = Result<Accepted<TlsStream<TcpStream>>, Cause>> + Send>>;

/// A connection, during or after its establishment. Dropping it closes the socket at once.
pub(crate) struct Connection {
    state: State,
    events: VecDeque<ConnectionEvent>,
    /// See [`Transport::high_water_mark`].
    high_water_mark: usize,
    acknowledge: Acknowledge,
    throttles: Arc<LogThrottles>,
}

enum State {
    Opening(Opening),
    Open(Box<Transport<TlsStream<TcpStream>>>),
    Over,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Creates a connection; polling establishes it.
    pub(crate) fn open(
        config: &Arc<SessionConfig>,
        options: ConnectOptions,
        throttles: Arc<LogThrottles>,
    ) -> Self {
        let in_flight = usize::from(config.limits.in_flight);
        Self {
            state: State::Opening(Box::pin(connect(Arc::clone(config), options))),
            events: VecDeque::new(),
            high_water_mark: in_flight + usize::from(MAX_UNACKNOWLEDGED),
            acknowledge: config.acknowledge,
            throttles,
        }
    }

    /// Returns the next event. After [`ConnectionEvent::Lost`] and
    /// [`ConnectionEvent::Disconnected`] there is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn event(&mut self) -> ConnectionEvent {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// Returns the next event if it is already queued.
    pub(crate) fn try_event(&mut self) -> Option<ConnectionEvent> {
        self.events.pop_front()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<ConnectionEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let over = match &mut self.state {
                State::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok((framed, capabilities))) => {
                        self.events
                            .push_back(ConnectionEvent::Connected(capabilities));
                        let throttles = Arc::clone(&self.throttles);
                        let transport = Transport::new(
                            framed,
                            self.high_water_mark,
                            self.acknowledge,
                            throttles,
                        );
                        self.state = State::Open(Box::new(transport));
                        continue;
                    }
                    Poll::Ready(Err(cause)) => Err(cause),
                },
                State::Open(transport) => transport.poll(cx, &mut self.events),
                State::Over => return Poll::Pending,
            };
            match over {
                Ok(()) if self.events.is_empty() => return Poll::Pending,
                Ok(()) => {}
                Err(cause) => {
                    self.events.push_back(ConnectionEvent::Lost(cause));
                    self.state = State::Over;
                }
            }
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        packet_id: u16,
        subscriptions: &[Subscription],
    ) -> Result<(), SendQueueFull> {
        let mut subscribe = Subscribe::new_many(subscriptions.iter().map(Filter::from), None);
        subscribe.pkid = packet_id;
        self.enqueue(Packet::Subscribe(subscribe))
    }

    pub(crate) fn unsubscribe(
        &mut self,
        packet_id: u16,
        filter: &TopicFilter,
    ) -> Result<(), SendQueueFull> {
        let mut unsubscribe = Unsubscribe::new(filter.as_str(), None);
        unsubscribe.pkid = packet_id;
        self.enqueue(Packet::Unsubscribe(unsubscribe))
    }

    pub(crate) fn publish(&mut self, outgoing: Outgoing) -> Result<(), SendQueueFull> {
        let Outgoing {
            message:
                Message {
                    topic,
                    payload,
                    qos,
                    retain,
                    properties,
                },
            expires_in,
            packet_id,
            duplicate,
        } = outgoing;
        let expiry = expires_in.map(|left| {
            // Rounded up, because 0 means that the message has expired.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            u32::try_from(seconds).unwrap_or(u32::MAX)
        });
        let properties = properties.map(|properties| PublishProperties::from(*properties));
        let properties = (expiry.is_some() || properties.is_some()).then(|| PublishProperties {
            message_expiry_interval: expiry,
            ..properties.unwrap_or_default()
        });
        self.enqueue(Packet::Publish(Publish {
            dup: duplicate,
            qos: qos.into(),
            retain,
            topic: topic.into(),
            pkid: packet_id,
            payload,
            properties,
        }))
    }

    pub(crate) fn acknowledge(&mut self, packet_id: u16) -> Result<(), SendQueueFull> {
        self.enqueue(Packet::PubAck(PubAck::new(packet_id, None)))
    }

    pub(crate) fn ping(&mut self) -> Result<(), SendQueueFull> {
        self.enqueue(Packet::PingReq(PingReq))
    }

    /// Sends DISCONNECT, after which the server discards the will, or publishes it after its delay
    /// if `keep_will`.
    pub(crate) fn disconnect(&mut self, keep_will: bool) -> Result<(), SendQueueFull> {
        let reason = if keep_will {
            DisconnectReasonCode::DisconnectWithWillMessage
        } else {
            DisconnectReasonCode::NormalDisconnection
        };
        self.enqueue(Packet::Disconnect(Disconnect::new(reason)))
    }

    fn enqueue(&mut self, packet: Packet) -> Result<(), SendQueueFull> {
        match &mut self.state {
            State::Open(transport)
                if transport.waiting.len() < transport.high_water_mark + SPARE_PACKETS =>
            {
                transport.waiting.push_back(packet);
                Ok(())
            }
            _ => Err(SendQueueFull),
        }
    }
}

/// An established connection.
struct Transport<S> {
    framed: Framed<S>,
    /// Packets that are not encoded yet.
    waiting: VecDeque<Packet>,
    /// Events to report when the socket has accepted all bytes up to a position.
    pending_writes: VecDeque<(u64, ConnectionEvent)>,
    /// Length of the send queue, the maximum of messages and acknowledgements, at which receiving
    /// pauses.
    high_water_mark: usize,
    acknowledge: Acknowledge,
    throttles: Arc<LogThrottles>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Transport<S> {
    fn new(
        framed: Framed<S>,
        high_water_mark: usize,
        acknowledge: Acknowledge,
        throttles: Arc<LogThrottles>,
    ) -> Self {
        Self {
            framed,
            waiting: VecDeque::new(),
            pending_writes: VecDeque::new(),
            high_water_mark,
            acknowledge,
            throttles,
        }
    }

    /// Sends and receives what is possible now.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<(), Cause> {
        self.write(cx, events)?;
        // Acknowledgements that the server does not read must not accumulate.
        while events.len() < EVENTS && self.waiting.len() < self.high_water_mark {
            match self.framed.poll_packet(cx) {
                Poll::Pending => break,
                Poll::Ready(packet) => events.extend(self.received(packet?)?),
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<ConnectionEvent>,
    ) -> Result<(), Cause> {
        loop {
            while self.framed.backlog() < WRITE_AHEAD_BYTES
                && let Some(packet) = self.waiting.pop_front()
            {
                let end = self.framed.queue(&packet)?;
                self.pending_writes
                    .extend(event_when_written(&packet).map(|event| (end, event)));
            }
            self.framed.poll_write(cx);
            if self.waiting.is_empty() || self.framed.backlog() >= WRITE_AHEAD_BYTES {
                break;
            }
        }
        if self.framed.take_progress() {
            events.push_back(ConnectionEvent::Progress);
        }
        while let Some((_, event)) = self
            .pending_writes
            .pop_front_if(|(end, _)| *end <= self.framed.written())
        {
            if matches!(event, ConnectionEvent::Disconnected)
                && self.framed.poll_shutdown(cx).is_pending()
            {
                self.pending_writes.push_front((0, event));
                break;
            }
            events.push_back(event);
        }
        Ok(())
    }

    /// Converts a packet to an event for the core. Acknowledges it if that is due on receipt.
    fn received(&mut self, received: Received) -> Result<Option<ConnectionEvent>, Cause> {
        Ok(Some(match received {
            Received::Publish(publish) => {
                if publish.at_least_once {
                    self.acknowledge_on_receipt(publish.packet_id);
                }
                ConnectionEvent::Message(incoming(publish))
            }
            Received::UndeliverablePublish(undeliverable) => {
                return Ok(self.undeliverable(&undeliverable));
            }
            Received::PubAck { packet_id, reason } => {
                ConnectionEvent::Acknowledged(packet_id, reason)
            }
            Received::SubAck(suback) => ConnectionEvent::Subscribed(suback),
            Received::PingResp => ConnectionEvent::PingResp,
            Received::Unexpected { packet, packet_id } => {
                ConnectionEvent::Unexpected(packet, packet_id)
            }
            Received::ConnAck(_) | Received::ConnAckOfMqtt311 => {
                return Err(Cause::Protocol("a second CONNACK".into()));
            }
            Received::Disconnect { reason, message } => {
                return Err(Cause::disconnected(reason, message));
            }
        }))
    }

    fn acknowledge_on_receipt(&mut self, packet_id: u16) {
        if self.acknowledge == Acknowledge::OnReceipt {
            let answer = PubAck::new(packet_id, None);
            self.waiting.push_back(Packet::PubAck(answer));
        }
    }

    /// Answers a message that is dropped, so that the server does not send it again.
    fn undeliverable(&mut self, undeliverable: &Undeliverable) -> Option<ConnectionEvent> {
        let Undeliverable {
            qos,
            packet_id,
            duplicate,
            ref fault,
            ..
        } = *undeliverable;
        let (fault, reason) = (&fault.text, fault.reason);
        warn_throttled!(self.throttles.undeliverable, fault, %reason, "dropped a message");
        match qos {
            1 if packet_id != 0 => {
                self.acknowledge_on_receipt(packet_id);
                Some(ConnectionEvent::Undeliverable {
                    packet_id,
                    duplicate,
                })
            }
            2 if packet_id != 0 => {
                // A failure code ends the exchange (MQTT 5.0, 4.3.3).
                self.waiting.push_back(Packet::PubRec(PubRec {
                    pkid: packet_id,
                    reason: PubRecReason::ImplementationSpecificError,
                    properties: None,
                }));
                None
            }
            _ => None,
        }
    }
}

/// Returns the event to report when this packet is written.
fn event_when_written(packet: &Packet) -> Option<ConnectionEvent> {
    match packet {
        Packet::Publish(publish) => Some(ConnectionEvent::Written(publish.pkid)),
        Packet::PingReq(_) => Some(ConnectionEvent::PingWritten),
        Packet::Disconnect(_) => Some(ConnectionEvent::Disconnected),
        _ => None,
    }
}

fn incoming(publish: decode::Publish) -> Incoming {
    Incoming {
        message: Message {
            topic: publish.topic,
            payload: publish.payload,
            qos: if publish.at_least_once {
                QoS::AtLeastOnce
            } else {
                QoS::AtMostOnce
            },
            retain: publish.retain,
            properties: publish.properties,
        },
        packet_id: publish.packet_id,
        duplicate: publish.duplicate,
    }
}
