//! Pacing of sent messages: token buckets for messages and bytes.
//!
//! A server with limits per second drops the excess, or the connection. The pacer is stricter: a
//! part of the rate is the depth of the bucket and only the rest is its refill, so that no interval
//! of one second exceeds the rate.

use std::time::Duration;

use tokio::time::Instant;

use crate::session::limits::Limits;

/// Fraction of the message rate that may be sent at once: ten of AWS IoT Core's hundred.
const MESSAGE_DEPTH: u32 = 10;

/// Fraction of the byte rate that may be sent at once: of AWS IoT Core's 512 KiB, the maximum
/// payload.
const BYTE_DEPTH: u32 = 4;

#[derive(Debug)]
struct Bucket {
    /// Tokens added per second.
    refill: u64,
    depth: u64,
    /// When the bucket is full again; `None` if it is full.
    full_at: Option<Instant>,
}

impl Bucket {
    /// Creates a bucket; `rate` is at least `share`.
    fn new(rate: u32, share: u32) -> Self {
        let depth = rate / share;
        Self {
            refill: (rate - depth).into(),
            depth: depth.into(),
            full_at: None,
        }
    }

    fn time(&self, tokens: u64) -> Duration {
        Duration::from_nanos(tokens.saturating_mul(1_000_000_000) / self.refill.max(1))
    }

    /// Returns when `cost` may be sent; now, if that is in the past. A cost beyond the depth may be
    /// sent when the bucket is full.
    fn ready_at(&self, cost: u64, now: Instant) -> Instant {
        let missing = self
            .full_at
            .map_or(Duration::ZERO, |at| at.saturating_duration_since(now));
        let allowed = self.time(self.depth.saturating_sub(cost));
        now + missing.saturating_sub(allowed)
    }

    fn consume(&mut self, cost: u64, now: Instant) {
        let from = self.full_at.map_or(now, |at| at.max(now));
        self.full_at = Some(from + self.time(cost));
    }
}

/// Limits of the send rate, across all connections of a session.
#[derive(Debug)]
pub(crate) struct Pacer {
    messages: Option<Bucket>,
    bytes: Option<Bucket>,
}

impl Pacer {
    pub(crate) fn new(limits: &Limits) -> Self {
        let bucket = |rate: Option<u32>, share| rate.map(|rate| Bucket::new(rate, share));
        Self {
            messages: bucket(limits.publishes_per_second, MESSAGE_DEPTH),
            bytes: bucket(limits.bytes_per_second, BYTE_DEPTH),
        }
    }

    /// Returns when a packet of this size may be sent.
    pub(crate) fn ready_at(&self, bytes: usize, now: Instant) -> Instant {
        let ready = |bucket: &Option<Bucket>, cost| {
            bucket
                .as_ref()
                .map_or(now, |bucket| bucket.ready_at(cost, now))
        };
        ready(&self.messages, 1).max(ready(&self.bytes, bytes as u64))
    }

    /// Records the transmission of a packet of this size.
    pub(crate) fn on_transmit(&mut self, bytes: usize, now: Instant) {
        for (bucket, cost) in [(&mut self.messages, 1), (&mut self.bytes, bytes as u64)] {
            if let Some(bucket) = bucket {
                bucket.consume(cost, now);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// Sends as fast as allowed, with the given pauses, and returns the times of sending.
    fn send(limits: &Limits, sizes: &[(usize, u64)]) -> Vec<(Instant, usize)> {
        let mut pacer = Pacer::new(limits);
        let mut now = Instant::now();
        let mut sent = Vec::new();
        for (size, pause) in sizes {
            now += Duration::from_millis(*pause);
            now = pacer.ready_at(*size, now);
            pacer.on_transmit(*size, now);
            sent.push((now, *size));
        }
        sent
    }

    /// Returns the maximum within a second that starts with a message.
    fn busiest(sent: &[(Instant, usize)], cost: impl Fn(usize) -> usize) -> usize {
        let second = |from: usize| {
            let end = sent[from].0 + SECOND;
            sent[from..]
                .iter()
                .take_while(|(at, _)| *at < end)
                .map(|(_, size)| cost(*size))
                .sum()
        };
        (0..sent.len()).map(second).max().unwrap_or_default()
    }

    #[test]
    fn a_burst_then_a_steady_flow() {
        let sent = send(&Limits::default(), &[(100, 0); 460]);
        let after = |n: usize| sent[n].0 - sent[0].0;
        assert_eq!(after(9), Duration::ZERO);
        assert!(after(10) > Duration::ZERO);
        assert_eq!(after(459).as_secs_f64().round(), 5.0, "450 at 90 a second");
    }

    #[test]
    fn large_payloads_are_paced_by_their_bytes() {
        let sent = send(&Limits::default(), &[(128 << 10, 0); 13]);
        let time = sent[12].0 - sent[0].0;
        assert_eq!(time.as_secs_f64().round(), 4.0, "12 at 3 a second");
    }

    #[test]
    fn no_limit_no_wait() {
        let limits = Limits {
            publishes_per_second: None,
            bytes_per_second: None,
            ..Limits::default()
        };
        let sent = send(&limits, &[(1 << 20, 0); 1000]);
        assert_eq!(sent[0].0, sent[999].0);
    }

    proptest! {
        #[test]
        fn no_second_sees_more_than_the_rate(
            sizes in prop::collection::vec((1_usize..131_072, 0_u64..50), 1..600)
        ) {
            let sent = send(&Limits::default(), &sizes);
            prop_assert!(busiest(&sent, |_| 1) <= 100);
            prop_assert!(busiest(&sent, |size| size) <= 512 << 10);
        }
    }
}
