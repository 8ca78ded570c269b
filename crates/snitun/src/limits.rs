//! What a connection may hold and how long it may wait: every bound that a peer can run into, with its reason.

use std::time::Duration;

const KIB: usize = 1024;
const MIB: usize = 1024 * KIB;

/// Bounds on what one connection holds. All sizes are in bytes of channel data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Channels open at a time; a NEW beyond that is answered with CLOSE. Default 1024: a browser opens six to ten, so
    /// this is a hundred visitors.
    pub max_channels: usize,
    /// Channels that nobody has accepted yet; a NEW beyond that is answered with CLOSE. Default 512: more than one read
    /// brings when callers come in a burst (64 KiB, about 400 channels), which nobody can accept in between.
    pub max_unaccepted: usize,
    /// Received and not yet read, for one channel. Beyond it that channel alone is closed and what it holds is dropped.
    ///
    /// Default 64 MiB. Version 0 cannot tell the peer to wait, so this is how far an upload may run ahead of the
    /// application: seconds of a gigabit link. From version 1 the peer is told to pause long before, and what it may still
    /// have under way is far less (the reference queues up to 12 MiB).
    pub receive_per_channel: usize,
    /// Received and not yet read, for all channels together. Beyond it the channel that holds most is closed.
    /// Default 128 MiB: two channels at their own limit.
    pub receive_total: usize,
    /// From version 1: PAUSE goes out when a channel holds more than this. Default 2 MiB, as the reference does; less
    /// when so many channels are open that together they could reach [`receive_total`](Self::receive_total).
    pub pause_above: usize,
    /// From version 1: RESUME goes out when a paused channel holds less than this. Default 512 KiB, as the reference does.
    pub resume_below: usize,
    /// Written and not yet handed to the connection, for one channel; a write beyond it waits. Default 256 KiB: four frames,
    /// enough to keep the connection busy while the writer is woken.
    pub send_per_channel: usize,
    /// Written and not yet handed to the connection, for all channels together. Default 16 MiB. It is shared out evenly
    /// among the channels that are open when something is written. Where paused ones have filled it, each channel still gets
    /// 16 KiB (or [`send_per_channel`](Self::send_per_channel), if that is less), so that no channel stands still because of
    /// others: the most that can be queued is this and 16 KiB for each of [`max_channels`](Self::max_channels), by default
    /// 32 MiB.
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
    /// Least share of [`send_total`](Self::send_total) that a channel gets: one frame of a TLS record's size.
    const MIN_SEND_SHARE: usize = 16 * KIB;
    /// Least that a channel may hold before it is paused, however many there are.
    const MIN_PAUSE_MARK: usize = 64 * KIB;

    /// How much more a channel that has `own` bytes queued for sending may queue when it is one of `channels`, which have
    /// `all` bytes queued together.
    pub(crate) fn send_room(&self, channels: usize, own: usize, all: usize) -> usize {
        let share = self.send_share(channels);
        let least = share.min(Self::MIN_SEND_SHARE).saturating_sub(own);
        let left = self.send_total.saturating_sub(all).max(least);
        share.saturating_sub(own).min(left)
    }

    /// Whether so much of [`send_total`](Self::send_total) is free with `all` bytes queued that those who found it full had
    /// better try again.
    pub(crate) fn send_total_has_room(&self, all: usize) -> bool {
        all <= self.send_total - self.send_total / 8
    }

    /// How much one of `channels` channels may have queued for sending.
    pub(crate) fn send_share(&self, channels: usize) -> usize {
        (self.send_total / channels.max(1))
            .max(Self::MIN_SEND_SHARE)
            .min(self.send_per_channel)
            .max(1)
    }

    /// When one of `channels` channels is paused: a quarter of an even share is left for what is under way.
    pub(crate) fn pause_mark(&self, channels: usize) -> usize {
        (self.receive_total / 4 / channels.max(1))
            .max(Self::MIN_PAUSE_MARK)
            .min(self.pause_above)
    }

    /// When a channel is paused while more than half of the total is in use: the marks of channels that filled up when there
    /// were fewer of them add up to more than the total.
    pub(crate) fn crowded_mark(&self) -> usize {
        Self::MIN_PAUSE_MARK.min(self.pause_above)
    }

    /// When a paused one of `channels` channels is resumed.
    pub(crate) fn resume_mark(&self, channels: usize) -> usize {
        self.resume_below.min(self.pause_mark(channels) / 2).max(1)
    }
}

/// How long a connection waits for what. Every wait has an end: anything above a year counts as a year.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// Each step of the handshake. Default 30 s (the reference allows 60 s).
    pub handshake: Duration,
    /// How often a client pings. Default 50 s: peers drop a connection that is silent for 90 s. At least 100 ms.
    pub ping_interval: Duration,
    /// How long the answer to a ping may take while the connection stands still. As long as bytes come in, the answer may be
    /// behind them, and as long as a full connection takes bytes, the ping may be: then it may take up to 5 minutes. Default
    /// 90 s.
    pub ping_answer: Duration,
    /// How long a connection may stand still, or not get rid of what it has to write. Default 120 s. For a client, reading or
    /// writing is enough; a server, which does not ping, has to hear from its peer (clients ping every 50 s or so).
    pub idle: Duration,
    /// How long a closed channel goes on trying to deliver what was written before to a peer that has paused it.
    /// Default 120 s, as long as anything may stand still.
    pub linger: Duration,
    /// How long a tunnel that is being closed goes on delivering what its channels have written. Default 2 s.
    pub drain: Duration,
}

impl Timeouts {
    /// More than anybody waits, and little enough to be added to any time.
    pub(crate) const LONGEST: Duration = Duration::from_secs(365 * 24 * 3600);

    /// How often a client pings at most: without an end to that, it would do nothing else.
    const LEAST_PING: Duration = Duration::from_millis(100);

    /// The same, each within [`LONGEST`](Self::LONGEST).
    pub(crate) fn bounded(&self) -> Self {
        let bound = |time: Duration| time.min(Self::LONGEST);
        Self {
            handshake: bound(self.handshake),
            ping_interval: bound(self.ping_interval).max(Self::LEAST_PING),
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
