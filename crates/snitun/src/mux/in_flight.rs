//! BDP-based in-flight limiter: bounds the data that is sent and not known to be read by the peer.
//!
//! TCP accepts data until the receiver's buffer is full, which the system grows to many megabytes
//! where the peer is slower than the network. All of that delays the next small frame. The limiter
//! therefore adds a PING to the data from time to time; the answer shows that the peer has read
//! everything before it. Bulk waits while more is in flight than three times the bandwidth-delay
//! product of the path, or than the minimum that keeps a fast path busy. Small frames never wait.
//!
//! The estimate follows BBR (Cardwell et al., "BBR: Congestion-Based Congestion Control", 2016):
//! the product is the maximum recent bandwidth times the minimum round-trip time. The minimum is
//! measured with little in flight (ProbeRTT): when bulk starts, and from time to time; sooner when
//! answers are so late that the window may be too small for a path that has become longer. Between
//! these measurements it only decreases, so that a queue of our own is not mistaken for distance.
//!
//! It does not replace TCP's congestion control, which only gets less to queue. Where the estimate
//! is wrong, the window is too large rather than too small, and a peer that does not answer probes
//! is not limited.

use std::collections::VecDeque;
use std::time::Duration;

use crate::codec::frame::ChannelId;
use crate::time::Timestamp;

/// Minimum window: what the peer has read in this time of late, since both ends must get processor
/// time meanwhile,
const MIN_WINDOW_TIME: Duration = Duration::from_millis(10);
/// at most a millisecond at 4 Gbit/s,
const MAX_MIN_WINDOW: u64 = 512 * 1024;
/// and at least two frames.
const MIN_WINDOW: u64 = 128 * 1024;
/// Window while the minimum round-trip time is measured, except for the frame that fills it.
const PROBE_RTT_WINDOW: u64 = 64 * 1024;
/// Number of probes per window.
const PROBES_PER_WINDOW: u64 = 4;
/// Maximum bytes between two probes.
const MAX_PROBE_SPACING: u64 = 8 * 1024 * 1024;
/// Maximum probes without an answer.
const MAX_OUTSTANDING_PROBES: usize = 16;
/// Time after which an unanswered probe counts as lost and permits another one.
const PROBE_LOST_AFTER: Duration = Duration::from_secs(60);
/// Ratio of the window to the bandwidth-delay product: TCP sends up to twice as much in each round
/// trip during slow start, and answers are sometimes late.
const BDP_GAIN: u64 = 3;
/// Timeout for the next answer. A path that needs longer has a queue that we cannot shorten.
const PROBE_TIMEOUT: Duration = Duration::from_secs(5);
/// Minimum age at which a bandwidth sample expires for the bandwidth-delay product, and for the
/// minimum window; at most twice as long.
const BANDWIDTH_WINDOW: Duration = Duration::from_secs(5);
const RECENT: Duration = Duration::from_millis(500);
/// Interval between measurements of the minimum round-trip time when answers are late, when they
/// are not, and as a minimum in round trips, of which each measurement costs one or two.
const PROBE_RTT_INTERVAL_CONGESTED: Duration = Duration::from_secs(15);
const PROBE_RTT_INTERVAL: Duration = Duration::from_secs(60);
const PROBE_RTT_MIN_ROUND_TRIPS: u64 = 100;

/// The limiter of one direction.
#[derive(Debug, Default)]
pub(super) struct InFlightLimiter {
    sent: u64,
    /// Bytes that the peer has read.
    acked: u64,
    /// Value of `sent` at the last probe.
    probed_up_to: u64,
    probes: VecDeque<Probe>,
    /// Number of the next probe.
    next_probe: u64,
    /// Time of the last answer.
    last_answer: Timestamp,
    /// Minimum round-trip time since it was last measured, in nanoseconds.
    min_rtt: Option<u64>,
    /// Time of that measurement.
    min_rtt_at: Timestamp,
    /// The minimum round-trip time is being measured: little may be in flight.
    probing_rtt: bool,
    /// Maximum bandwidth, in bytes per second, and that of the most recent samples.
    bandwidth: MaxBandwidth<{ BANDWIDTH_WINDOW.as_millis() }>,
    recent_bandwidth: MaxBandwidth<{ RECENT.as_millis() }>,
    /// `None`, no limit, until a probe is answered.
    window: Option<u64>,
}

#[derive(Debug)]
struct Probe {
    number: u64,
    /// Values of `sent` and `acked` when the probe was sent.
    sent: u64,
    acked: u64,
    at: Timestamp,
}

impl InFlightLimiter {
    /// Returns the current window.
    fn effective_window(&self) -> Option<u64> {
        let probing_rtt = self.probing_rtt;
        self.window.map(|window| {
            if probing_rtt {
                PROBE_RTT_WINDOW
            } else {
                window
            }
        })
    }

