//! Timers of the multiplexer: pings, idle and write timeouts, throttling, linger and drain.

use std::collections::VecDeque;
use std::time::Duration;

use super::channel::Phase;
use super::queue::BufferPool;
use super::transmit::Control;
use super::{Event, Mux, MuxConfig};
use crate::close::CloseReason;
use crate::codec::frame::ChannelId;
use crate::crypto::cipher::Role;
use crate::limits::Timeouts;
use crate::time::Timestamp;

/// Maximum pings without an answer; more would measure nothing new.
const MAX_PINGS: usize = 8;
/// Maximum extension of the ping timeout by received bytes. Data that a peer has queued ahead of
/// the answer, 64 MiB at 2 Mbit/s, has arrived by then; a peer that sends for longer without an
/// answer never answers, as on a garbled connection.
const MAX_PING_WAIT: Duration = Duration::from_secs(300);
/// Lifetime of pooled buffers: long enough that a megabyte of new ones costs a busy tunnel nothing.
const POOL_LIFETIME: Duration = Duration::from_secs(20);

#[derive(Debug)]
pub(super) struct Timers {
    timeouts: Timeouts,
    /// Pause after each large message.
    throttle_pause: Option<Duration>,
    throttled_until: Option<Timestamp>,
    /// Time of the last read or, for a client, write: a client's own pings show it that the peer is
    /// alive.
    last_activity: Timestamp,
    last_received: Timestamp,
    /// Time when a blocked connection accepted bytes again, which shows that the peer acknowledged
    /// some.
    last_unblocked: Timestamp,
    writes_are_activity: bool,
    /// Time since when the connection has accepted nothing although there is data to write.
    stalled_since: Option<Timestamp>,
    /// `None` for a server, and between [`Event::PingDue`] and the ping.
    next_ping: Option<Timestamp>,
    pings: VecDeque<(ChannelId, Timestamp)>,
    /// The earliest linger deadline of a closing channel.
    next_linger: Option<Timestamp>,
    /// Drain deadline, once draining has started.
    drain_until: Option<Timestamp>,
    /// When to drop the pooled buffers, if there are any.
    pool_expiry: Option<Timestamp>,
}

impl Timers {
    pub(super) fn new(config: &MuxConfig, now: Timestamp) -> Self {
        let timeouts = config.timeouts.clone();
        Self {
            throttle_pause: config
                .throttling
                .map(|rate| Duration::from_secs(1) / rate.get()),
            throttled_until: None,
            last_activity: now,
            last_received: now,
            last_unblocked: now,
            writes_are_activity: config.role == Role::Client,
            stalled_since: None,
            next_ping: (config.role == Role::Client).then(|| now + timeouts.ping_interval),
            pings: VecDeque::new(),
            next_linger: None,
            drain_until: None,
            pool_expiry: None,
            timeouts,
        }
    }

    pub(super) fn is_throttled(&self, now: Timestamp) -> bool {
        self.throttled_until.is_some_and(|until| now < until)
    }

    /// Starts the throttling pause after a large message, if throttling is on.
    pub(super) fn throttle(&mut self, now: Timestamp) -> bool {
        self.throttled_until = self.throttle_pause.map(|pause| now + pause);
        self.throttled_until.is_some()
    }

    pub(super) fn arm_linger(&mut self, deadline: Timestamp) {
        self.next_linger.get_or_insert(deadline);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    pub(super) fn arm_pool_expiry(&mut self, now: Timestamp) {
        self.pool_expiry.get_or_insert(now + POOL_LIFETIME);
    }

    pub(super) fn drain(&mut self, now: Timestamp) {
        self.drain_until = Some(now + self.timeouts.drain);
    }

    /// Returns the deadline of the oldest ping. While bytes arrive, the answer may be behind them:
    /// the reference puts up to 4 MiB into a frame, half a minute on a slow line. While bytes are
    /// sent slowly, the ping may be behind them.
    fn ping_deadline(&self) -> Option<Timestamp> {
        let (_, sent) = *self.pings.front()?;
        let answer = self.timeouts.ping_answer;
        let moved = sent.max(self.last_received).max(self.last_unblocked);
        Some((moved + answer).min(sent + answer.max(MAX_PING_WAIT)))
    }

    /// Removes and returns the pings that a pong with this `id` answers, if any: an answer shows
    /// that the earlier pings arrived too.
    fn answered(&mut self, id: ChannelId) -> impl Iterator<Item = (ChannelId, Timestamp)> {
        let position = self.pings.iter().position(|(ping, _)| *ping == id);
        self.pings
            .drain(..position.map_or(0, |position| position + 1))
    }
}

impl Mux {
    /// Sends a ping with a random `id`; its answer arrives as [`Event::Pong`]. Returns false if too
    /// many pings are unanswered.
    pub fn ping(&mut self, id: ChannelId, now: Timestamp) -> bool {
        if self.config.role == Role::Client {
            self.timers.next_ping = Some(now + self.timers.timeouts.ping_interval);
        }
        if self.ended || self.timers.pings.len() >= MAX_PINGS {
            return false;
        }
        self.timers.pings.push_back((id, now));
        self.control.push_back(Control::Ping(id));
        true
    }

