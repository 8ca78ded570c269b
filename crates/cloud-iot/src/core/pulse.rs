//! Keep-alive: when to ask the server whether it is there, and when to believe that it is not.
//!
//! The connection is probed when for half a keep-alive interval nothing was received, or nothing was sent, and the answer
//! has the other half. So a connection that went dead, whatever the reason, is noticed within one interval of the last
//! sign of life, and the server, which waits for one and a half, never has to guess. An interval that was asked of the
//! server is thus used twice; at the usual minute that is a packet of two bytes every thirty seconds.
//!
//! Whatever is received counts as a sign of life, and so does it when a stream that was full takes more: on a slow network a
//! ping and its answer may stand behind much else that does come through.

use std::time::Duration;

use tokio::time::Instant;

use crate::cause::Cause;

/// How long the answer to a probe may take when the network is known to have changed: several round trips of a bad
/// mobile network, and a retransmission or two.
pub(super) const PROBE: Duration = Duration::from_secs(5);

/// How long the answer may take at least, if a server asks for an absurdly short interval.
const MIN_ANSWER: Duration = Duration::from_millis(2500);

#[derive(Debug)]
pub(super) struct Pulse {
    keep_alive: Duration,
    heard: Instant,
    said: Instant,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    due: Instant,
    written: bool,
}

impl Pulse {
    pub(super) fn new(keep_alive: Duration, now: Instant) -> Self {
        Self {
            keep_alive,
            heard: now,
            said: now,
            probe: None,
        }
    }

    /// How long either side may be silent.
    fn silence(&self) -> Duration {
        self.keep_alive / 2
    }

    /// How long an answer may take.
    fn patience(&self) -> Duration {
        self.silence().max(MIN_ANSWER)
    }

    /// Something was received.
    pub(super) fn heard(&mut self, now: Instant) {
        self.heard = now;
        let later = now + self.patience();
        if let Some(probe) = &mut self.probe {
            probe.due = probe.due.max(later);
        }
    }

    /// Something was handed over to be sent.
    pub(super) fn said(&mut self, now: Instant) {
        self.said = now;
    }

    /// PINGREQ was written.
    pub(super) fn pinged(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.written = true;
        }
    }

    /// PINGRESP came.
    pub(super) fn ponged(&mut self, now: Instant) {
        self.probe = None;
        self.heard(now);
    }

    /// The network may be another one: the answer to a probe that is under way, or to one that begins now, must come soon.
    /// Tells whether a ping is to be sent.
    pub(super) fn hurry(&mut self, now: Instant) -> bool {
        let due = now + PROBE.min(self.patience());
        let ping = self.probe.is_none();
        if ping {
            self.said = now;
        }
        let probe = self.probe.get_or_insert(Probe {
            due,
            written: false,
        });
        probe.due = probe.due.min(due);
        ping
    }

    /// When [`beat`](Self::beat) has something to do.
    pub(super) fn due(&self) -> Instant {
        match &self.probe {
            Some(probe) => probe.due,
            None => self.heard.min(self.said) + self.silence(),
        }
    }

    /// What is due: nothing, a ping to be sent, or the end of the connection.
    pub(super) fn beat(&mut self, now: Instant) -> Result<bool, Cause> {
        if self.due() > now {
            return Ok(false);
        }
        match &self.probe {
            Some(Probe { written: true, .. }) => Err(Cause::KeepAlive),
            Some(Probe { written: false, .. }) => Err(Cause::Stalled),
            None => {
                self.said = now;
                self.probe = Some(Probe {
                    due: now + self.patience(),
                    written: false,
                });
                Ok(true)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn dead_within_one_interval_of_the_last_sign_of_life() {
        let start = Instant::now();
        let mut pulse = Pulse::new(60 * SECOND, start);
        pulse.heard(start + 10 * SECOND);
        pulse.said(start + 35 * SECOND);
        assert_eq!(pulse.beat(start + 39 * SECOND), Ok(false));
        assert_eq!(pulse.beat(start + 40 * SECOND), Ok(true));
        pulse.pinged();
        assert_eq!(pulse.beat(start + 69 * SECOND), Ok(false));
        assert_eq!(pulse.beat(start + 70 * SECOND), Err(Cause::KeepAlive));
    }

    #[test]
    fn a_ping_that_could_not_be_written_is_told_apart() {
        let start = Instant::now();
        let mut pulse = Pulse::new(60 * SECOND, start);
        assert_eq!(pulse.beat(start + 30 * SECOND), Ok(true));
        assert_eq!(pulse.beat(start + 60 * SECOND), Err(Cause::Stalled));
    }

    #[test]
    fn no_ping_while_packets_flow_both_ways_but_one_while_only_one_side_speaks() {
        let start = Instant::now();
        let mut pulse = Pulse::new(60 * SECOND, start);
        for second in 1..100 {
            let now = start + second * SECOND;
            pulse.heard(now);
            pulse.said(now);
            assert_eq!(pulse.beat(now), Ok(false));
        }
        // The server would end a connection on which it hears nothing.
        let last = start + 99 * SECOND;
        pulse.heard(last + 29 * SECOND);
        assert_eq!(pulse.beat(last + 30 * SECOND), Ok(true));
        pulse.pinged();
        pulse.ponged(last + 31 * SECOND);
        assert_eq!(pulse.due(), last + 60 * SECOND);
    }

    #[test]
    fn whatever_comes_gives_time_to_the_answer() {
        let start = Instant::now();
        let mut pulse = Pulse::new(60 * SECOND, start);
        assert_eq!(pulse.beat(start + 30 * SECOND), Ok(true));
        pulse.heard(start + 50 * SECOND);
        assert_eq!(pulse.due(), start + 80 * SECOND);
    }

    #[test]
    fn another_network_leaves_little_time() {
        let start = Instant::now();
        let mut pulse = Pulse::new(60 * SECOND, start);
        assert!(pulse.hurry(start));
        assert_eq!(pulse.due(), start + PROBE);
        // Again, it neither asks twice nor gives more time.
        assert!(!pulse.hurry(start + SECOND));
        assert_eq!(pulse.due(), start + PROBE);
        pulse.ponged(start + 2 * SECOND);
        assert_eq!(pulse.due(), start + 30 * SECOND);
        // A ping that is under way is as good.
        assert_eq!(pulse.beat(start + 30 * SECOND), Ok(true));
        assert!(!pulse.hurry(start + 31 * SECOND));
        assert_eq!(pulse.due(), start + 36 * SECOND);
    }
}
