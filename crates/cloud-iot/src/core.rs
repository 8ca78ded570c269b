//! The session's decisions, without sockets, tasks, clock or randomness.
//!
//! Time and random numbers are inputs. What happened goes in through [`Core::publish`],
//! [`Core::link_event`], [`Core::hooks_finished`], [`Core::handle_timeout`] and [`Core::stop`];
//! what is to be done comes out of [`Core::poll_action`], in order; and [`Core::next_deadline`]
//! says when to call again. The [driver](crate::driver) carries the actions out.
//!
//! ```text
//! Connecting → Subscribing → Greeting → Online → Draining → Closing → Stopped
//!      ↑            ↓            ↓         ↓
//!      └───────── Waiting ←──────┴─────────┘
//! ```
//!
//! `Renewing` lies between `Online` and `Waiting` where a connection is left for another one.
//!
//! Invariants: exactly one phase, which carries all that belongs to it alone; nothing but the
//! birth message leaves before the subscriptions are granted and the on-connect hooks have ended;
//! every phase but `Stopped` has a deadline (that of `Online` is keep-alive), or waits for hooks, which
//! have their own.
//!
//! It is called under a lock, so that nothing in here, nor in the outbox, writes to the log: see [`Note`](crate::outbox::Note).
//!
//! See docs/protocol.md, "IoT messaging".

mod accepting;
mod connecting;
mod deadlines;
mod phase;
mod pulse;
mod receiving;
mod recent_topics;
mod renewing;
mod stopping;
mod subscribing;
mod way;

use std::collections::VecDeque;
use std::sync::Arc;

use tokio::time::Instant;

pub(crate) use self::phase::Action;
use self::phase::{Drain, Link, Phase};
pub use self::stopping::StopReport;
use self::way::Ways;
pub(crate) use self::way::{Family, Port, Way};
use crate::backoff::{Failures, Retry};
use crate::cause::Cause;
use crate::config::SessionConfig;
use crate::event::SessionEvent;
use crate::inbound::{Inbound, MAX_UNACKNOWLEDGED};
use crate::ledger::Batch;
use crate::link::LinkEvent;
use crate::measures::Measures;
use crate::outbox::{Next, OutOfStep, Outbox, Restored};
use crate::reason::ReasonCode;
use crate::requests::Requests;
use crate::store::StoreError;

/// The source of random numbers, uniform in 0–1.
pub(crate) type Random = Box<dyn FnMut() -> f64 + Send>;

pub(crate) struct Core {
    config: Arc<SessionConfig>,
    random: Random,
    phase: Phase,
    failures: Failures,
    /// Where the next attempt goes.
    ways: Ways,
    /// When the last one was begun.
    opened: Instant,
    /// The one before was given up early, for the network had changed.
    cut_short: bool,
    outbox: Outbox,
    /// When the pace lets the next message leave, if that is what it waits for.
    resume_at: Option<Instant>,
    requests: Requests,
    inbound: Inbound,
    /// Until when a quiet moment to leave this connection for another one is waited for.
    renew_by: Option<Instant>,
    /// Whether the server has granted all subscriptions of the session that it keeps.
    granted: bool,
    actions: VecDeque<Action>,
    report: StopReport,
    measures: Measures,
}

impl Core {
    /// A session that opens its first connection at once.
    pub(crate) fn new(config: Arc<SessionConfig>, random: Random, now: Instant) -> Self {
        let outbox = Outbox::new(&config.limits, config.overflow);
        let inbound = Inbound::new(MAX_UNACKNOWLEDGED);
        let ways = Ways::new(&config);
        let measures = Measures::new(&config.client_id);
        let mut core = Self {
            config,
            measures,
            random,
            phase: Phase::Stopped,
            failures: Failures::default(),
            ways,
            opened: now,
            cut_short: false,
            outbox,
            resume_at: None,
            requests: Requests::default(),
            inbound,
            renew_by: None,
            granted: false,
            actions: VecDeque::new(),
            report: StopReport::default(),
        };
        core.open(now);
        core
    }

    /// Begins with what a store has kept, and has what is accepted from now on stored.
    pub(crate) fn restore(&mut self, former: Vec<Restored>) {
        self.outbox.restore(former, self.config.store_delay);
    }

