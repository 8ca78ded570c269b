//! AWS's long-duration test on virtual time: ten hours of traffic, late acknowledgements, random
//! disconnections and an outage of an hour, against a model of the connection and of a conforming
//! server.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::mqtt::message::QoS;
use crate::session::event::SessionState;

const HOUR: Duration = Duration::from_secs(3600);

/// Parses the number at the start of a payload.
fn number(message: &Message) -> Option<u64> {
    let digits = message.payload.iter().take(20);
    let digits: Vec<u8> = digits.copied().take_while(u8::is_ascii_digit).collect();
    std::str::from_utf8(&digits).ok()?.parse().ok()
}

/// An event of the connection, and its time.
struct World {
    harness: Harness,
    random: StdRng,
    start: Instant,
    /// Pending events; empty without a connection.
    agenda: BTreeMap<(Instant, u64), ConnectionEvent>,
    planned: u64,
    /// The last packet identifier that was allocated.
    last_id: u16,
    /// Acknowledgements are sent in order.
    last_answer: Instant,
    /// Received messages, in the order of first arrival.
    arrived: Vec<u64>,
    online: bool,
    connections: usize,
    receipts: VecDeque<(QoS, Receipt)>,
}

impl World {
    fn new(seed: u64) -> Self {
        let mut config = config();
        config.limits.outbox_bytes = 64 << 20;
        let harness = Harness::new(config);
        let start = harness.now;
        Self {
            harness,
            random: StdRng::seed_from_u64(seed),
            start,
            agenda: BTreeMap::new(),
            planned: 0,
            last_id: 0,
            last_answer: start,
            arrived: Vec::new(),
            online: false,
            connections: 0,
            receipts: VecDeque::new(),
        }
    }

    fn plan(&mut self, at: Instant, event: ConnectionEvent) {
        self.planned += 1;
        self.agenda.insert((at, self.planned), event);
    }

    fn outage(&self) -> bool {
        (3 * HOUR..4 * HOUR).contains(&(self.harness.now - self.start))
    }

    /// Reaction of the server and the connection to an action.
    fn perform(&mut self, action: Action) {
        let now = self.harness.now;
        let soon = now + Duration::from_millis(self.random.random_range(20..200));
        match action {
            Action::Open(_) if self.outage() => {
                self.plan(soon, ConnectionEvent::Lost(Cause::Unreachable));
            }
            Action::Open(_) => {
                self.last_id = 0;
                self.plan(soon, ConnectionEvent::Connected(capabilities()));
                // The connection lasts for seconds or hours.
                let exponent = self.random.random_range(3..14);
                let end = soon + Duration::from_secs(self.random.random_range(1..1 << exponent));
                self.plan(end, ConnectionEvent::Lost(Cause::Closed { soon: false }));
            }
            Action::Ping => {
                self.harness.event(ConnectionEvent::PingWritten);
                self.plan(soon, ConnectionEvent::PingResp);
            }
            Action::Subscribe(id, filters) => {
                self.plan(soon, subscribed(id, &vec![1; filters.len()]));
            }
            Action::ConnectHooks | Action::DisconnectHooks(_) => {
                self.harness.core.handle_hooks_finished(now)
            }
            Action::Publish(out) => {
                let sure = out.message.qos == QoS::AtLeastOnce;
                let id = out.packet_id;
                self.harness.event(ConnectionEvent::Written(id));
                if let Some(number) = number(&out.message)
                    && !self.arrived.contains(&number)
                {
                    self.arrived.push(number);
                }
                if sure {
                    let late = match self.random.random_range(0..100) {
                        0..5 => Duration::from_secs(15),
                        // Never: the session must detect it.
                        5 if self.random.random_bool(0.1) => return,
                        _ => Duration::from_millis(50),
                    };
                    self.last_answer = self.last_answer.max(now + late);
                    let answer = ConnectionEvent::Acknowledged(id, ReasonCode::SUCCESS);
                    self.plan(self.last_answer, answer);
                }
            }
            Action::Close => {
                self.agenda.clear();
                self.last_answer = now;
                self.online = false;
            }
            Action::State(SessionState::Online { .. }) => {
                self.online = true;
                self.connections += 1;
            }
            _ => {}
        }
    }

    /// Advances the time to `end`, event by event.
    fn run_until(&mut self, end: Instant) {
        loop {
            while let Some(action) = self.harness.core.poll_action() {
                self.perform(action);
            }
            let event = self.agenda.first_key_value().map(|((at, _), _)| *at);
            let deadline = self.harness.core.poll_timeout();
            let Some(next) = event.into_iter().chain(deadline).min() else {
                break;
            };
            if next > end {
                break;
            }
            self.harness.now = self.harness.now.max(next);
            if event == Some(next) {
                if let Some((_, event)) = self.agenda.pop_first() {
                    self.harness.event(event);
                }
            } else {
                self.harness.core.handle_timeout(self.harness.now);
            }
        }
        self.harness.now = self.harness.now.max(end);
    }
}

#[test]
fn mqtt_long_duration() {
    for seed in 0..10 {
        let mut world = World::new(seed);
        let mut number = 0_u64;
        while world.harness.now - world.start < 10 * HOUR {
            let qos = if number.is_multiple_of(3) {
                QoS::AtMostOnce
            } else {
                QoS::AtLeastOnce
            };
            // One in ten is large.
            let size = if number.is_multiple_of(10) {
                100_000
            } else {
                0
            };
            // A number, padded with blanks.
            let payload = format!("{number}{}", " ".repeat(size));
            let receipt = world
                .harness
                .try_publish(Message::new("t", payload).qos(qos));
            world.receipts.push_back((qos, receipt.unwrap()));
            number += 1;
            let pause = Duration::from_secs(world.random.random_range(1..30));
            let next = world.harness.now + pause;
            world.run_until(next);
        }
        // Pending messages arrive, over any number of connections.
        let end = world.harness.now + HOUR;
        world.run_until(end);
        for (qos, mut receipt) in std::mem::take(&mut world.receipts) {
            let expected = match qos {
                QoS::AtMostOnce => Ack::Sent,
                QoS::AtLeastOnce => Ack::Acknowledged,
            };
            assert_eq!(outcome(&mut receipt), Some(Ok(expected)), "seed {seed}");
        }
        assert_eq!(
            world.arrived,
            (0..number).collect::<Vec<_>>(),
            "seed {seed}"
        );
        assert!(world.connections > 5, "{}", world.connections);
        let outbox = &world.harness.core.outbox;
        assert_eq!((outbox.len(), outbox.bytes()), (0, 0), "nothing is kept");
        // Connected or connecting.
        for _ in 0..10 {
            if world.online {
                break;
            }
            let end = world.harness.now + 60 * SECOND;
            world.run_until(end);
        }
        assert!(world.online, "seed {seed}");
    }
}
