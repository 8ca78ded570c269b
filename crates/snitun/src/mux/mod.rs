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
mod lifecycle;
mod queue;
mod receive;
mod stream;
mod timers;
mod transmit;
mod window;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::BytesMut;

use crate::cipher::Role;
use crate::close::ChannelError;
use crate::frame::ChannelId;
use crate::limits::{Limits, Timeouts};
use crate::moment::Moment;
use crate::stats::TunnelStats;
use crate::version::ProtocolVersion;

use channel::{ChannelState, Phase};
use queue::Pool;
use timers::Timers;
use transmit::Control;
use window::Window;

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
    /// The channel that the last data was for, which is most likely the next one's.
    last_found: Option<ChannelKey>,
    unaccepted: VecDeque<ChannelKey>,
    control: VecDeque<Control>,
    refusals: usize,
    pongs: usize,
    /// Channels with something to send, in turn.
    ring: VecDeque<ChannelKey>,
    /// Channels with much to send whose turn came during a pause for throttling, or while enough was under way; back in the ring
    /// once that is over.
    held_back: VecDeque<ChannelKey>,
    events: VecDeque<Event>,
    window: Window,
    pool: Pool,
    received: usize,
    /// Written and not sent, over all channels.
    unsent: usize,
    /// Channels whose writer found no room because of the others, each once.
    want_total: Vec<ChannelKey>,
    timers: Timers,
    stats: TunnelStats,
    ended: bool,
}

impl Mux {
    /// A multiplexer for a connection whose handshake ended at `now`.
    pub fn new(mut config: MuxConfig, now: Moment) -> Self {
        config.timeouts = config.timeouts.bounded();
        let timers = Timers::new(&config, now);
        Self {
            config,
            slots: Vec::new(),
            free: Vec::new(),
            by_id: HashMap::new(),
            last_found: None,
            unaccepted: VecDeque::new(),
            control: VecDeque::new(),
            refusals: 0,
            pongs: 0,
            ring: VecDeque::new(),
            held_back: VecDeque::new(),
            events: VecDeque::new(),
            window: Window::default(),
            pool: Pool::default(),
            received: 0,
            unsent: 0,
            want_total: Vec::new(),
            timers,
            stats: TunnelStats::default(),
            ended: false,
        }
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

    /// Whether [`Mux::poll_event`] has something to tell.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// What to tell the application next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// The channels that the wire knows, in an order that does not depend on a hash.
    fn keys(&self) -> Vec<ChannelKey> {
        let slots = self.slots.iter().enumerate();
        let keys = slots.filter_map(|(index, slot)| {
            let open = slot.channel.as_ref()?.phase != Phase::Closed;
            let generation = slot.generation;
            open.then_some(ChannelKey { index, generation })
        });
        keys.collect()
    }

    /// The channel that goes by `id` on the wire.
    fn find(&mut self, id: ChannelId) -> Option<ChannelKey> {
        let last = self.last_found.filter(|key| {
            self.channel(*key)
                .is_some_and(|channel| channel.id == id && channel.phase != Phase::Closed)
        });
        if last.is_none() {
            self.last_found = self.by_id.get(&id).copied();
        }
        self.last_found
    }

    fn channel(&self, key: ChannelKey) -> Option<&ChannelState> {
        let slot = self.slots.get(key.index)?;
        (slot.generation == key.generation)
            .then_some(slot.channel.as_ref())
            .flatten()
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
