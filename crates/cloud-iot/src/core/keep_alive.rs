//! Keep-alive: when to send PINGREQ, and when to give up the connection.
//!
//! The connection is probed when nothing was received, or nothing was sent, for half a keep-alive
//! interval; the response has the other half. A dead connection is therefore detected within one
//! interval of the last received data, and the server, which waits for one and a half, never has
//! to. At the usual minute this costs a packet of two bytes every thirty seconds.
//!
//! All received data counts as activity, as does the socket becoming writable again: on a slow
//! network a PINGREQ and its response may queue behind other data that does get through.

use std::time::Duration;

use tokio::time::Instant;

use crate::error::cause::Cause;

/// Response timeout of a probe after a network change: several round trips of a bad mobile network,
/// and a retransmission or two.
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(5);

/// Minimum response timeout, in case a server requests an absurdly short interval.
const MIN_RESPONSE_TIMEOUT: Duration = Duration::from_millis(2500);

/// What is due.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum KeepAliveAction {
    /// Nothing, until [`KeepAlive::due`].
    Wait,
    SendPing,
    /// The server did not respond.
    Disconnect(Cause),
}

#[derive(Debug)]
pub(super) struct KeepAlive {
    interval: Duration,
    last_received: Instant,
    last_sent: Instant,
    probe: Option<Probe>,
}

#[derive(Debug)]
struct Probe {
    due: Instant,
    written: bool,
}

impl KeepAlive {
    pub(super) fn new(interval: Duration, now: Instant) -> Self {
        Self {
            interval,
            last_received: now,
            last_sent: now,
            probe: None,
        }
    }

    /// How long either direction may be idle.
    fn idle_limit(&self) -> Duration {
        self.interval / 2
    }

    /// How long a response may take.
    fn response_timeout(&self) -> Duration {
        self.idle_limit().max(MIN_RESPONSE_TIMEOUT)
    }

    /// Records received data.
    pub(super) fn on_receive(&mut self, now: Instant) {
        self.last_received = now;
        let later = now + self.response_timeout();
        if let Some(probe) = &mut self.probe {
            probe.due = probe.due.max(later);
        }
    }

    /// Records that data was queued for sending.
    pub(super) fn on_send(&mut self, now: Instant) {
        self.last_sent = now;
    }

    /// Records that PINGREQ was written.
    pub(super) fn on_ping_written(&mut self) {
        if let Some(probe) = &mut self.probe {
            probe.written = true;
        }
    }

    /// Records a PINGRESP.
    pub(super) fn on_pingresp(&mut self, now: Instant) {
        self.probe = None;
        self.on_receive(now);
    }

    /// Shortens the response timeout of the current probe, or starts one, because the network may
    /// have changed. Returns whether to send PINGREQ.
    pub(super) fn probe_now(&mut self, now: Instant) -> bool {
        let due = now + PROBE_TIMEOUT.min(self.response_timeout());
        let ping = self.probe.is_none();
        if ping {
            self.last_sent = now;
        }
        let probe = self.probe.get_or_insert(Probe {
            due,
            written: false,
        });
        probe.due = probe.due.min(due);
        ping
    }

    /// Returns when to call [`poll`](Self::poll).
    pub(super) fn due(&self) -> Instant {
        match &self.probe {
            Some(probe) => probe.due,
            None => self.last_received.min(self.last_sent) + self.idle_limit(),
        }
    }

    /// Returns what is due.
    pub(super) fn poll(&mut self, now: Instant) -> KeepAliveAction {
        if self.due() > now {
            return KeepAliveAction::Wait;
        }
        match &self.probe {
            Some(Probe { written: true, .. }) => KeepAliveAction::Disconnect(Cause::KeepAlive),
            Some(Probe { written: false, .. }) => KeepAliveAction::Disconnect(Cause::WriteStalled),
            None => {
                self.last_sent = now;
                self.probe = Some(Probe {
                    due: now + self.response_timeout(),
                    written: false,
                });
                KeepAliveAction::SendPing
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn dead_connection_detected_within_one_interval() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(60 * SECOND, start);
        keep_alive.on_receive(start + 10 * SECOND);
        keep_alive.on_send(start + 35 * SECOND);
        assert_eq!(keep_alive.poll(start + 39 * SECOND), KeepAliveAction::Wait);
        assert_eq!(
            keep_alive.poll(start + 40 * SECOND),
            KeepAliveAction::SendPing
        );
        keep_alive.on_ping_written();
        assert_eq!(keep_alive.poll(start + 69 * SECOND), KeepAliveAction::Wait);
        assert_eq!(
            keep_alive.poll(start + 70 * SECOND),
            KeepAliveAction::Disconnect(Cause::KeepAlive)
        );
    }

    #[test]
    fn unwritten_ping_is_a_stalled_write() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(60 * SECOND, start);
        assert_eq!(
            keep_alive.poll(start + 30 * SECOND),
            KeepAliveAction::SendPing
        );
        assert_eq!(
            keep_alive.poll(start + 60 * SECOND),
            KeepAliveAction::Disconnect(Cause::WriteStalled)
        );
    }

    #[test]
    fn ping_is_sent_when_one_direction_is_idle() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(60 * SECOND, start);
        for second in 1..100 {
            let now = start + second * SECOND;
            keep_alive.on_receive(now);
            keep_alive.on_send(now);
            assert_eq!(keep_alive.poll(now), KeepAliveAction::Wait);
        }
        // The server would end a connection on which it receives nothing.
        let last = start + 99 * SECOND;
        keep_alive.on_receive(last + 29 * SECOND);
        assert_eq!(
            keep_alive.poll(last + 30 * SECOND),
            KeepAliveAction::SendPing
        );
        keep_alive.on_ping_written();
        keep_alive.on_pingresp(last + 31 * SECOND);
        assert_eq!(keep_alive.due(), last + 60 * SECOND);
    }

    #[test]
    fn received_data_extends_response_timeout() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(60 * SECOND, start);
        assert_eq!(
            keep_alive.poll(start + 30 * SECOND),
            KeepAliveAction::SendPing
        );
        keep_alive.on_receive(start + 50 * SECOND);
        assert_eq!(keep_alive.due(), start + 80 * SECOND);
    }

    #[test]
    fn network_change_shortens_response_timeout() {
        let start = Instant::now();
        let mut keep_alive = KeepAlive::new(60 * SECOND, start);
        assert!(keep_alive.probe_now(start));
        assert_eq!(keep_alive.due(), start + PROBE_TIMEOUT);
        // A second call neither sends another PINGREQ nor extends the timeout.
        assert!(!keep_alive.probe_now(start + SECOND));
        assert_eq!(keep_alive.due(), start + PROBE_TIMEOUT);
        keep_alive.on_pingresp(start + 2 * SECOND);
        assert_eq!(keep_alive.due(), start + 30 * SECOND);
        // A PINGREQ that is outstanding serves as the probe.
        assert_eq!(
            keep_alive.poll(start + 30 * SECOND),
            KeepAliveAction::SendPing
        );
        assert!(!keep_alive.probe_now(start + 31 * SECOND));
        assert_eq!(keep_alive.due(), start + 36 * SECOND);
    }
}
