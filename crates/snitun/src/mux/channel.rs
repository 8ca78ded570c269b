//! State of one channel: its phase, queues and flow control.

use std::net::IpAddr;

use super::pacing::Pacer;
use super::queue::{RecvQueue, SendQueue};
use super::read_balance::ReadBalance;
use crate::close::ChannelError;
use crate::codec::frame::ChannelId;
use crate::time::Timestamp;

/// Phase of a channel. The protocol has no half-close: closing one direction closes the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// Data flows in both directions.
    Open,
    /// Closed locally. CLOSE follows the queued data, or is sent without it after the deadline.
    Closing { deadline: Timestamp },
    /// The linger deadline has passed: CLOSE is sent even if the peer has paused the channel.
    LingerExpired,
    /// CLOSE was sent or received, or the tunnel ended. Received data can still be read.
    Closed,
}

/// PAUSE and RESUME as levels: the state that we want, and the state last sent to the peer. A frame
/// is sent when they differ, so that none is lost or reordered.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Flow {
    pub(super) desired_pause: bool,
    pub(super) advertised_pause: bool,
    /// A [`Control::Flow`](super::transmit::Control::Flow) entry is in the control queue.
    pub(super) queued: bool,
    /// The peer has sent PAUSE.
    pub(super) peer_paused: bool,
    /// Bytes sent since the last RESUME, or since the channel was opened.
    pub(super) sent: usize,
    pub(super) barrier: Barrier,
}

/// Delays CLOSE until any PAUSE of the peer has arrived.
///
/// CLOSE must not overtake a PAUSE and its RESUME: the Python package up to 0.47.0 loses the data
/// that it holds for a channel if it sends RESUME after CLOSE has arrived. Where much data is in
/// flight, CLOSE therefore waits for the answers to two pings. The first answer shows that the peer
/// has read all the data; the peer queues PAUSE but answers pings at once, so only the second
/// answer shows that a PAUSE was written as well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Barrier {
    /// Not needed yet.
    #[default]
    None,
    /// Number of answers still to come.
    Waiting(u8),
    /// All answers have arrived.
    Passed,
}

impl Barrier {
    /// Number of answers to wait for.
    pub(super) const ROUNDS: u8 = 2;
    /// Bytes in flight above which the barrier is needed: half of the reference's pause threshold.
    pub(super) const THRESHOLD: usize = 1024 * 1024;
}

#[derive(Debug)]
pub(super) struct ChannelState {
    pub(super) id: ChannelId,
    pub(super) caller: Option<IpAddr>,
    pub(super) phase: Phase,
    /// Error that a reader gets once the queue is empty, instead of a regular end.
    pub(super) failure: Option<ChannelError>,
    /// The application holds the channel, or can still accept it.
    pub(super) owned: bool,
    pub(super) recv: RecvQueue,
    pub(super) send: SendQueue,
    pub(super) flow: Flow,
    pub(super) pacer: Pacer,
    /// What its reader has paid for pauses of the connection.
    pub(super) read_balance: ReadBalance,
    /// The channel is in `ready` or `deferred`.
    pub(super) scheduled: bool,
    /// A reader found no data, or a writer no room; an event follows when that changes.
    pub(super) reader_blocked: bool,
    pub(super) writer_blocked: bool,
    /// The channel is in `blocked_on_total`.
    pub(super) blocked_on_total: bool,
}

impl ChannelState {
    pub(super) fn new(id: ChannelId, caller: Option<IpAddr>) -> Self {
        Self {
            id,
            caller,
            phase: Phase::Open,
            failure: None,
            owned: true,
            recv: RecvQueue::default(),
            send: SendQueue::default(),
            flow: Flow::default(),
            pacer: Pacer::default(),
            read_balance: ReadBalance::default(),
            scheduled: false,
            reader_blocked: false,
            writer_blocked: false,
            blocked_on_total: false,
        }
    }

    /// Returns whether the channel's next turn would write a frame.
    ///
    /// CLOSE waits for RESUME too, although it carries no data: see [`Barrier`].
    pub(super) fn has_output(&self) -> bool {
        match self.phase {
            Phase::Open => self.send.len() > 0 && !self.flow.peer_paused,
            Phase::Closing { .. } => {
                !self.flow.peer_paused && !matches!(self.flow.barrier, Barrier::Waiting(_))
            }
            Phase::LingerExpired => true,
            Phase::Closed => false,
        }
    }
}
