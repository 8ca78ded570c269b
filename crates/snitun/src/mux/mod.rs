//! The multiplexer: many channels over one connection, as a state machine.
//!
//! It is not I/O: frames go in with [`Mux::handle`], bytes to write come out of [`Mux::poll_transmit`], news for the
//! application out of [`Mux::poll_event`], and time and random ids are handed in. Whoever drives it owns the clock, the
//! sockets and the tasks.
//!
//! Invariants:
//! - Nothing here waits for a channel. A channel that is not read fills its own queue, is paused where the version can do
//!   that, and is closed alone at its limit.
//! - Queued bytes are counted in each channel and in total, both bounded by [`Limits`].
//! - Control frames go ahead of data, CLOSE goes behind its own channel's data, channels take turns frame by frame.
//! - An event is given once for each time that a reader or writer was told to wait, not once for each frame.
//!
//! Protocol: docs/protocol.md, "SniTun".

mod channel;
mod queue;
mod receive;
mod stream;
mod timers;
mod transmit;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::cipher::Role;
use crate::close::{ChannelError, CloseReason, OpenError};
use crate::frame::ChannelId;
use crate::limits::{Limits, Timeouts};
use crate::stats::TunnelStats;
use crate::version::ProtocolVersion;

use channel::{ChannelState, Phase};
use queue::Pool;
use timers::Timers;
use transmit::Control;

/// What a multiplexer is told once.
#[derive(Clone, Debug)]
pub struct MuxConfig {
    /// Which end we are: a client accepts channels and pings, a server opens channels.
    pub role: Role,
    /// The protocol version of the session.
    pub version: ProtocolVersion,
    /// Messages of 8 KiB or more that may be sent in a second; `None` for no limit.
    pub throttling: Option<NonZeroU32>,
    /// Bounds on what is held.
    pub limits: Limits,
    /// Bounds on waiting.
    pub timeouts: Timeouts,
}

/// Names a channel of one [`Mux`] on this side. It stays valid until [`Mux::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    index: usize,
    generation: u64,
}

impl ChannelKey {
    /// A small number, unique among the channels that exist at a time: good for indexing a table.
    pub fn index(self) -> usize {
        self.index
    }
}

/// News for whoever drives the multiplexer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// [`Mux::accept`] has a channel.
    Acceptable,
    /// A channel whose reader was told to wait has data, an end or a failure.
    Readable(ChannelKey),
    /// A channel whose writer was told to wait has room, or takes nothing any more.
    Writable(ChannelKey),
    /// It is time for a ping: call [`Mux::ping`] with a random id.
    PingDue,
    /// A ping was answered, or a later one was, which answers it as well.
    Pong {
        /// The id that the ping was given.
        id: ChannelId,
        /// How long the answer, whichever it was, took to come.
        elapsed: Duration,
    },
}

/// What a read yields.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Channel bytes, never none.
    Data(BytesMut),
    /// Nothing yet; [`Event::Readable`] will tell.
    Wait,
    /// The channel is closed and everything was read.
    End,
    /// The channel was cut off.
    Failed(ChannelError),
}

/// What a write yields.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// So many bytes were taken, at least one.
    Taken(usize),
    /// No room; [`Event::Writable`] will tell.
    Wait,
    /// The channel is closed.
    Closed,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u64,
    channel: Option<ChannelState>,
}

/// The multiplexer of one connection.
#[derive(Debug)]
pub struct Mux {
    config: MuxConfig,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Channels that the wire knows, by their id there.
    by_id: HashMap<ChannelId, ChannelKey>,
    unaccepted: VecDeque<ChannelKey>,
    control: VecDeque<Control>,
    refusals: usize,
    pongs: usize,
    /// Channels with something to send, in turn.
    ring: VecDeque<ChannelKey>,
    /// Channels whose turn came during a pause for throttling; back in the ring once it is over.
    held_back: VecDeque<ChannelKey>,
    events: VecDeque<Event>,
    pool: Pool,
    received: usize,
    /// Written and not sent, over all channels.
    unsent: usize,
    /// Channels whose writer found no room because of the others, each once; those that are gone may still stand here.
    want_total: Vec<ChannelKey>,
    timers: Timers,
    stats: TunnelStats,
    ended: bool,
}

