//! Limits and timeouts of a tunnel.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bounds on the data of one connection. All sizes are in bytes of channel data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Maximum open channels; a NEW beyond it is answered with CLOSE. Default 1024: a browser opens
    /// six to ten, so this is a hundred visitors.
    pub max_channels: usize,
    /// Maximum channels that the application has not accepted yet; a NEW beyond it is answered with
    /// CLOSE. Default 512: more than one read contains in a burst of callers (64 KiB, about 400
    /// channels), which the application cannot accept in between.
    pub max_unaccepted: usize,
    /// Maximum unread bytes of one channel. Beyond it that channel alone is closed; what was
    /// received before can still be read.
    ///
    /// Default 64 MiB. Version 0 has no flow control, so this is how far an upload may run ahead of
    /// the application. Above a quarter of it, the connection is read more slowly. From version 1
    /// on the peer is paused long before, and its data in flight is far less (the reference queues
    /// up to 12 MiB).
    pub receive_per_channel: usize,
    /// Maximum unread bytes of all channels together. Beyond it the channel with the most data is
    /// closed and its data is dropped. Default 128 MiB: two channels at their own limit.
    pub receive_total: usize,
    /// From version 1: PAUSE is sent when a channel has more unread bytes. Default 2 MiB, as in the
    /// reference; less when so many channels are open that together they could reach
    /// [`receive_total`](Self::receive_total).
    pub pause_above: usize,
    /// From version 1: RESUME is sent when a paused channel has fewer unread bytes. Default 512
    /// KiB, as in the reference.
    pub resume_below: usize,
    /// Maximum unsent bytes of one channel; a write beyond it waits. Default 256 KiB: four frames,
    /// enough to keep the connection busy while the writer is woken.
    pub send_per_channel: usize,
    /// Maximum unsent bytes of all channels together. Default 16 MiB. It is divided evenly among
    /// the channels that are open at the time of a write. If paused channels have used it up, each
    /// channel still gets 16 KiB (or [`send_per_channel`](Self::send_per_channel), if that is
    /// less), so that no channel blocks others: the maximum is this plus 16 KiB for each of
    /// [`max_channels`](Self::max_channels), by default 32 MiB.
    pub send_total: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_channels: 1024,
            max_unaccepted: 512,
            receive_per_channel: 64 * MIB,
            receive_total: 128 * MIB,
            pause_above: 2 * MIB,
            resume_below: 512 * KIB,
            send_per_channel: 256 * KIB,
            send_total: 16 * MIB,
        }
    }
}

impl Limits {
    /// Minimum share of [`send_total`](Self::send_total) for a channel: one frame of a TLS record's
    /// size.
    const MIN_SEND_SHARE: usize = 16 * KIB;
    /// Minimum pause threshold of a channel, for any number of channels.
    const MIN_PAUSE_MARK: usize = 64 * KIB;

    /// Returns how many more bytes a channel with `own` queued bytes may queue, if it is one of
    /// `channels` with `all` queued bytes together.
    pub(crate) fn send_room(&self, channels: usize, own: usize, all: usize) -> usize {
        let share = self.send_share(channels);
        let least = share.min(Self::MIN_SEND_SHARE).saturating_sub(own);
        let left = self.send_total.saturating_sub(all).max(least);
        share.saturating_sub(own).min(left)
    }

    /// Returns whether enough of [`send_total`](Self::send_total) is free, with `all` bytes queued,
    /// to wake the blocked writers.
    pub(crate) fn send_total_has_room(&self, all: usize) -> bool {
        all <= self.send_total - self.send_total / 8
    }

    /// Returns the number of bytes that one of `channels` channels may have queued.
    pub(crate) fn send_share(&self, channels: usize) -> usize {
        (self.send_total / channels.max(1))
            .max(Self::MIN_SEND_SHARE)
            .min(self.send_per_channel)
            .max(1)
    }

    /// Returns the pause threshold with `channels` channels: a quarter of an even share; the rest
    /// is for data in flight.
    pub(crate) fn pause_mark(&self, channels: usize) -> usize {
        (self.receive_total / 4 / channels.max(1))
            .max(Self::MIN_PAUSE_MARK)
            .min(self.pause_above)
    }

    /// Returns the pause threshold while more than half of the total is in use: the thresholds of
    /// channels that filled up when there were fewer add up to more than the total.
    pub(crate) fn pause_mark_under_pressure(&self) -> usize {
        Self::MIN_PAUSE_MARK.min(self.pause_above)
    }

    /// Returns the unread bytes above which one of `channels` channels is ahead of its reader, in a
    /// version that cannot pause it: a quarter of its own limit, which leaves the rest for a reader
    /// that stalls, and of an even share.
    pub(crate) fn ahead_mark(&self, channels: usize) -> usize {
        (self.receive_total / 4 / channels.max(1))
            .max(Self::MIN_PAUSE_MARK)
            .min(self.receive_per_channel / 4)
    }

    /// Returns the same while more than half of the total is in use.
    pub(crate) fn ahead_mark_under_pressure(&self) -> usize {
        Self::MIN_PAUSE_MARK.min(self.receive_per_channel / 4)
    }

    /// Returns the resume threshold with `channels` channels.
    pub(crate) fn resume_mark(&self, channels: usize) -> usize {
        self.resume_below.min(self.pause_mark(channels) / 2).max(1)
    }
}

/// Timeouts of a connection. All are finite: a timeout above a year counts as a year.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Each step of the handshake. Default 30 s (the reference allows 60 s).
    pub handshake: Duration,
    /// Interval between the pings of a client. Default 50 s: peers drop a connection that is silent
    /// for 90 s. At least 100 ms.
    pub ping_interval: Duration,
    /// Timeout for the answer to a ping while the connection stands still. While bytes arrive, the
    /// answer may be behind them, and while a full connection accepts bytes, the ping may be: the
    /// answer may then take up to 5 minutes. Default 90 s.
    pub ping_answer: Duration,
    /// Timeout for a connection that stands still, or whose peer accepts no data. Default 120 s.
    /// For a client, reading or writing counts as activity; a server, which does not ping, must
    /// receive data (clients ping every 50 s or so).
    pub idle: Duration,
    /// Time that a closed channel keeps trying to deliver its data to a peer that has paused it.
    /// Default 120 s, like `idle`.
    pub linger: Duration,
    /// Time that a closing tunnel keeps sending the data of its channels. Default 2 s.
    pub drain: Duration,
}

impl Timeouts {
    /// Maximum timeout: practically unbounded, and small enough to add to any time.
    pub(crate) const MAX: Duration = Duration::from_secs(365 * 24 * 3600);

    /// Minimum ping interval: without it, a client could do nothing but ping.
    const MIN_PING_INTERVAL: Duration = Duration::from_millis(100);

    /// Returns the timeouts, each clamped to [`MAX`](Self::MAX).
    pub(crate) fn clamped(&self) -> Self {
        let bound = |time: Duration| time.min(Self::MAX);
        Self {
            handshake: bound(self.handshake),
            ping_interval: bound(self.ping_interval).max(Self::MIN_PING_INTERVAL),
            ping_answer: bound(self.ping_answer),
            idle: bound(self.idle),
            linger: bound(self.linger),
            drain: bound(self.drain),
        }
    }
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_secs(30),
            ping_interval: Duration::from_secs(50),
            ping_answer: Duration::from_secs(90),
            idle: Duration::from_secs(120),
            linger: Duration::from_secs(120),
            drain: Duration::from_secs(2),
        }
    }
}
