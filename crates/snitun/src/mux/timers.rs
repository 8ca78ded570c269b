//! Everything of the multiplexer that depends on time.

use std::collections::VecDeque;
use std::time::Duration;

use super::channel::Phase;
use super::transmit::Control;
use super::{Event, Mux, MuxConfig};
use crate::cipher::Role;
use crate::close::CloseReason;
use crate::frame::ChannelId;
use crate::limits::Timeouts;
use crate::moment::Moment;

/// Pings that may wait for an answer; asking more often than that tells nothing new.
const MAX_PINGS: usize = 8;
/// The longest time that bytes which come in put the end of a ping's time off. What a peer has queued ahead of the answer, 64 MiB at
/// 2 Mbit/s, has come by then; a peer that sends for longer without an answer gives none, as where the connection is
/// garbled.
const LONGEST_ANSWER: Duration = Duration::from_secs(300);

#[derive(Debug)]
pub(super) struct Timers {
    timeouts: Timeouts,
    /// Pause after each large message.
    throttle_pause: Option<Duration>,
    throttled_until: Option<Moment>,
    /// When something was last read or, at a client, written: a client's own pings show it that the peer lives.
    last_activity: Moment,
    last_received: Moment,
    /// When the connection that took nothing took bytes again: its other end has acknowledged some.
    last_unblocked: Moment,
    writes_are_activity: bool,
    /// Since when the connection takes nothing although there is something to write.
    stalled_since: Option<Moment>,
    /// `None` for an end that does not ping, and between [`Event::PingDue`] and the ping.
    next_ping: Option<Moment>,
    pings: VecDeque<(ChannelId, Moment)>,
    /// When to look whether a closing channel has lingered too long.
    next_linger: Option<Moment>,
    /// When draining ends, once it has begun.
    drain_until: Option<Moment>,
}

impl Timers {
    pub(super) fn new(config: &MuxConfig, now: Moment) -> Self {
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
            timeouts,
        }
    }

    pub(super) fn is_throttled(&self, now: Moment) -> bool {
        self.throttled_until.is_some_and(|until| now < until)
    }

    /// Begins the pause after a large message, if there is to be one.
    pub(super) fn throttle(&mut self, now: Moment) -> bool {
        self.throttled_until = self.throttle_pause.map(|pause| now + pause);
        self.throttled_until.is_some()
    }

    pub(super) fn lingers(&mut self, give_up: Moment) {
        self.next_linger.get_or_insert(give_up);
    }

    pub(super) fn is_draining(&self) -> bool {
        self.drain_until.is_some()
    }

    pub(super) fn drain(&mut self, now: Moment) {
        self.drain_until = Some(now + self.timeouts.drain);
    }

    /// When the oldest ping of ours is given up. As long as bytes come in, the answer may be behind them: the reference puts
    /// up to 4 MiB into a frame, half a minute of a slow line. And as long as bytes go out, slowly, the ping may be behind them.
    fn ping_given_up(&self) -> Option<Moment> {
        let (_, sent) = *self.pings.front()?;
        let answer = self.timeouts.ping_answer;
        let moved = sent.max(self.last_received).max(self.last_unblocked);
        Some((moved + answer).min(sent + answer.max(LONGEST_ANSWER)))
    }

    /// The pings of ours that an answer to the one with this `id` answers, none if it is not ours: any answer shows that
    /// the earlier pings arrived too.
    fn answered(&mut self, id: ChannelId) -> impl Iterator<Item = (ChannelId, Moment)> {
        let position = self.pings.iter().position(|(ping, _)| *ping == id);
        self.pings
            .drain(..position.map_or(0, |position| position + 1))
    }
}

