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
//! Invariants: exactly one phase, which carries all that belongs to it alone; nothing but the
//! birth message leaves before the subscriptions are granted and the on-connect hooks have ended;
//! every phase but `Online` (which has keep-alive) and `Stopped` has a deadline.
//!
//! See docs/protocol.md, "IoT messaging".

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

use crate::backoff::Failures;
use crate::cause::Cause;
use crate::config::SessionConfig;
use crate::error::{DeliveryError, PublishError, RequestError};
use crate::event::{SessionEvent, SessionState};
use crate::link::{LinkEvent, ServerTerms};
use crate::message::{Message, Subscription};
use crate::outbox::{MessageId, OutOfStep, Outbox, Window};
use crate::receipt::Receipt;
use crate::requests::Requests;

/// How long the core waits beyond rumqttc's own limit for a connection before it gives up.
const CONNECT_GRACE: Duration = Duration::from_secs(1);

/// A connection that ends within this time without a word is likely to have been ended in favour
/// of another client with the same id.
const SOON: Duration = Duration::from_secs(10);

/// The part of a stop's time that emptying the outbox may take; the rest is kept for the goodbye.
const FLUSH_SHARE: f64 = 0.75;

/// What the driver is to do.
#[derive(Debug)]
pub(crate) enum Action {
    /// Make a new connection.
    Open,
    /// Send a SUBSCRIBE.
    Subscribe(Vec<Subscription>),
    /// Start the on-connect hooks; report with [`Core::hooks_finished`].
    ConnectHooks,
    /// Send a PUBLISH.
    Publish(Message),
    /// Hand a received message to routes and streams.
    Deliver {
        message: Message,
        /// Whether a request has taken it as its answer.
        answered: bool,
    },
    /// Send DISCONNECT.
    Disconnect,
    /// Drop the connection, and hooks that still run.
    Close,
    /// Start the on-disconnect hooks; report with [`Core::hooks_finished`].
    DisconnectHooks(Option<Arc<Cause>>),
    /// Tell the state.
    State(SessionState),
    /// Tell what happened.
    Event(SessionEvent),
    /// Nothing is left to do.
    End,
}

/// What belongs to one connection.
#[derive(Debug)]
struct Link {
    since: Instant,
    terms: ServerTerms,
    window: Window,
    /// When the answer to a ping is overdue.
    ping_due: Option<Instant>,
}

#[derive(Debug)]
enum Phase {
    /// Waiting for CONNACK until `due`.
    Connecting {
        due: Instant,
    },
    /// Waiting for the SUBACK of the filters `from..to` until `due`.
    Subscribing {
        link: Link,
        from: usize,
        to: usize,
        due: Instant,
    },
    /// The on-connect hooks run. Each has its own limit; the driver reports when all have ended.
    Greeting {
        link: Link,
    },
    /// Messages flow.
    Online {
        link: Link,
    },
    /// Saying goodbye until `deadline`. `greeted`: on-connect hooks have been started.
    Draining {
        link: Link,
        step: Drain,
        deadline: Instant,
        greeted: bool,
    },
    /// The on-disconnect hooks of a stop run until `deadline`.
    Closing {
        deadline: Instant,
    },
    /// Waiting before the next attempt: for the time, and for hooks that still run.
    Waiting {
        until: Instant,
        hooks: bool,
    },
    Stopped,
}

/// How far a goodbye has come.
#[derive(Debug, Clone, Copy)]
enum Drain {
    /// The outbox is being emptied, until then.
    Flushing(Instant),
    /// The goodbye is on its way.
    Goodbye(MessageId),
    /// DISCONNECT is on its way.
    Leaving,
}

/// How a session ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub struct StopReport {
    /// Whether the connection was closed in order: goodbye and DISCONNECT written.
    pub clean: bool,
    /// Accepted messages that were not delivered; their receipts say so.
    pub undelivered: usize,
}

