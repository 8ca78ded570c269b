//! Random actions of a server, a network and a caller, in random order: the core keeps its
//! invariants.

use std::collections::BTreeSet;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::core::connection_event::Incoming;
use crate::mqtt::message::MessageId;
use crate::session::config::Overflow;

/// An input, valid or not.
#[derive(Debug, Clone)]
enum Step {
    Connected {
        present: bool,
        receive_maximum: u16,
        at_least_once: bool,
    },
    /// Answers the outstanding SUBSCRIBE.
    Granted(u8),
    Event(ServerEvent),
    /// Writes the queued packets.
    Write,
    HooksEnd,
    Publish {
        at_least_once: bool,
        expires: bool,
    },
    Request,
    Forget,
    AckGuard(u64),
    /// Completes the batch of the store.
    Stored(Option<StoreError>),
    Wait(u64),
    Due,
    NetworkChanged,
    ClockJumped,
    Renew,
    Stop(u64),
}

/// An event of the connection that may not match its state.
#[derive(Debug, Clone)]
enum ServerEvent {
    Subscribed(u16, Vec<u8>),
    Written(u16),
    Acknowledged(u16, u8),
    Message {
        at_least_once: bool,
        id: u16,
        duplicate: bool,
    },
    Undeliverable(u16),
    Unexpected(u16),
    Progress,
    PingWritten,
    PingResp,
    Disconnected,
    Closed,
    Disconnect(u8),
}

fn server_event() -> impl Strategy<Value = ServerEvent> {
    prop_oneof![
        1 => (1_u16..3, prop::collection::vec(any::<u8>(), 0..3)).prop_map(|(id, codes)| ServerEvent::Subscribed(id, codes)),
        2 => (0_u16..6).prop_map(ServerEvent::Written),
        8 => (0_u16..6, prop::sample::select(vec![0, 0, 0, 0x10, 0x87, 0x91, 0x97, 0x97, 0xFF]))
            .prop_map(|(id, code)| ServerEvent::Acknowledged(id, code)),
        4 => (any::<bool>(), 1_u16..6, any::<bool>()).prop_map(|(at_least_once, id, duplicate)| ServerEvent::Message { at_least_once, id, duplicate }),
        1 => (1_u16..6).prop_map(ServerEvent::Undeliverable),
        1 => (0_u16..6).prop_map(ServerEvent::Unexpected),
        1 => Just(ServerEvent::Progress),
        1 => Just(ServerEvent::PingWritten),
        2 => Just(ServerEvent::PingResp),
        1 => Just(ServerEvent::Disconnected),
        1 => Just(ServerEvent::Closed),
        2 => prop::sample::select(vec![0x87_u8, 0x8E, 0x90, 0x97]).prop_map(ServerEvent::Disconnect),
    ]
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (any::<bool>(), prop::sample::select(vec![0_u16, 1, 2, 100]), prop::bool::weighted(0.9))
            .prop_map(|(present, receive_maximum, at_least_once)| Step::Connected { present, receive_maximum, at_least_once }),
        6 => prop::sample::select(vec![0_u8, 1, 1, 1, 0x87]).prop_map(Step::Granted),
        12 => server_event().prop_map(Step::Event),
        10 => Just(Step::Write),
        8 => Just(Step::HooksEnd),
        10 => (any::<bool>(), any::<bool>()).prop_map(|(at_least_once, expires)| Step::Publish { at_least_once, expires }),
        2 => Just(Step::Request),
        1 => Just(Step::Forget),
        2 => (1_u64..6).prop_map(Step::AckGuard),
        4 => prop::sample::select(vec![
            None, None, None, Some(StoreError::Full), Some(StoreError::Damaged("…".into())),
        ]).prop_map(Step::Stored),
        4 => (0_u64..40).prop_map(Step::Wait),
        10 => Just(Step::Due),
        1 => Just(Step::NetworkChanged),
        1 => Just(Step::ClockJumped),
        1 => Just(Step::Renew),
        1 => (0_u64..30).prop_map(Step::Stop),
    ]
}

/// A core, and the state of its driver and caller.
struct World {
    harness: Harness,
    /// Packet identifiers of queued PUBLISH packets, while there is a connection.
    handed: VecDeque<u16>,
    connection: bool,
    /// Whether DISCONNECT was sent on this connection.
    left: bool,
    hooks: usize,
    ended: bool,
    receipts: Vec<Receipt>,
    outcomes: Vec<Result<Ack, DeliveryError>>,
    accepted: usize,
    request: Option<(MessageId, oneshot::Receiver<Result<Message, RequestError>>)>,
    /// The store, and the batch that is being written.
    disk: BTreeSet<MessageId>,
    writing: Option<Batch>,
}

