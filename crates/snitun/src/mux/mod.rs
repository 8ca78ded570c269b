//! The multiplexer: many channels over one connection, as a state machine without I/O, clock or
//! random source.
//!
//! Invariants:
//! - No call waits for a channel. A channel that is not read fills its own queue, is paused if the
//!   version has flow control, and is closed alone at its limit. Without flow control it slows down
//!   the reading of all, for a bounded share of the time ([`backpressure`]).
//! - Queued bytes are counted for each channel and in total; both counts are bounded by [`Limits`].
//! - Control frames precede data, CLOSE follows its own channel's data, and channels take turns
//!   frame by frame.
//! - Each blocked read or write produces one event, however many frames arrive.

mod backpressure;
mod channel;
mod in_flight;
mod lifecycle;
mod pacing;
mod queue;
mod read_balance;
mod receive;
mod stream;
mod timers;
mod transmit;

use std::collections::{HashMap, VecDeque};
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use bytes::BytesMut;

use crate::close::ChannelError;
use crate::codec::frame::ChannelId;
use crate::crypto::cipher::Role;
use crate::limits::{Limits, Timeouts};
use crate::stats::TunnelStats;
use crate::time::Timestamp;
use crate::version::ProtocolVersion;

use backpressure::Backpressure;
use channel::{ChannelState, Phase};
use in_flight::InFlightLimiter;
use queue::BufferPool;
use timers::Timers;
use transmit::Control;

/// Configuration of a multiplexer.
#[derive(Clone, Debug)]
pub struct MuxConfig {
    /// The local end: a client accepts channels and pings, a server opens channels.
    pub role: Role,
    /// The protocol version of the session.
    pub version: ProtocolVersion,
    /// Maximum rate of messages of 8 KiB or more, per second; `None` for no limit.
    pub throttling: Option<NonZeroU32>,
    /// Bounds on queued data.
    pub limits: Limits,
    /// Bounds on waiting.
    pub timeouts: Timeouts,
}

/// Identifies a channel of one [`Mux`] locally. It is valid until [`Mux::release`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChannelKey {
    index: usize,
    generation: u64,
}

impl ChannelKey {
    /// Returns a small number, unique among the existing channels, for indexing a table.
    pub fn index(self) -> usize {
        self.index
    }
}

/// Events for the driver.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer has opened a channel: call [`Mux::accept`].
    Opened,
    /// A channel whose read was [`Read::Blocked`] has data, an end or an error.
    Readable(ChannelKey),
    /// A channel whose write was [`Write::Blocked`] has room, or is closed.
    Writable(ChannelKey),
    /// A ping is due: call [`Mux::ping`] with a random id.
    PingDue,
    /// A ping was answered, either by its own answer or by that of a later ping.
    Pong {
        /// The id of the ping.
        id: ChannelId,
        /// Time from the ping to the answer.
        elapsed: Duration,
    },
}

/// Result of a read.
#[derive(Debug, PartialEq, Eq)]
pub enum Read {
    /// Channel bytes, never empty.
    Data(BytesMut),
    /// No data yet; [`Event::Readable`] follows.
    Blocked,
    /// The channel is closed and all data was read.
    End,
    /// The channel was closed because of an error.
    Failed(ChannelError),
}

/// Result of a write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Write {
    /// Number of bytes accepted, at least one.
    Accepted(usize),
    /// No room; [`Event::Writable`] follows.
    Blocked,
    /// The channel is closed.
    Closed,
}

/// A channel that was closed because more data arrived than was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Overrun {
    /// The address of the public caller, if the peer sent it.
    pub caller: Option<IpAddr>,
    /// The unread bytes.
    pub unread: usize,
}

#[derive(Debug, Default)]
struct Slot {
    generation: u64,
    channel: Option<ChannelState>,
}

/// The multiplexer of one connection.
///
/// The driver owns the sockets, the clock and the random source, and calls the methods in this
/// order:
///
/// 1. Unless [`is_reading_paused`](Self::is_reading_paused), read; then
///    [`handle_received`](Self::handle_received), and [`handle`](Self::handle) for each decoded
///    frame.
/// 2. To write: [`poll_transmit`](Self::poll_transmit) until it leaves the batch empty,
///    [`handle_sent`](Self::handle_sent) after each write,
///    [`handle_write_blocked`](Self::handle_write_blocked) when the socket accepts nothing.
/// 3. [`handle_timeout`](Self::handle_timeout) at [`poll_timeout`](Self::poll_timeout), which any
///    other call can change.
/// 4. After any of these: [`poll_event`](Self::poll_event) until it returns `None`.
///
/// Time does not go backwards by more than a harmless amount; see [`Timestamp`].
#[derive(Debug)]
pub struct Mux {
    config: MuxConfig,
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Channels that are open on the wire, by their id.
    by_id: HashMap<ChannelId, ChannelKey>,
    /// The channel of the last data frame, which is most likely that of the next one.
    last_found: Option<ChannelKey>,
    unaccepted: VecDeque<ChannelKey>,
    control: VecDeque<Control>,
    refusals: usize,
    pongs: usize,
    /// Channels with output, in turn.
    ready: VecDeque<ChannelKey>,
    /// Channels with bulk data that wait for throttling or the in-flight limit; they return to
    /// `ready` afterwards.
    deferred: VecDeque<ChannelKey>,
    /// Channels that wait, until when, because they may be too far ahead of their reader
    /// ([`pacing`]); they return to `ready` afterwards.
    paced: Vec<(Timestamp, ChannelKey)>,
    /// A channel was added to `paced` and the driver does not know yet.
    has_paced: bool,
    /// In version 0: the peer slows us down if a channel is too far ahead of its reader.
    peer_has_backpressure: bool,
    events: VecDeque<Event>,
    in_flight: InFlightLimiter,
    pool: BufferPool,
    received: usize,
    /// Bytes written and not sent, over all channels.
    unsent: usize,
    /// Channels whose writer found no room because of the other channels, each once.
    blocked_on_total: Vec<ChannelKey>,
    backpressure: Backpressure,
    timers: Timers,
    stats: TunnelStats,
    /// The last channel that was closed at a limit, for the log.
    overrun: Option<Overrun>,
    ended: bool,
}

