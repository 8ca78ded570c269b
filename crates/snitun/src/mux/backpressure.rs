//! Backpressure without PAUSE: what version 0 of the protocol leaves a receiver.
//!
//! Version 0 cannot pause one sender. All that a receiver can do is to read less from the
//! connection, which TCP makes the peer notice, for all channels alike. So reading pauses while a
//! channel is far ahead of its reader, in pauses that keep the others alive:
//!
//! - Only data of a channel that is ahead causes pauses: each [`QUANTUM`] of it one, which ends as
//!   soon as the reader has caught up, and in any case after [`MIN_PAUSE`] to [`MAX_PAUSE`], longer
//!   the closer the channel is to its limit. A channel that is read steadily thus gets what its
//!   reader takes, and one that is not read still arrives, slowly, until it is closed at its limit.
//! - Where other channels are open, pauses of a channel that is read at less than 1 MiB/s use
//!   up a credit. It suffices for [`MAX_CREDIT`] and grows by half of the time that passes. So
//!   channels that are not read take the connection half of the time at most in the long run.

use std::time::Duration;

use super::channel::Phase;
use super::{ChannelKey, Mux, channel_mut};
use crate::time::Timestamp;

/// Bytes for channels that are ahead between two pauses: one read of the driver.
const QUANTUM: usize = 64 * 1024;
/// Pause of a channel that has just got ahead: 13 MB/s.
const MIN_PAUSE: Duration = Duration::from_millis(5);
/// Pause of a channel at its limit: 650 KB/s. An urgent frame waits once for each quantum ahead of
/// it: up to 0.8 s behind what our own peer has in flight, and less than 10 s, well within
/// the timeout of a PING, behind what the sockets' buffers hold of another peer's.
const MAX_PAUSE: Duration = Duration::from_millis(100);
/// Pauses without a credit's growth: a reader that stalls for a moment.
const MAX_CREDIT: Duration = Duration::from_secs(10);
/// Ratio of the time that passes to the growth of the credit.
const CREDIT_RATIO: u32 = 2;

/// Pauses of reading.
#[derive(Debug)]
pub(super) struct Backpressure {
    /// Bytes for channels that are ahead since the last pause, and the last such channel.
    received: usize,
    ahead: Option<ChannelKey>,
    pause: Option<Pause>,
    credit: Duration,
    /// Time of the credit's last growth.
    credited_at: Timestamp,
}

#[derive(Debug)]
struct Pause {
    key: ChannelKey,
    since: Timestamp,
    until: Timestamp,
    /// Unread bytes at which it ends early.
    target: usize,
}

impl Backpressure {
    pub(super) fn new(now: Timestamp) -> Self {
        Self {
            received: 0,
            ahead: None,
            pause: None,
            credit: MAX_CREDIT,
            credited_at: now,
        }
    }

    /// Returns the end of the current pause.
    pub(super) fn deadline(&self) -> Option<Timestamp> {
        self.pause.as_ref().map(|pause| pause.until)
    }

    fn grow_credit(&mut self, now: Timestamp) {
        let grown = self.credit + (now - self.credited_at) / CREDIT_RATIO;
        self.credit = grown.min(MAX_CREDIT);
        self.credited_at = now;
    }
}

impl Mux {
    /// Returns whether the driver must not read from the connection: until
    /// [`poll_timeout`](Self::poll_timeout), or until
    /// [`may_resume_reading`](Self::may_resume_reading) returns true. Never with a version that has
    /// PAUSE.
    pub fn is_reading_paused(&mut self, now: Timestamp) -> bool {
        self.end_pause(now);
        if self.backpressure.pause.is_none()
            && self.backpressure.received >= QUANTUM
            && !self.timers.is_draining()
        {
            let received = std::mem::take(&mut self.backpressure.received);
            self.backpressure.pause = self.begin_pause(received, now);
            self.stats.read_pauses += u64::from(self.backpressure.pause.is_some());
        }
        self.backpressure.pause.is_some()
    }

    /// Returns whether reading is paused and its reason is gone: call
    /// [`is_reading_paused`](Self::is_reading_paused) again.
    pub fn may_resume_reading(&self) -> bool {
        self.backpressure.pause.as_ref().is_some_and(|pause| {
            self.timers.is_draining() || self.unread(pause.key) <= pause.target
        })
    }

    /// Counts received data of a channel if it is ahead of its reader.
    pub(super) fn note_received(&mut self, key: ChannelKey, count: usize) {
        if !self.config.version.has_flow_control() && self.unread(key) > self.ahead_mark() {
            self.backpressure.received += count;
            self.backpressure.ahead = Some(key);
        }
    }

    fn begin_pause(&mut self, received: usize, now: Timestamp) -> Option<Pause> {
        let key = self.backpressure.ahead?;
        let (unread, mark) = (self.unread(key), self.ahead_mark());
        if unread <= mark {
            return None;
        }
        let limits = &self.config.limits;
        let half_total = limits.receive_total / 2;
        let fullness = permille(
            unread - mark,
            limits.receive_per_channel.saturating_sub(mark),
        )
        .max(permille(
            self.received.saturating_sub(half_total),
            half_total,
        ));
        let length = MIN_PAUSE + (MAX_PAUSE - MIN_PAUSE) * fullness / 1000;
        self.backpressure.grow_credit(now);
        if self.shares_connection() && self.backpressure.credit < length {
            return None;
        }
        Some(Pause {
            key,
            since: now,
            until: now + length,
            // More than arrived, so that it falls.
            target: unread.saturating_sub(2 * received).max(mark),
        })
    }

    /// Ends the pause if its time has passed or its channel was read.
    fn end_pause(&mut self, now: Timestamp) {
        let over = self.may_resume_reading();
        let shares_connection = self.shares_connection();
        let Some(pause) = self
            .backpressure
            .pause
            .take_if(|pause| over || pause.until <= now)
        else {
            return;
        };
        if let Some(channel) = channel_mut(&mut self.slots, pause.key) {
            let unpaid = channel.read_balance.charge(now - pause.since);
            if shares_connection {
                self.backpressure.credit = self.backpressure.credit.saturating_sub(unpaid);
            }
        }
    }

    /// Returns whether a pause delays other channels.
    fn shares_connection(&self) -> bool {
        self.by_id.len() > 1
    }

    /// Returns the unread bytes above which a channel is ahead of its reader.
    fn ahead_mark(&self) -> usize {
        let limits = &self.config.limits;
        if self.received > limits.receive_total / 2 {
            limits.ahead_mark_under_pressure()
        } else {
            limits.ahead_mark(self.by_id.len())
        }
    }

    /// Returns the unread bytes of an open channel.
    fn unread(&self, key: ChannelKey) -> usize {
        self.channel(key)
            .filter(|channel| channel.phase == Phase::Open)
            .map_or(0, |channel| channel.recv.len())
    }
}

fn permille(part: usize, whole: usize) -> u32 {
    let permille = (part as u128 * 1000) / (whole.max(1) as u128);
    u32::try_from(permille.min(1000)).unwrap_or(1000)
}