impl World {
    /// Creates a core with this many restored messages.
    fn new(config: SessionConfig, former: u64) -> Self {
        let mut harness = Harness::new(config);
        let restored = (1..=former).map(|id| Restored {
            id,
            message: Message::new("former", "x"),
            expires: None,
        });
        harness.core.restore(restored.collect());
        Self {
            harness,
            disk: (1..=former).collect(),
            writing: None,
            handed: VecDeque::new(),
            connection: false,
            left: false,
            hooks: 0,
            ended: false,
            receipts: Vec::new(),
            outcomes: Vec::new(),
            accepted: 0,
            request: None,
        }
    }

    fn take(&mut self, step: Step) {
        let now = self.harness.now;
        let core = &mut self.harness.core;
        match step {
            Step::Connected {
                present,
                receive_maximum,
                at_least_once,
            } => self
                .harness
                .event(ConnectionEvent::Connected(ServerCapabilities {
                    session_present: present,
                    receive_maximum,
                    at_least_once,
                    ..capabilities()
                })),
            Step::Granted(code) => {
                if matches!(core.phase, Phase::Subscribing { .. }) {
                    self.harness.granted(&[1, code]);
                }
            }
            Step::Event(event) => self.handle_event(event),
            Step::Write => {
                if let Some(id) = self.handed.pop_front() {
                    self.harness.event(ConnectionEvent::Written(id));
                }
            }
            Step::HooksEnd => {
                if self.hooks > 0 {
                    self.hooks = 0;
                    core.handle_hooks_finished(now);
                }
            }
            Step::Publish {
                at_least_once,
                expires,
            } => {
                let qos = if at_least_once {
                    QoS::AtLeastOnce
                } else {
                    QoS::AtMostOnce
                };
                let mut options = PublishOptions::new();
                if expires {
                    options = options.expires_in(20 * SECOND);
                }
                let message = Message::new("t", "x").qos(qos);
                if let Ok(receipt) = core.publish(message, options, now) {
                    self.accepted += 1;
                    self.receipts.push(receipt);
                }
            }
            Step::Request => {
                let (sender, answer) = oneshot::channel();
                let message = Message::new("req", "?");
                if let Ok((id, _)) = core.request(message, "a/res".into(), sender, now) {
                    self.request = Some((id, answer));
                }
            }
            Step::Forget => {
                if let Some((id, _)) = self.request.take() {
                    core.cancel_request(id, now);
                }
            }
            Step::AckGuard(delivery) => core.handle_handlers_finished(delivery, now),
            Step::Stored(outcome) => self.stored(outcome),
            Step::Wait(seconds) => self.pass(Duration::from_secs(seconds)),
            Step::Due => {
                if let Some(due) = core.poll_timeout() {
                    self.pass(due.saturating_duration_since(now));
                }
            }
            Step::NetworkChanged => core.handle_network_change(now),
            Step::ClockJumped => core.handle_clock_jump(3600 * SECOND, now),
            Step::Renew => core.reconnect(now),
            Step::Stop(seconds) => core.stop(now + Duration::from_secs(seconds), now),
        }
        self.perform();
    }

    fn handle_event(&mut self, event: ServerEvent) {
        let disconnected = |code| Cause::Disconnected {
            reason: ReasonCode(code),
            message: None,
        };
        let event = match event {
            ServerEvent::Subscribed(id, codes) => subscribed(id, &codes),
            ServerEvent::Written(id) => ConnectionEvent::Written(id),
            ServerEvent::Acknowledged(id, code) => {
                ConnectionEvent::Acknowledged(id, ReasonCode(code))
            }
            ServerEvent::Message {
                at_least_once,
                id,
                duplicate,
            } => ConnectionEvent::Message(Incoming {
                message: Message::new("a/res", "!").qos(if at_least_once {
                    QoS::AtLeastOnce
                } else {
                    QoS::AtMostOnce
                }),
                packet_id: if at_least_once { id } else { 0 },
                duplicate,
            }),
            ServerEvent::Undeliverable(packet_id) => ConnectionEvent::Undeliverable {
                packet_id,
                duplicate: false,
            },
            ServerEvent::Unexpected(id) => ConnectionEvent::Unexpected(Packet::PubComp, id),
            ServerEvent::Progress => ConnectionEvent::Progress,
            ServerEvent::PingWritten => ConnectionEvent::PingWritten,
            ServerEvent::PingResp => ConnectionEvent::PingResp,
            ServerEvent::Disconnected => ConnectionEvent::Disconnected,
            ServerEvent::Closed => ConnectionEvent::Lost(Cause::Closed { soon: false }),
            ServerEvent::Disconnect(code) => ConnectionEvent::Lost(disconnected(code)),
        };
        self.harness.event(event);
    }

