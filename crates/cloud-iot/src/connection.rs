//! One connection: being made, then carrying packets both ways until it ends.
//!
//! Of rumqttc only the codec is used. Its event loop opens a connection by itself (one address after the other, no
//! proxy), loses the reason of a DISCONNECT, must not be given up in the middle of a poll, can hang in a write for ever,
//! and flushes once for each packet; and what its protocol state keeps (packet ids, what is in flight, pings) the
//! [core](crate::core) has to know in any case. So the socket is ours: nothing here blocks, polling may be given up at any
//! point, and what there is to send leaves with one write.
//!
//! It decides nothing and has neither a task nor a timer of its own: the [driver](crate::driver) polls it, and the core
//! gives it up when something is overdue. Dropping it closes the socket.
//!
//! Invariants: packets leave in the order in which they were taken; [`LinkEvent::Written`] comes before everything that
//! the server can answer; what is not sent yet is bounded, and while it is too much nothing more is received.
//!
//! See docs/protocol.md, "IoT messaging".

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use cloud_net::warn_throttled;
use rumqttc::v5::mqttbytes::QoS as WireQoS;
use rumqttc::v5::mqttbytes::v5::{
    Disconnect, DisconnectReasonCode, Filter, Packet, PingReq, PubAck, Publish, PublishProperties,
    Subscribe,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use zeroize::{Zeroize, Zeroizing};

use crate::cause::Cause;
use crate::config::{Acknowledge, SessionConfig};
use crate::connect::{Accepted, connect};
use crate::core::Way;
use crate::inbound::MAX_UNACKNOWLEDGED;
use crate::link::{Incoming, LinkEvent};
use crate::log_throttles::LogThrottles;
use crate::message::{Message, QoS, Subscription};
use crate::outbox::Outgoing;
use crate::wire::{Received, Wire};

/// Packets that are taken in before what comes of them is carried out.
pub(crate) const EVENTS: usize = 64;

/// Packets that may stand in line besides messages and acknowledgements: a SUBSCRIBE, a PINGREQ and a
/// DISCONNECT, with some room, and the acknowledgements of what was taken in at the last moment.
const SPARE_PACKETS: usize = 8 + EVENTS;

/// Packets are coded ahead of what the socket takes up to this size: enough for a full write, and little beside the
/// messages themselves, which are kept once until then.
const WRITE_AHEAD_BYTES: usize = 32 << 10;

/// The connection took no packet: it has ended, or the window was miscounted.
#[derive(Debug)]
pub(crate) struct NotTaken;

type Opening = Pin<Box<dyn Future<Output = Result<Accepted<TlsStream<TcpStream>>, Cause>> + Send>>;

/// A connection being made, or made. Dropping it ends it at once.
pub(crate) struct Connection {
    state: State,
    events: VecDeque<LinkEvent>,
    /// See [`Line::crowd`].
    crowd: usize,
    acknowledge: Acknowledge,
    throttles: Arc<LogThrottles>,
}

enum State {
    Opening(Opening),
    Open(Box<Line<TlsStream<TcpStream>>>),
    Over,
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection").finish_non_exhaustive()
    }
}

impl Connection {
    /// Begins to connect; nothing happens before it is polled.
    pub(crate) fn open(
        config: &Arc<SessionConfig>,
        way: Way,
        throttles: Arc<LogThrottles>,
    ) -> Self {
        let in_flight = usize::from(config.limits.in_flight);
        Self {
            state: State::Opening(Box::pin(connect(Arc::clone(config), way))),
            events: VecDeque::new(),
            crowd: in_flight + usize::from(MAX_UNACKNOWLEDGED),
            acknowledge: config.acknowledge,
            throttles,
        }
    }

    /// The next event. After [`LinkEvent::Lost`] and [`LinkEvent::Disconnected`] there is none.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost when the future is dropped.
    pub(crate) async fn event(&mut self) -> LinkEvent {
        poll_fn(|cx| self.poll(cx)).await
    }