impl Mux {
    /// A multiplexer for a connection whose handshake ended at `now`.
    pub fn new(config: MuxConfig, now: Instant) -> Self {
        let timers = Timers::new(&config, now);
        Self {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            unaccepted: VecDeque::new(),
            control: VecDeque::new(),
            refusals: 0,
            pongs: 0,
            ring: VecDeque::new(),
            held_back: VecDeque::new(),
            events: VecDeque::new(),
            pool: Pool::default(),
            received: 0,
            unsent: 0,
            want_total: Vec::new(),
            timers,
            stats: TunnelStats::default(),
            ended: false,
        }
    }

    /// Opens a channel on behalf of `caller` under a random `id`.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(&mut self, id: ChannelId, caller: Option<IpAddr>) -> Result<ChannelKey, OpenError> {
        if self.ended || self.timers.is_draining() {
            return Err(OpenError::Closed);
        }
        if self.by_id.contains_key(&id) {
            return Err(OpenError::DuplicateId);
        }
        let key = self.insert(id, caller)?;
        self.control.push_back(Control::New { id, caller });
        Ok(key)
    }

    fn insert(&mut self, id: ChannelId, caller: Option<IpAddr>) -> Result<ChannelKey, OpenError> {
        if self.slots.len() - self.free.len() >= self.config.limits.max_channels {
            self.stats.channels_refused += 1;
            return Err(OpenError::TooManyChannels);
        }
        let index = self.free.pop().unwrap_or_else(|| {
            self.slots.push(Slot::default());
            self.slots.len() - 1
        });
        let slot = &mut self.slots[index];
        slot.channel = Some(ChannelState::new(id, caller));
        let key = ChannelKey {
            index,
            generation: slot.generation,
        };
        self.by_id.insert(id, key);
        self.stats.channels_opened += 1;
        Ok(key)
    }

    /// The next channel that the peer has opened.
    pub fn accept(&mut self) -> Option<ChannelKey> {
        self.unaccepted.pop_front()
    }

    /// A channel's id on the wire.
    pub fn id(&self, key: ChannelKey) -> Option<ChannelId> {
        self.channel(key).map(|channel| channel.id)
    }

    /// The address of the public caller, where it was carried.
    pub fn caller(&self, key: ChannelKey) -> Option<IpAddr> {
        self.channel(key).and_then(|channel| channel.caller)
    }

    /// How many channels are open on the wire.
    pub fn open_channels(&self) -> usize {
        self.by_id.len()
    }

    /// Bytes received and not yet read, over all channels.
    pub fn bytes_received_unread(&self) -> usize {
        self.received
    }

    /// Bytes written and not yet handed to the connection, over all channels.
    pub fn bytes_unsent(&self) -> usize {
        self.unsent
    }

    /// What the connection has carried so far.
    pub fn stats(&self) -> TunnelStats {
        self.stats
    }

    /// Frames that go ahead of data and wait to be written. A peer cannot drive this beyond a fixed number: it is
    /// [ended](crate::CloseReason::Flooded) before.
    pub fn control_frames_waiting(&self) -> usize {
        self.control.len()
    }

    /// Closes a channel in both directions: CLOSE goes out behind what was written. What was received can still be read.
    pub fn close(&mut self, key: ChannelKey, now: Instant) {
        let give_up = now + self.config.timeouts.linger;
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && channel.phase == Phase::Open
        {
            channel.phase = Phase::Closing { give_up };
            // Nothing more is taken from the peer, so there is nothing to hold it back for; and if it closes as well, its
            // CLOSE waits for our RESUME as ours does for its.
            channel.flow.desired_pause = false;
            if std::mem::take(&mut channel.reader_waits) {
                self.events.push_back(Event::Readable(key));
            }
            if std::mem::take(&mut channel.writer_waits) {
                self.events.push_back(Event::Writable(key));
            }
            self.timers.lingers(give_up);
            self.note_flow(key);
            self.schedule(key);
        }
    }

    /// The application is done with a channel: closes it, drops what was received, and makes the key invalid.
    pub fn release(&mut self, key: ChannelKey, now: Instant) {
        self.close(key, now);
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            channel.held = false;
            self.received -= channel.recv.clear();
            if channel.phase == Phase::Closed {
                self.forget(key);
            }
        }
    }

    /// Closes every channel behind its data and refuses new ones; the connection has until [`Timeouts::drain`] to get rid
    /// of that, and [`Mux::is_drained`] tells when it has.
    pub fn drain(&mut self, now: Instant) {
        if self.timers.is_draining() {
            return;
        }
        self.timers.drain(now);
        for key in self.keys() {
            self.close(key, now);
            if let Some(channel) = channel_mut(&mut self.slots, key) {
                channel.failure = channel.failure.or(Some(ChannelError::TunnelClosed));
            }
        }
        self.release_unaccepted(now);
    }

    /// Whether, after [`Mux::drain`], nothing is left to send.
    pub fn is_drained(&self) -> bool {
        self.timers.is_draining() && self.by_id.is_empty() && self.control.is_empty()
    }

    /// The connection is gone: nothing more comes or goes. Readers get what was received, then the failure.
    pub fn end(&mut self, now: Instant) {
        self.ended = true;
        self.control.clear();
        for key in self.keys() {
            self.finish(key, Some(ChannelError::TunnelClosed));
        }
        self.ring.clear();
        self.held_back.clear();
        self.release_unaccepted(now);
    }

    fn release_unaccepted(&mut self, now: Instant) {
        while let Some(key) = self.unaccepted.pop_front() {
            self.release(key, now);
        }
    }

    /// What to tell the application next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    fn keys(&self) -> Vec<ChannelKey> {
        self.by_id.values().copied().collect()
    }

    fn channel(&self, key: ChannelKey) -> Option<&ChannelState> {
        let slot = self.slots.get(key.index)?;
        (slot.generation == key.generation)
            .then_some(slot.channel.as_ref())
            .flatten()
    }

    /// Closes a channel at once because of a failure: tells the peer, drops what is queued either way.
    fn cut(&mut self, key: ChannelKey, failure: ChannelError) -> Result<(), CloseReason> {
        if failure == ChannelError::Overrun {
            self.stats.channels_overrun += 1;
        }
        let mut told = Ok(());
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && channel.phase != Phase::Closed
        {
            let id = channel.id;
            told = self.refuse(id);
            self.finish(key, Some(failure));
        }
        if let Some(channel) = channel_mut(&mut self.slots, key) {
            self.received -= channel.recv.clear();
            channel.failure = Some(failure);
        }
        told
    }

    /// A channel is over on the wire: its id may be used again.
    fn finish(&mut self, key: ChannelKey, failure: Option<ChannelError>) {
        let Some(channel) = channel_mut(&mut self.slots, key) else {
            return;
        };
        if channel.phase == Phase::Closed {
            return;
        }
        channel.phase = Phase::Closed;
        channel.failure = channel.failure.or(failure);
        let cleared = channel.send.clear(&mut self.pool);
        self.by_id.remove(&channel.id);
        if std::mem::take(&mut channel.reader_waits) {
            self.events.push_back(Event::Readable(key));
        }
        if std::mem::take(&mut channel.writer_waits) {
            self.events.push_back(Event::Writable(key));
        }
        if !channel.held {
            self.forget(key);
        }
        self.make_room(cleared);
    }

    /// Frees the slot of a channel that neither the wire nor the application knows any more.
    fn forget(&mut self, key: ChannelKey) {
        if let Some(slot) = self.slots.get_mut(key.index)
            && slot.generation == key.generation
            && let Some(channel) = slot.channel.take()
        {
            self.received -= channel.recv.len();
            if self.by_id.get(&channel.id) == Some(&key) {
                self.by_id.remove(&channel.id);
            }
            slot.generation += 1;
            self.free.push(key.index);
        }
    }

    /// Puts a channel with output into the ring, once.
    fn schedule(&mut self, key: ChannelKey) {
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && !channel.scheduled
            && channel.has_output()
        {
            channel.scheduled = true;
            self.ring.push_back(key);
        }
    }

    /// Leaves a note to compare the desired with the advertised pause, once.
    fn note_flow(&mut self, key: ChannelKey) {
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && !channel.flow.noted
            && channel.flow.desired_pause != channel.flow.advertised_pause
        {
            channel.flow.noted = true;
            self.control.push_back(Control::Flow(key));
        }
    }
}

/// Looks a channel up without borrowing the rest of the multiplexer.
fn channel_mut(slots: &mut [Slot], key: ChannelKey) -> Option<&mut ChannelState> {
    let slot = slots.get_mut(key.index)?;
    if slot.generation == key.generation {
        slot.channel.as_mut()
    } else {
        None
    }
}