    /// Returns the timeout for the answer to a ping.
    #[cfg(feature = "driver")]
    pub(crate) fn ping_answer(&self) -> Duration {
        self.timers.timeouts.ping_answer
    }

    /// Returns whether any bytes were received after `time`.
    #[cfg(feature = "driver")]
    pub(crate) fn has_received_since(&self, time: Timestamp) -> bool {
        self.timers.last_received > time
    }

    /// Emits an event for each ping that this pong answers. Returns whether it answers any.
    pub(super) fn handle_pong(&mut self, id: ChannelId, now: Timestamp) -> bool {
        let before = self.events.len();
        let answered = self.timers.answered(id).map(|(id, sent)| Event::Pong {
            id,
            elapsed: now - sent,
        });
        self.events.extend(answered);
        self.events.len() > before
    }

    /// Records that bytes were read from the connection.
    pub fn handle_received(&mut self, now: Timestamp) {
        self.timers.last_activity = now;
        self.timers.last_received = now;
    }

    /// Records that the connection accepted bytes. For a server this is no sign that its peer is
    /// alive: it does not ping, and the system accepts bytes for a dead peer while its buffers have
    /// room.
    pub fn handle_sent(&mut self, now: Timestamp) {
        if self.timers.writes_are_activity {
            self.timers.last_activity = now;
        }
        if self.timers.stalled_since.take().is_some() {
            self.timers.last_unblocked = now;
        }
    }

    /// Records that the connection accepts no bytes although there are some to write.
    pub fn handle_write_blocked(&mut self, now: Timestamp) {
        self.timers.stalled_since.get_or_insert(now);
    }

    /// Returns when to call [`Mux::handle_timeout`].
    pub fn poll_timeout(&self) -> Option<Timestamp> {
        let timers = &self.timers;
        let idle = timers.timeouts.idle;
        let throttled = timers.throttled_until.filter(|_| !self.deferred.is_empty());
        let window = self.in_flight.probe_deadline();
        [
            Some(timers.last_activity + idle),
            timers.stalled_since.map(|since| since + idle),
            timers.next_ping,
            timers.ping_deadline(),
            timers.next_linger,
            timers.drain_until,
            self.backpressure.deadline(),
            self.pacing_deadline(),
            throttled,
            window.filter(|_| !self.deferred.is_empty()),
            timers.pool_expiry,
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Handles the timers that are due at `now`.
    ///
    /// # Errors
    /// The reason to end the connection.
    pub fn handle_timeout(&mut self, now: Timestamp) -> Result<(), CloseReason> {
        let idle = self.timers.timeouts.idle;
        if self.timers.drain_until.is_some_and(|until| until <= now) {
            return Err(CloseReason::Local);
        }
        if self
            .timers
            .ping_deadline()
            .is_some_and(|until| until <= now)
        {
            return Err(CloseReason::PingTimeout);
        }
        if self
            .timers
            .stalled_since
            .is_some_and(|since| since + idle <= now)
        {
            return Err(CloseReason::WriteStalled);
        }
        if self.timers.last_activity + idle <= now {
            return Err(CloseReason::Idle);
        }
        if self.timers.next_ping.is_some_and(|due| due <= now) {
            self.timers.next_ping = None;
            self.events.push_back(Event::PingDue);
        }
        if self
            .timers
            .throttled_until
            .is_some_and(|until| until <= now)
        {
            self.timers.throttled_until = None;
            self.resume_deferred(now);
        }
        if self
            .in_flight
            .probe_deadline()
            .is_some_and(|due| due <= now)
        {
            self.in_flight.on_probe_timeout();
            self.resume_deferred(now);
        }
        self.resume_paced(now);
        if self.timers.next_linger.is_some_and(|due| due <= now) {
            self.expire_lingering(now);
        }
        if self.timers.pool_expiry.is_some_and(|due| due <= now) {
            self.timers.pool_expiry = None;
            self.pool = BufferPool::default();
        }
        Ok(())
    }

    /// Drops the data of closing channels whose linger deadline has passed, so that CLOSE is sent.
    fn expire_lingering(&mut self, now: Timestamp) {
        self.timers.next_linger = None;
        for key in self.keys() {
            let Some(channel) = super::channel_mut(&mut self.slots, key) else {
                continue;
            };
            if let Phase::Closing { deadline } = channel.phase {
                if deadline <= now {
                    let cleared = channel.send.clear(&mut self.pool);
                    channel.phase = Phase::LingerExpired;
                    self.make_room(cleared);
                    if let Some(at) = self.deferred.iter().position(|owned| *owned == key) {
                        // It has no bulk left that would have to wait.
                        self.deferred.remove(at);
                        self.ready.push_back(key);
                    }
                    self.schedule(key);
                } else {
                    let next = self.timers.next_linger.get_or_insert(deadline);
                    *next = (*next).min(deadline);
                }
            }
        }
    }
}