    /// The next event, if there is one already.
    pub(crate) fn try_event(&mut self) -> Option<LinkEvent> {
        self.events.pop_front()
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<LinkEvent> {
        loop {
            if let Some(event) = self.events.pop_front() {
                return Poll::Ready(event);
            }
            let over = match &mut self.state {
                State::Opening(opening) => match opening.as_mut().poll(cx) {
                    Poll::Pending => return Poll::Pending,
                    Poll::Ready(Ok((wire, terms))) => {
                        self.events.push_back(LinkEvent::Connected(terms));
                        let throttles = Arc::clone(&self.throttles);
                        let line = Line::new(wire, self.crowd, self.acknowledge, throttles);
                        self.state = State::Open(Box::new(line));
                        continue;
                    }
                    Poll::Ready(Err(cause)) => Err(cause),
                },
                State::Open(line) => line.poll(cx, &mut self.events),
                State::Over => return Poll::Pending,
            };
            match over {
                Ok(()) if self.events.is_empty() => return Poll::Pending,
                Ok(()) => {}
                Err(cause) => {
                    self.events.push_back(LinkEvent::Lost(cause));
                    self.state = State::Over;
                }
            }
        }
    }

    pub(crate) fn subscribe(
        &mut self,
        packet_id: u16,
        subscriptions: &[Subscription],
    ) -> Result<(), NotTaken> {
        let filters = subscriptions
            .iter()
            .map(|s| Filter::new(s.filter.as_str(), s.qos.into()));
        let mut subscribe = Subscribe::new_many(filters, None);
        subscribe.pkid = packet_id;
        self.take(Packet::Subscribe(subscribe))
    }

    pub(crate) fn publish(&mut self, outgoing: Outgoing) -> Result<(), NotTaken> {
        let Outgoing {
            message:
                Message {
                    topic,
                    payload,
                    qos,
                    retain,
                },
            expires_in,
            packet_id,
            again,
        } = outgoing;
        let properties = expires_in.map(|left| {
            // Rounded up: 0 would be no time at all.
            let seconds = left.as_secs() + u64::from(left.subsec_nanos() > 0);
            PublishProperties {
                message_expiry_interval: Some(u32::try_from(seconds).unwrap_or(u32::MAX)),
                ..PublishProperties::default()
            }
        });
        self.take(Packet::Publish(Publish {
            dup: again,
            qos: qos.into(),
            retain,
            topic: topic.into(),
            pkid: packet_id,
            payload,
            properties,
        }))
    }

    pub(crate) fn acknowledge(&mut self, packet_id: u16) -> Result<(), NotTaken> {
        self.take(Packet::PubAck(PubAck::new(packet_id, None)))
    }

    pub(crate) fn ping(&mut self) -> Result<(), NotTaken> {
        self.take(Packet::PingReq(PingReq))
    }

    pub(crate) fn disconnect(&mut self) -> Result<(), NotTaken> {
        let reason = DisconnectReasonCode::NormalDisconnection;
        self.take(Packet::Disconnect(Disconnect::new(reason)))
    }

    fn take(&mut self, packet: Packet) -> Result<(), NotTaken> {
        match &mut self.state {
            State::Open(line) if line.waiting.len() < line.crowd + SPARE_PACKETS => {
                line.waiting.push_back(packet);
                Ok(())
            }
            _ => Err(NotTaken),
        }
    }
}

/// A connection on which packets flow.
struct Line<S> {
    wire: Wire<S>,
    /// Packets that are not coded yet.
    waiting: VecDeque<Packet>,
    /// What to tell when the stream has taken all up to a position.
    marks: VecDeque<(u64, LinkEvent)>,
    /// With so many packets waiting, all messages and acknowledgements that there can be, nothing more is received.
    crowd: usize,
    acknowledge: Acknowledge,
    throttles: Arc<LogThrottles>,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Line<S> {
    fn new(
        wire: Wire<S>,
        crowd: usize,
        acknowledge: Acknowledge,
        throttles: Arc<LogThrottles>,
    ) -> Self {
        Self {
            wire,
            waiting: VecDeque::new(),
            marks: VecDeque::new(),
            crowd,
            acknowledge,
            throttles,
        }
    }

    /// Sends and receives what is possible now.
    fn poll(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<LinkEvent>,
    ) -> Result<(), Cause> {
        self.write(cx, events)?;
        // Acknowledgements that the server does not take must not add up.
        while events.len() < EVENTS && self.waiting.len() < self.crowd {
            match self.wire.poll_packet(cx) {
                Poll::Pending => break,
                Poll::Ready(packet) => events.extend(self.received(packet?)?),
            }
        }
        Ok(())
    }

    fn write(
        &mut self,
        cx: &mut Context<'_>,
        events: &mut VecDeque<LinkEvent>,
    ) -> Result<(), Cause> {
        loop {
            while self.wire.backlog() < WRITE_AHEAD_BYTES
                && let Some(packet) = self.waiting.pop_front()
            {
                let end = self.wire.queue(&packet)?;
                self.marks.extend(mark(&packet).map(|event| (end, event)));
            }
            self.wire.poll_write(cx);
            if self.waiting.is_empty() || self.wire.backlog() >= WRITE_AHEAD_BYTES {
                break;
            }
        }
        if self.wire.take_progress() {
            events.push_back(LinkEvent::Progress);
        }
        while let Some((_, event)) = self
            .marks
            .pop_front_if(|(end, _)| *end <= self.wire.written())
        {
            if matches!(event, LinkEvent::Disconnected) && self.wire.poll_shutdown(cx).is_pending()
            {
                self.marks.push_front((0, event));
                break;
            }
            events.push_back(event);
        }
        Ok(())
    }

    /// What a packet is to the core. Acknowledges it if that is due on receipt.
    fn received(&mut self, received: Received) -> Result<Option<LinkEvent>, Cause> {
        let packet = match received {
            Received::PubAck { packet_id, reason } => {
                return Ok(Some(LinkEvent::Acknowledged(packet_id, reason)));
            }
            Received::Packet(packet) => packet,
        };
        Ok(Some(match packet {
            Packet::Publish(publish) => {
                if publish.qos == WireQoS::ExactlyOnce {
                    return Err(Cause::Protocol(
                        "a PUBLISH at QoS 2, never asked for".into(),
                    ));
                }
                let sure = publish.qos == WireQoS::AtLeastOnce;
                let (packet_id, duplicate) = (publish.pkid, publish.dup);
                if sure && self.acknowledge == Acknowledge::OnReceipt {
                    let answer = PubAck::new(packet_id, None);
                    self.waiting.push_back(Packet::PubAck(answer));
                }
                let nameless = sure.then_some(LinkEvent::Nameless {
                    packet_id,
                    duplicate,
                });
                return Ok(message(publish, &self.throttles)
                    .map(LinkEvent::Message)
                    .or(nameless));
            }
            Packet::SubAck(suback) => {
                let codes = suback.return_codes.into_iter().map(Into::into);
                LinkEvent::Subscribed(suback.pkid, codes.collect())
            }
            Packet::PingResp(_) => LinkEvent::Ponged,
            _ => {
                return Err(Cause::Protocol(
                    "a packet that a server does not send here".into(),
                ));
            }
        }))
    }
}

/// What to tell when this packet has been written.
fn mark(packet: &Packet) -> Option<LinkEvent> {
    match packet {
        Packet::Publish(publish) => Some(LinkEvent::Written(publish.pkid)),
        Packet::PingReq(_) => Some(LinkEvent::Pinged),
        Packet::Disconnect(_) => Some(LinkEvent::Disconnected),
        _ => None,
    }
}

/// A payload that is wiped from memory when its last holder drops it, since it may be a private key.
fn wiped_on_drop(received: Bytes) -> Bytes {
    let payload = Bytes::from_owner(Zeroizing::new(received.to_vec()));
    // Of the frame nothing else is left by now.
    if let Ok(mut frame) = received.try_into_mut() {
        frame[..].zeroize();
    }
    payload
}

fn message(publish: Publish, throttles: &LogThrottles) -> Option<Incoming> {
    let Ok(topic) = String::from_utf8(publish.topic.into()) else {
        warn_throttled!(
            throttles.invalid_topic,
            "dropped a message: its topic is not UTF-8"
        );
        return None;
    };
    if topic.is_empty() {
        warn_throttled!(
            throttles.invalid_topic,
            "dropped a message without a topic; no topic alias was offered"
        );
        return None;
    }
    let qos = match publish.qos {
        WireQoS::AtMostOnce => QoS::AtMostOnce,
        WireQoS::AtLeastOnce | WireQoS::ExactlyOnce => QoS::AtLeastOnce,
    };
    let message = Message {
        topic,
        payload: wiped_on_drop(publish.payload),
        qos,
        retain: publish.retain,
    };
    Some(Incoming {
        message,
        packet_id: publish.pkid,
        duplicate: publish.dup,
    })
}