impl Mux {
    /// Creates a multiplexer for a connection whose handshake ended at `now`.
    pub fn new(mut config: MuxConfig, now: Timestamp) -> Self {
        config.timeouts = config.timeouts.clamped();
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
            ready: VecDeque::new(),
            deferred: VecDeque::new(),
            paced: Vec::new(),
            has_paced: false,
            peer_has_backpressure: false,
            events: VecDeque::new(),
            in_flight: InFlightLimiter::default(),
            pool: BufferPool::default(),
            received: 0,
            unsent: 0,
            blocked_on_total: Vec::new(),
            backpressure: Backpressure::new(now),
            timers,
            stats: TunnelStats::default(),
            overrun: None,
            ended: false,
        }
    }

    /// Returns a channel's id on the wire.
    pub fn id(&self, key: ChannelKey) -> Option<ChannelId> {
        self.channel(key).map(|channel| channel.id)
    }

    /// Returns the address of the public caller, if the peer sent it.
    pub fn caller(&self, key: ChannelKey) -> Option<IpAddr> {
        self.channel(key).and_then(|channel| channel.caller)
    }

    /// Returns the number of channels that are open on the wire.
    pub fn open_channels(&self) -> usize {
        self.by_id.len()
    }

    /// Returns the bytes received and not yet read, over all channels.
    pub fn bytes_received_unread(&self) -> usize {
        self.received
    }

    /// Returns the bytes written and not yet handed to the connection, over all channels.
    pub fn bytes_unsent(&self) -> usize {
        self.unsent
    }

    /// Returns the traffic counters.
    pub fn stats(&self) -> TunnelStats {
        self.stats
    }

    /// Returns the last channel that was closed at a limit of received data, once.
    pub fn take_overrun(&mut self) -> Option<Overrun> {
        self.overrun.take()
    }

    /// Returns whether a channel had to wait since the last call because its reader may be too far
    /// behind. That happens in version 0 only, with a peer that takes everything.
    pub fn take_paced(&mut self) -> bool {
        std::mem::take(&mut self.has_paced)
    }

    /// Returns the number of control frames that wait to be written. It is bounded: beyond the
    /// bound, the peer is [disconnected](crate::CloseReason::Flooded).
    pub fn control_frames_waiting(&self) -> usize {
        self.control.len()
    }

    /// Returns whether [`Mux::poll_event`] has an event.
    pub fn has_events(&self) -> bool {
        !self.events.is_empty()
    }

    /// Returns the next event.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    /// Returns the open channels in an order that does not depend on a hash.
    fn keys(&self) -> Vec<ChannelKey> {
        let slots = self.slots.iter().enumerate();
        let keys = slots.filter_map(|(index, slot)| {
            let open = slot.channel.as_ref()?.phase != Phase::Closed;
            let generation = slot.generation;
            open.then_some(ChannelKey { index, generation })
        });
        keys.collect()
    }

    /// Finds the open channel with this `id`.
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

    /// Adds a channel with output to `ready`, once.
    fn schedule(&mut self, key: ChannelKey) {
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && !channel.scheduled
            && channel.has_output()
        {
            channel.scheduled = true;
            self.ready.push_back(key);
        }
    }

    /// Queues an update of the peer's pause state if it is out of date, once.
    fn queue_flow_update(&mut self, key: ChannelKey) {
        if let Some(channel) = channel_mut(&mut self.slots, key)
            && !channel.flow.queued
            && channel.flow.desired_pause != channel.flow.advertised_pause
        {
            channel.flow.queued = true;
            self.control.push_back(Control::Flow(key));
        }
    }
}

/// Looks up a channel without borrowing the rest of the multiplexer.
fn channel_mut(slots: &mut [Slot], key: ChannelKey) -> Option<&mut ChannelState> {
    let slot = slots.get_mut(key.index)?;
    if slot.generation == key.generation {
        slot.channel.as_mut()
    } else {
        None
    }
}