    fn stored(&mut self, outcome: Option<StoreError>) {
        let Some(batch) = self.writing.take() else {
            return;
        };
        match &outcome {
            None => {
                self.disk.extend(batch.put.iter().map(|put| put.id));
                for id in &batch.remove {
                    self.disk.remove(id);
                }
            }
            Some(StoreError::Damaged(_)) => self.disk.clear(),
            Some(_) => {}
        }
        let outcome = outcome.map_or(Ok(()), Err);
        self.harness.core.handle_stored(outcome, self.harness.now);
    }

    /// Advances the time from deadline to deadline.
    fn pass(&mut self, time: Duration) {
        let end = self.harness.now + time;
        let mut wake_ups = 0;
        while !self.ended
            && let Some(due) = self.harness.core.poll_timeout().filter(|due| *due <= end)
        {
            wake_ups += 1;
            assert!(wake_ups < 1000, "the core spins");
            self.harness.now = self.harness.now.max(due);
            self.harness.core.handle_timeout(self.harness.now);
            self.perform();
        }
        self.harness.now = self.harness.now.max(end);
    }

    /// Acts as a driver, within the rules of the protocol.
    fn perform(&mut self) {
        while let Some(action) = self.harness.core.poll_action() {
            assert!(!self.ended, "{action:?} after the end");
            match action {
                Action::Open(_) => {
                    assert!(!self.connection, "two connections");
                    assert_eq!(self.hooks, 0, "hooks of the previous connection still run");
                    self.connection = true;
                    self.left = false;
                    self.handed.clear();
                }
                Action::Close => {
                    self.connection = false;
                    self.handed.clear();
                }
                Action::Publish(out) => {
                    assert!(!self.left, "a PUBLISH after DISCONNECT");
                    assert_eq!(out.packet_id != 0, out.message.qos == QoS::AtLeastOnce);
                    assert!(out.packet_id == 0 || !self.handed.contains(&out.packet_id));
                    self.handed.push_back(out.packet_id);
                }
                Action::Subscribe(..) | Action::Acknowledge(_) | Action::Ping => {
                    assert!(
                        !self.left || !self.connection,
                        "{action:?} behind DISCONNECT"
                    );
                }
                Action::Disconnect { .. } => {
                    assert!(!self.left, "a second DISCONNECT");
                    self.left = true;
                }
                Action::ConnectHooks | Action::DisconnectHooks(_) => self.hooks += 1,
                Action::Store(batch) => {
                    assert!(
                        self.writing.replace(batch).is_none(),
                        "two batches at a time"
                    );
                }
                Action::End => self.ended = true,
                Action::Unsubscribe(..)
                | Action::Deliver { .. }
                | Action::State(_)
                | Action::Event(_)
                | Action::Log(_) => {}
            }
        }
        assert!(
            self.ended || self.hooks > 0 || self.harness.core.poll_timeout().is_some(),
            "no deadline"
        );
        let (outcomes, accepted) = (&mut self.outcomes, self.accepted);
        self.receipts.retain_mut(|receipt| {
            let end = outcome(receipt);
            outcomes.extend(end);
            end.is_none()
        });
        assert_eq!(outcomes.len() + self.receipts.len(), accepted);
    }

    fn is_over(&mut self) -> bool {
        self.harness
            .core
            .stop(self.harness.now + 10 * SECOND, self.harness.now);
        self.perform();
        // The driver enforces the timeouts of hooks.
        self.pass(10 * SECOND);
        self.stored(None);
        while let Some(batch) = self.harness.core.poll_last_batch() {
            self.writing = Some(batch);
            self.stored(None);
        }
        self.ended
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// No step panics, waits forever, spins, or breaks the order of packets; a stop completes in
    /// time, and each receipt is resolved once and reports storage correctly.
    #[test]
    fn random_events_keep_invariants(
        steps in prop::collection::vec(step(), 0..120),
        kept in any::<bool>(),
        after in any::<bool>(),
        former in 0_u64..4,
        overflow in prop::sample::select(vec![
            Overflow::Refuse, Overflow::DropOldest, Overflow::DropAtMostOnce,
        ]),
    ) {
        let mut config = config();
        config.limits.in_flight = 3;
        config.limits.outbox_messages = 8;
        config.overflow = overflow;
        if kept {
            config.session_expiry = Some(3600 * SECOND);
        }
        if after {
            config.acknowledge = crate::Acknowledge::AfterHandlers;
        }
        let mut world = World::new(config, former);
        world.perform();
        for step in steps {
            if world.ended {
                break;
            }
            world.take(step);
        }
        prop_assert!(world.is_over(), "{:?}", world.harness.core.phase);
        prop_assert!(world.receipts.is_empty());
        prop_assert_eq!(world.harness.core.report().stored, world.disk.len());
    }
}