    /// The next thing to do, in order.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        let note = self.outbox.take_note().map(Action::Note);
        note.or_else(|| self.actions.pop_front())
    }

    /// The port of the connection that there is, or of the next one.
    pub(crate) fn port(&self) -> u16 {
        self.ways.port()
    }

    /// How the session ended, once it has.
    pub(crate) fn report(&mut self) -> StopReport {
        StopReport {
            kept: self.outbox.ledger().map_or(0, |ledger| ledger.kept()),
            ..self.report
        }
    }

    /// Whether the session has been told to stop.
    pub(crate) fn is_stopping(&self) -> bool {
        matches!(
            self.phase,
            Phase::Draining { .. } | Phase::Closing { .. } | Phase::Stopped
        )
    }

    /// Something happened on the connection.
    pub(crate) fn link_event(&mut self, event: LinkEvent, now: Instant) {
        match event {
            LinkEvent::Connected(terms) => self.connected(terms, now),
            LinkEvent::Subscribed(packet_id, codes) => self.subscribed(packet_id, &codes, now),
            LinkEvent::Written(id) => {
                match self
                    .outbox
                    .written(id, now, self.config.timeouts.acknowledge)
                {
                    Ok(message) => {
                        self.requests.written(message);
                        self.advance(now);
                    }
                    Err(OutOfStep) => self.out_of_step("PUBLISH", now),
                }
            }
            LinkEvent::Acknowledged(id, reason) => self.acknowledged(id, reason, now),
            LinkEvent::Message(incoming) => self.received(incoming, now),
            LinkEvent::Nameless {
                packet_id,
                duplicate,
            } => self.received_nameless(packet_id, duplicate, now),
            LinkEvent::Progress => self.progress(now),
            LinkEvent::Pinged => {
                if let Some(link) = self.link() {
                    link.pulse.pinged();
                }
            }
            LinkEvent::Ponged => {
                if let Some(link) = self.link() {
                    link.pulse.ponged(now);
                }
            }
            LinkEvent::Disconnected => {
                if self.is_leaving() {
                    self.report.clean = true;
                    self.close(now);
                } else if matches!(self.phase, Phase::Renewing { .. }) {
                    self.lost(Cause::Renewed, now);
                }
            }
            LinkEvent::Lost(cause) => self.lost(cause, now),
        }
        self.leave_if_quiet(now);
    }

    /// How the writing of a batch to the store went.
    pub(crate) fn stored(&mut self, outcome: Result<(), StoreError>, now: Instant) {
        if let Some(error) = self.outbox.stored(outcome, now) {
            let event = SessionEvent::StoreFailed { error };
            self.actions.push_back(Action::Event(event));
        }
    }

    /// What is left to be stored when the session has ended; again and again until nothing is.
    pub(crate) fn last_batch(&mut self) -> Option<Batch> {
        self.outbox.ledger()?.collect_last()
    }

    fn acknowledged(&mut self, packet_id: u16, reason: ReasonCode, now: Instant) {
        let limit = self.config.timeouts.acknowledge;
        let due = self.outbox.due(packet_id);
        let Ok(answered) = self.outbox.acknowledged(packet_id, reason, now) else {
            return self.out_of_step("PUBACK", now);
        };
        if answered.deferred {
            let (backoff, random) = (&self.config.backoff, &mut self.random);
            let wait = |pauses| backoff.delay(Retry::Busy, pauses, random());
            self.outbox.hold_back(reason, now, wait);
        }
        // It was written the limit before it is due.
        let after = due.map(|due| (now + limit).saturating_duration_since(due));
        self.measures.acknowledged(after, reason.is_failure());
        self.sign_of_life(now);
        if let Some(link) = self.link().filter(|_| answered.oldest) {
            link.patience = Some(now + limit);
        }
        self.advance(now);
    }

    /// The server receives what we send, however slowly: it is there, and acknowledgements may take their time.
    fn progress(&mut self, now: Instant) {
        self.sign_of_life(now);
        let limit = self.config.timeouts.acknowledge;
        if let Some(link) = self.link() {
            link.patience = Some(now + limit);
        }
    }

    /// Tells the measures how it stands.
    pub(crate) fn measure(&mut self, now: Instant) {
        let (queued, in_flight) = self.outbox.counts();
        self.measures.tell(queued, in_flight, now);
    }

    /// All hooks that were started have ended.
    pub(crate) fn hooks_finished(&mut self, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Greeting { link } => {
                self.go_online(link, now);
                self.leave_if_quiet(now);
            }
            Phase::Waiting {
                until,
                network,
                identity,
                ..
            } => {
                self.phase = Phase::Waiting {
                    until,
                    hooks: false,
                    network,
                    identity,
                };
                self.handle_timeout(now);
            }
            Phase::Closing { .. } => self.end(),
            phase => self.phase = phase,
        }
    }

    /// Hands over what window and pace have room for.
    fn send_queued(&mut self, now: Instant) {
        let link = match &mut self.phase {
            Phase::Online { link }
            | Phase::Draining {
                link,
                step: Drain::Flushing(_),
                ..
            } => link,
            _ => return,
        };
        self.resume_at = loop {
            match self.outbox.hand_over(&mut link.window, &link.terms, now) {
                Next::Message(message) => {
                    link.pulse.said(now);
                    link.recent.publish(&message.message.topic);
                    self.actions.push_back(Action::Publish(message));
                }
                Next::At(time) => break Some(time),
                Next::Nothing => break None,
            }
        };
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Subscribing { link, .. }
            | Phase::Greeting { link }
            | Phase::Online { link }
            | Phase::Renewing { link, .. }
            | Phase::Draining { link, .. } => Some(link),
            _ => None,
        }
    }

    fn sign_of_life(&mut self, now: Instant) {
        if let Some(link) = self.link() {
            link.pulse.heard(now);
        }
    }

    /// Whether DISCONNECT is on its way, after which nothing may be sent.
    fn is_leaving(&self) -> bool {
        matches!(
            self.phase,
            Phase::Draining {
                step: Drain::Leaving,
                ..
            }
        )
    }

    fn out_of_step(&mut self, packet: &str, now: Instant) {
        self.lost(
            Cause::Protocol(format!("a {packet} that does not fit what was sent")),
            now,
        );
    }
}

#[cfg(test)]
mod tests;