    /// Returns whether bulk may be sent. A window that has shrunk may be full without a probe in
    /// flight: the next frame then adds one.
    pub(super) fn is_open(&self) -> bool {
        let in_flight = self.sent - self.acked;
        self.probes.is_empty()
            || self
                .effective_window()
                .is_none_or(|window| in_flight < window)
    }

    /// Returns when to lift the limit of a closed window: as long as answers arrive, the peer
    /// reads.
    pub(super) fn probe_deadline(&self) -> Option<Timestamp> {
        let oldest = self.probes.front().filter(|_| !self.is_open())?;
        Some(oldest.at.max(self.last_answer) + PROBE_TIMEOUT)
    }

    /// Lifts the limit until the peer answers again.
    pub(super) fn on_probe_timeout(&mut self) {
        self.window = None;
        self.probing_rtt = false;
    }

    /// Records sent data; returns the id of a PING to send after it if a probe is due.
    pub(super) fn on_send(&mut self, count: usize, now: Timestamp) -> Option<ChannelId> {
        self.sent += count as u64;
        let between = (self.effective_window().unwrap_or(MAX_MIN_WINDOW) / PROBES_PER_WINDOW)
            .min(MAX_PROBE_SPACING);
        if self.sent - self.probed_up_to < between {
            return None;
        }
        if self.probes.len() == MAX_OUTSTANDING_PROBES {
            self.probes
                .front()
                .filter(|oldest| oldest.at + PROBE_LOST_AFTER <= now)?;
            self.probes.clear();
        }
        self.probed_up_to = self.sent;
        let number = self.next_probe;
        self.next_probe += 1;
        self.probes.push_back(Probe {
            number,
            sent: self.sent,
            acked: self.acked,
            at: now,
        });
        Some(id(number))
    }

    /// Handles a pong; returns whether it answers a probe.
    pub(super) fn on_pong(&mut self, answer: ChannelId, now: Timestamp) -> bool {
        let mut probes = self.probes.iter();
        let Some(position) = probes.position(|probe| id(probe.number) == answer) else {
            return false;
        };
        // Earlier probes have arrived as well.
        let answered = self.probes.drain(..=position).next_back();
        if let Some(probe) = answered {
            self.acked = probe.sent;
            self.last_answer = now;
            self.on_sample(&probe, now);
        }
        true
    }

    fn on_sample(&mut self, probe: &Probe, now: Timestamp) {
        let rtt = u64::try_from((now - probe.at).as_nanos()).unwrap_or(u64::MAX);
        if rtt == 0 {
            // The driver has not read the clock in between.
            return;
        }
        let bytes = probe.sent - probe.acked;
        let min_rtt = match self.min_rtt {
            Some(known) if bytes > 2 * PROBE_RTT_WINDOW => known.min(rtt),
            _ => {
                self.min_rtt_at = now;
                self.probing_rtt = false;
                rtt
            }
        };
        self.min_rtt = Some(min_rtt);
        let rate = u128::from(bytes) * 1_000_000_000 / u128::from(rtt);
        let rate = u64::try_from(rate).unwrap_or(u64::MAX);
        let recent = self.recent_bandwidth.update(rate, now);
        let min_window = u128::from(recent) * MIN_WINDOW_TIME.as_millis() / 1000;
        let min_window = u64::try_from(min_window)
            .unwrap_or(u64::MAX)
            .clamp(MIN_WINDOW, MAX_MIN_WINDOW);
        let rate = self.bandwidth.update(rate, now);
        let bdp = u128::from(rate) * u128::from(min_rtt) / 1_000_000_000;
        let window = u64::try_from(bdp)
            .unwrap_or(u64::MAX)
            .saturating_mul(BDP_GAIN);
        self.window = Some(window.max(min_window));
        let congested = rtt > min_rtt.saturating_mul(BDP_GAIN);
        let interval = if congested {
            PROBE_RTT_INTERVAL_CONGESTED
        } else {
            PROBE_RTT_INTERVAL
        };
        let affordable = Duration::from_nanos(min_rtt.saturating_mul(PROBE_RTT_MIN_ROUND_TRIPS));
        if now - self.min_rtt_at >= interval.max(affordable) {
            self.probing_rtt = true;
        }
    }
}

fn id(number: u64) -> ChannelId {
    let mut id = *b"window..........";
    id[8..].copy_from_slice(&number.to_be_bytes());
    ChannelId(id)
}

/// Maximum bandwidth of the current and the previous period of this many milliseconds.
#[derive(Debug, Default)]
struct MaxBandwidth<const PERIOD: u128> {
    before: u64,
    current: u64,
    since: Timestamp,
}

impl<const PERIOD: u128> MaxBandwidth<PERIOD> {
    fn update(&mut self, rate: u64, now: Timestamp) -> u64 {
        let passed = (now - self.since).as_millis();
        if passed >= PERIOD {
            self.before = if passed < 2 * PERIOD { self.current } else { 0 };
            self.current = 0;
            self.since = now;
        }
        self.current = self.current.max(rate);
        self.current.max(self.before)
    }
}

#[cfg(test)]
mod tests;