/// The source of random numbers, uniform in 0–1.
pub(crate) type Random = Box<dyn FnMut() -> f64 + Send>;

pub(crate) struct Core {
    config: Arc<SessionConfig>,
    random: Random,
    phase: Phase,
    failures: Failures,
    outbox: Outbox,
    requests: Requests,
    actions: VecDeque<Action>,
    report: StopReport,
}

impl Core {
    /// A session that opens its first connection at once.
    pub(crate) fn new(config: Arc<SessionConfig>, random: Random, now: Instant) -> Self {
        let outbox = Outbox::new(config.limits.outbox_messages, config.limits.outbox_bytes);
        let mut core = Self {
            config,
            random,
            phase: Phase::Stopped,
            failures: Failures::default(),
            outbox,
            requests: Requests::default(),
            actions: VecDeque::new(),
            report: StopReport::default(),
        };
        core.open(now);
        core
    }

    /// The next thing to do, in order.
    pub(crate) fn poll_action(&mut self) -> Option<Action> {
        self.actions.pop_front()
    }

    /// How the session ended, once it has.
    pub(crate) fn report(&self) -> StopReport {
        self.report
    }

    /// Accepts a message for delivery.
    pub(crate) fn publish(&mut self, message: Message) -> Result<Receipt, PublishError> {
        self.accept(message).map(|(_, receipt)| receipt)
    }

    fn accept(&mut self, message: Message) -> Result<(MessageId, Receipt), PublishError> {
        if self.is_stopping() {
            return Err(PublishError::Stopped);
        }
        message.check_topic(self.config.limits.topic_bytes)?;
        let (size, limit) = (message.payload.len(), self.config.limits.payload_bytes);
        if size > limit {
            return Err(PublishError::TooLarge { size, limit });
        }
        let (reply, receiver) = oneshot::channel();
        let id = self.outbox.accept(message, reply)?;
        self.send_queued();
        Ok((id, Receipt::new(receiver)))
    }

    /// Accepts a request: a message whose answer is the next message on `reply_topic`.
    pub(crate) fn request(
        &mut self,
        message: Message,
        reply_topic: String,
        answer: oneshot::Sender<Message>,
    ) -> Result<(MessageId, Receipt), RequestError> {
        self.requests
            .check(&reply_topic, self.config.limits.requests)?;
        let (id, receipt) = self.accept(message)?;
        self.requests.add(id, reply_topic, answer);
        Ok((id, receipt))
    }

