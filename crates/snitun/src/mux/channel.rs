//! One channel of the multiplexer: its phase, its queues, its flow control.

use crate::moment::Moment;
use std::net::IpAddr;

use super::queue::{RecvQueue, SendQueue};
use crate::close::ChannelError;
use crate::frame::ChannelId;

/// Where a channel stands. There is no half-close: what ends one direction ends the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Data goes both ways.
    Open,
    /// We are done; CLOSE goes out behind what is queued, or at the latest then without it.
    Closing { give_up: Moment },
    /// The time for that is up: CLOSE goes out, whatever the peer says.
    GivenUp,
    /// CLOSE was sent or received, or the tunnel ended. What was received can still be read.
    Closed,
}

/// PAUSE and RESUME as levels: what we want the peer to do, and what it was last told. A frame goes out when they differ,
/// so that none can be lost or overtaken.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) desired_pause: bool,
    pub(super) advertised_pause: bool,
    /// A note to compare the two stands in the control queue.
    pub(super) noted: bool,
    /// The peer wants us to wait.
    pub(super) peer_paused: bool,
    /// Bytes sent since the peer last said that it has room, or since the channel was opened.
    pub(super) sent: usize,
    pub(super) barrier: Barrier,
}

/// Finds out, before CLOSE, whether the peer is about to pause the channel.
///
/// CLOSE must not overtake a PAUSE and its RESUME: the Python package up to 0.47.0 loses what it holds for a channel if it
/// wants to send RESUME for it after CLOSE has come. So where much is under way, CLOSE waits for the answers to two pings.
/// By the first answer the peer has seen all the data; it queues PAUSE but answers pings at once, so that only by the
/// second one has a PAUSE been written as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Barrier {
    /// Not needed so far.
    #[default]
    None,
    /// So many answers are still to come.
    Waiting(u8),
    /// The peer has caught up.
    Passed,
}

impl Barrier {
    /// Answers to wait for.
    pub(super) const ROUNDS: u8 = 2;
    /// Needed when more than this is under way: half of the mark at which the reference pauses.
    pub(super) const ABOVE: usize = 1024 * 1024;
}

#[derive(Debug)]
pub(super) struct ChannelState {
    pub(super) id: ChannelId,
    pub(super) caller: Option<IpAddr>,
    pub(super) phase: Phase,
    /// What a reader is told once the queue is empty, instead of a regular end.
    pub(super) failure: Option<ChannelError>,
    /// The application still has its handle, or will be offered one.
    pub(super) held: bool,
    pub(super) recv: RecvQueue,
    pub(super) send: SendQueue,
    pub(super) flow: Flow,
    /// Stands in the ring of channels that have something to send.
    pub(super) scheduled: bool,
    /// A reader found nothing, a writer found no room: tell them when that changes.
    pub(super) reader_waits: bool,
    pub(super) writer_waits: bool,
    /// Stands among those that wait for others to leave room.
    pub(super) wants_total: bool,
}

impl ChannelState {
    pub(super) fn new(id: ChannelId, caller: Option<IpAddr>) -> Self {
        Self {
            id,
            caller,
            phase: Phase::Open,
            failure: None,
            held: true,
            recv: RecvQueue::default(),
            send: SendQueue::default(),
            flow: Flow::default(),
            scheduled: false,
            reader_waits: false,
            writer_waits: false,
            wants_total: false,
        }
    }

    /// Whether the next turn of this channel would put something on the wire.
    ///
    /// CLOSE waits for RESUME too, though it carries nothing: see [`Barrier`].
    pub(super) fn has_output(&self) -> bool {
        match self.phase {
            Phase::Open => self.send.len() > 0 && !self.flow.peer_paused,
            Phase::Closing { .. } => {
                !self.flow.peer_paused && !matches!(self.flow.barrier, Barrier::Waiting(_))
            }
            Phase::GivenUp => true,
            Phase::Closed => false,
        }
    }
}