impl Mux {
    /// Sends a ping with a random `id`; its answer comes as [`Event::Pong`]. Returns whether it will be sent: pings that
    /// are not answered are not piled up.
    pub fn ping(&mut self, id: ChannelId, now: Moment) -> bool {
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

    /// How long the answer to a ping may take.
    #[cfg(feature = "driver")]
    pub(crate) fn ping_answer(&self) -> Duration {
        self.timers.timeouts.ping_answer
    }

    /// Whether anything at all has come in since.
    #[cfg(feature = "driver")]
    pub(crate) fn has_heard_since(&self, moment: Moment) -> bool {
        self.timers.last_received > moment
    }

    /// Tells of each ping that the answer to this one answers. Returns whether it is a ping of ours.
    pub(super) fn handle_pong(&mut self, id: ChannelId, now: Moment) -> bool {
        let before = self.events.len();
        let answered = self.timers.answered(id).map(|(id, sent)| Event::Pong {
            id,
            elapsed: now - sent,
        });
        self.events.extend(answered);
        self.events.len() > before
    }

    /// Notes that bytes were read from the connection.
    pub fn handle_received(&mut self, now: Moment) {
        self.timers.last_activity = now;
        self.timers.last_received = now;
    }

    /// Notes that the connection took bytes. For a server that is no sign of life of its peer: it does not ping, and the
    /// system takes bytes for a dead peer as long as its buffers have room.
    pub fn handle_sent(&mut self, now: Moment) {
        if self.timers.writes_are_activity {
            self.timers.last_activity = now;
        }
        if self.timers.stalled_since.take().is_some() {
            self.timers.last_unblocked = now;
        }
    }

    /// Notes that the connection takes no bytes although there are some to write.
    pub fn handle_write_blocked(&mut self, now: Moment) {
        self.timers.stalled_since.get_or_insert(now);
    }

    /// When to call [`Mux::handle_timeout`] at the latest.
    pub fn poll_timeout(&self) -> Option<Moment> {
        let timers = &self.timers;
        let idle = timers.timeouts.idle;
        let throttled = timers
            .throttled_until
            .filter(|_| !self.held_back.is_empty());
        let window = self.window.patience_ends();
        [
            Some(timers.last_activity + idle),
            timers.stalled_since.map(|since| since + idle),
            timers.next_ping,
            timers.ping_given_up(),
            timers.next_linger,
            timers.drain_until,
            throttled,
            window.filter(|_| !self.held_back.is_empty()),
        ]
        .into_iter()
        .flatten()
        .min()
    }

    /// Does what is due at `now`.
    ///
    /// # Errors
    /// The reason why the connection is to be ended.
    pub fn handle_timeout(&mut self, now: Moment) -> Result<(), CloseReason> {
        let idle = self.timers.timeouts.idle;
        if self.timers.drain_until.is_some_and(|until| until <= now) {
            return Err(CloseReason::Local);
        }
        if self
            .timers
            .ping_given_up()
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
            self.return_held_back(now);
        }
        if self.window.patience_ends().is_some_and(|due| due <= now) {
            self.window.give_up();
            self.return_held_back(now);
        }
        if self.timers.next_linger.is_some_and(|due| due <= now) {
            self.end_lingering(now);
        }
        Ok(())
    }

    /// Drops what closing channels could not deliver in time, so that their CLOSE goes out.
    fn end_lingering(&mut self, now: Moment) {
        self.timers.next_linger = None;
        for key in self.keys() {
            let Some(channel) = super::channel_mut(&mut self.slots, key) else {
                continue;
            };
            if let Phase::Closing { give_up } = channel.phase {
                if give_up <= now {
                    let cleared = channel.send.clear(&mut self.pool);
                    channel.phase = Phase::GivenUp;
                    self.make_room(cleared);
                    if let Some(at) = self.held_back.iter().position(|held| *held == key) {
                        // It has nothing left that would have to wait.
                        self.held_back.remove(at);
                        self.ring.push_back(key);
                    }
                    self.schedule(key);
                } else {
                    let next = self.timers.next_linger.get_or_insert(give_up);
                    *next = (*next).min(give_up);
                }
            }
        }
    }
}