    /// Nobody waits for the answer any more. A request that has not left will not.
    pub(crate) fn forget_request(&mut self, id: MessageId) {
        self.requests.remove(id);
        self.outbox.withdraw(id);
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
            LinkEvent::Subscribed(codes) => self.subscribed(&codes, now),
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
            LinkEvent::Acknowledged(id, reason) => match self.outbox.acknowledged(id, reason) {
                Ok(()) => self.advance(now),
                Err(OutOfStep) => self.out_of_step("PUBACK", now),
            },
            LinkEvent::Message(message) => {
                let answered = self.requests.answer(&message);
                self.actions
                    .push_back(Action::Deliver { message, answered });
            }
            LinkEvent::Pinged => {
                if let Some(link) = self.link() {
                    link.ping_due = Some(now + link.terms.keep_alive / 2);
                }
            }
            LinkEvent::Ponged => {
                if let Some(link) = self.link() {
                    link.ping_due = None;
                }
            }
            LinkEvent::Disconnected => {
                if matches!(
                    self.phase,
                    Phase::Draining {
                        step: Drain::Leaving,
                        ..
                    }
                ) {
                    self.report.clean = true;
                    self.close(now);
                }
            }
            LinkEvent::Lost(cause) => self.lost(cause, now),
        }
    }

    /// All hooks that were started have ended.
    pub(crate) fn hooks_finished(&mut self, now: Instant) {
        match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Greeting { link } => self.go_online(link),
            Phase::Waiting { until, .. } => {
                self.phase = Phase::Waiting {
                    until,
                    hooks: false,
                };
                self.handle_timeout(now);
            }
            Phase::Closing { .. } => self.end(),
            phase => self.phase = phase,
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is to be called.
    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Connecting { due } => Some(*due),
            Phase::Subscribing { link, due, .. } => earliest([Some(*due), link.ping_due]),
            Phase::Greeting { link } => link.ping_due,
            Phase::Online { link } => earliest([link.ping_due, self.outbox.next_due()]),
            Phase::Draining { step, deadline, .. } => match step {
                Drain::Flushing(until) => Some((*until).min(*deadline)),
                Drain::Goodbye(_) | Drain::Leaving => Some(*deadline),
            },
            Phase::Closing { deadline } => Some(*deadline),
            Phase::Waiting { hooks: true, .. } | Phase::Stopped => None,
            Phase::Waiting {
                until,
                hooks: false,
            } => Some(*until),
        }
    }

    /// Does what is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.next_deadline().is_none_or(|deadline| deadline > now) {
            return;
        }
        match &self.phase {
            Phase::Connecting { .. } => self.lost(Cause::ConnectTimeout, now),
            Phase::Subscribing { due, .. } if *due <= now => {
                self.lost(Cause::SubscribeTimeout, now)
            }
            Phase::Online { link } if link.ping_due.is_none_or(|due| due > now) => {
                self.lost(Cause::AcknowledgeTimeout, now);
            }
            Phase::Subscribing { .. } | Phase::Greeting { .. } | Phase::Online { .. } => {
                self.lost(Cause::KeepAlive, now);
            }
            Phase::Draining {
                step: Drain::Flushing(_),
                deadline,
                ..
            } if *deadline > now => self.advance(now),
            Phase::Draining { .. } => self.close(now),
            Phase::Closing { .. } => self.end(),
            Phase::Waiting { .. } => self.open(now),
            Phase::Stopped => {}
        }
    }

    /// Stops the session, `deadline` being when it must have ended. Again, it may only be sooner.
    pub(crate) fn stop(&mut self, deadline: Instant, now: Instant) {
        let (link, step, greeted) = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Online { link } => {
                let time = deadline.saturating_duration_since(now).mul_f64(FLUSH_SHARE);
                (link, Drain::Flushing(now + time), true)
            }
            Phase::Greeting { link } => (link, Drain::Leaving, true),
            Phase::Subscribing { link, .. } => (link, Drain::Leaving, false),
            Phase::Waiting { hooks: true, .. } => {
                self.actions
                    .push_back(Action::State(SessionState::Stopping));
                self.report.clean = true;
                self.phase = Phase::Closing { deadline };
                return;
            }
            Phase::Connecting { .. } | Phase::Waiting { .. } => {
                self.actions.push_back(Action::Close);
                self.report.clean = true;
                return self.end();
            }
            mut phase => {
                if let Phase::Draining { deadline: end, .. } | Phase::Closing { deadline: end } =
                    &mut phase
                {
                    *end = deadline.min(*end);
                }
                self.phase = phase;
                return;
            }
        };
        self.actions
            .push_back(Action::State(SessionState::Stopping));
        if matches!(step, Drain::Leaving) {
            self.actions.push_back(Action::Disconnect);
        }
        self.phase = Phase::Draining {
            link,
            step,
            deadline,
            greeted,
        };
        self.advance(now);
    }

    /// The driver ended without being told to: nobody is left to deliver anything.
    pub(crate) fn abandon(&mut self) {
        if !matches!(self.phase, Phase::Stopped) {
            self.end();
        }
    }

    fn open(&mut self, now: Instant) {
        self.phase = Phase::Connecting {
            due: now + self.config.timeouts.connect + CONNECT_GRACE,
        };
        let attempt = self.failures.count().saturating_add(1);
        self.actions
            .push_back(Action::State(SessionState::Connecting { attempt }));
        self.actions.push_back(Action::Open);
    }

    fn connected(&mut self, terms: ServerTerms, now: Instant) {
        if !matches!(self.phase, Phase::Connecting { .. }) {
            return;
        }
        if terms.receive_maximum == 0 {
            return self.lost(
                Cause::Protocol("CONNACK with a receive maximum of 0".into()),
                now,
            );
        }
        let window = Window::new(terms.receive_maximum.min(self.config.limits.in_flight));
        let link = Link {
            since: now,
            terms,
            window,
            ping_due: None,
        };
        self.subscribe(link, 0, now);
    }

    /// Asks for the subscriptions from `from` on, or goes on if there are none left.
    fn subscribe(&mut self, mut link: Link, from: usize, now: Instant) {
        let all = &self.config.subscriptions;
        let to = all
            .len()
            .min(from + self.config.limits.filters_per_subscribe);
        let batch = all.get(from..to).unwrap_or_default();
        if batch.is_empty() {
            self.actions.push_back(Action::ConnectHooks);
            self.phase = Phase::Greeting { link };
            return;
        }
        link.window.take();
        self.actions.push_back(Action::Subscribe(batch.to_vec()));
        let due = now + self.config.timeouts.subscribe;
        self.phase = Phase::Subscribing {
            link,
            from,
            to,
            due,
        };
    }

    fn subscribed(&mut self, codes: &[crate::ReasonCode], now: Instant) {
        let (link, from, to) = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Subscribing { link, from, to, .. } if codes.len() == to - from => {
                (link, from, to)
            }
            // Being asked to stop, the answer is of no interest any more.
            phase @ Phase::Draining { .. } => {
                self.phase = phase;
                return;
            }
            phase => {
                self.phase = phase;
                return self.out_of_step("SUBACK", now);
            }
        };
        let batch = self.config.subscriptions.iter().skip(from);
        let refused = batch.zip(codes).find(|(_, code)| code.is_failure());
        if let Some((subscription, reason)) = refused {
            let cause = Cause::SubscriptionRefused {
                filter: subscription.filter.clone(),
                reason: *reason,
            };
            self.phase = Phase::Subscribing {
                link,
                from,
                to,
                due: now,
            };
            return self.lost(cause, now);
        }
        self.subscribe(link, to, now);
    }

    fn go_online(&mut self, mut link: Link) {
        if let Some(birth) = self.config.birth.clone() {
            match link.terms.check(&birth) {
                Ok(()) => {
                    if let Some((_, birth)) = self.outbox.hand_over_own(birth, &mut link.window) {
                        self.actions.push_back(Action::Publish(birth));
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "the birth message cannot be sent to this server")
                }
            }
        }
        let since = link.since.into_std();
        self.phase = Phase::Online { link };
        self.send_queued();
        self.actions
            .push_back(Action::State(SessionState::Online { since }));
        self.actions
            .push_back(Action::Event(SessionEvent::Connected));
    }

    /// Hands over what the window has room for.
    fn send_queued(&mut self) {
        let link = match &mut self.phase {
            Phase::Online { link }
            | Phase::Draining {
                link,
                step: Drain::Flushing(_),
                ..
            } => link,
            _ => return,
        };
        while let Some(message) = self.outbox.hand_over(&mut link.window, &link.terms) {
            self.actions.push_back(Action::Publish(message));
        }
    }

    /// Takes the next step after something was delivered.
    fn advance(&mut self, now: Instant) {
        self.send_queued();
        let Phase::Draining { link, step, .. } = &mut self.phase else {
            return;
        };
        if let Drain::Flushing(until) = *step
            && (self.outbox.is_empty() || until <= now)
        {
            *step = Drain::Leaving;
            if let Some(goodbye) = self.config.goodbye.clone()
                && link.terms.check(&goodbye).is_ok()
                && let Some((id, goodbye)) = self.outbox.hand_over_own(goodbye, &mut link.window)
            {
                self.actions.push_back(Action::Publish(goodbye));
                *step = Drain::Goodbye(id);
                return;
            }
            self.actions.push_back(Action::Disconnect);
        } else if let Drain::Goodbye(id) = *step
            && !self.outbox.is_pending(id)
        {
            *step = Drain::Leaving;
            self.actions.push_back(Action::Disconnect);
        }
    }

    fn link(&mut self) -> Option<&mut Link> {
        match &mut self.phase {
            Phase::Subscribing { link, .. }
            | Phase::Greeting { link }
            | Phase::Online { link }
            | Phase::Draining { link, .. } => Some(link),
            _ => None,
        }
    }

    fn out_of_step(&mut self, packet: &str, now: Instant) {
        self.lost(
            Cause::Protocol(format!("a {packet} that does not fit what was sent")),
            now,
        );
    }

    fn lost(&mut self, cause: Cause, now: Instant) {
        let (link, greeted) = match std::mem::replace(&mut self.phase, Phase::Stopped) {
            Phase::Connecting { .. } => (None, false),
            Phase::Subscribing { link, .. } => (Some(link), false),
            Phase::Greeting { link } | Phase::Online { link } => (Some(link), true),
            phase @ Phase::Draining { .. } => {
                self.phase = phase;
                return self.close(now);
            }
            phase => {
                self.phase = phase;
                return;
            }
        };
        self.outbox.connection_lost();
        let connected = link.map(|link| now.saturating_duration_since(link.since));
        let cause = match (cause, connected) {
            (Cause::Closed { .. }, _) => Cause::Closed {
                soon: connected.is_some_and(|time| time < SOON),
            },
            // The system gave up on a connection that had been made.
            (Cause::ConnectTimeout, Some(_)) => Cause::KeepAlive,
            (other, _) => other,
        };
        // Two clients with one id take the session from each other. Each is online in the other's
        // wait, so that time spent connected must not count, or this would go on at full pace.
        let credited = if cause.is_takeover() { None } else { connected };
        let failures = self.failures.record(&self.config.backoff, credited);
        let retry_in = self.config.backoff.delay(failures, (self.random)());
        let cause = Arc::new(cause);
        self.phase = Phase::Waiting {
            until: now + retry_in,
            hooks: greeted,
        };
        self.actions.push_back(Action::Close);
        let state = SessionState::Waiting {
            retry_in,
            cause: Arc::clone(&cause),
        };
        self.actions.push_back(Action::State(state));
        let event = SessionEvent::Disconnected {
            reason: Arc::clone(&cause),
            retry_in,
        };
        self.actions.push_back(Action::Event(event));
        if greeted {
            self.actions.push_back(Action::DisconnectHooks(Some(cause)));
        }
    }

    /// Drops the connection of a stop and runs the last hooks.
    fn close(&mut self, now: Instant) {
        self.actions.push_back(Action::Close);
        match self.phase {
            Phase::Draining {
                deadline,
                greeted: true,
                ..
            } if deadline > now => {
                self.actions.push_back(Action::DisconnectHooks(None));
                self.phase = Phase::Closing { deadline };
            }
            _ => self.end(),
        }
    }

    fn end(&mut self) {
        self.report.undelivered = self.outbox.len();
        self.outbox.fail_all(DeliveryError::Stopped);
        self.requests.clear();
        self.phase = Phase::Stopped;
        self.actions.push_back(Action::Event(SessionEvent::Stopped));
        self.actions.push_back(Action::End);
    }
}

fn earliest<const N: usize>(times: [Option<Instant>; N]) -> Option<Instant> {
    times.into_iter().flatten().min()
}

#[cfg(test)]
#[path = "core_tests.rs"]
mod tests;
