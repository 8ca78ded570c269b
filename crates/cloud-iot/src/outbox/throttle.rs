//! Throttling by the server: messages that it does not accept now, because a quota is exceeded or
//! it considers the packet identifier in use.
//!
//! Such a refusal is transient, so the message returns to its position in the queue and is
//! published again, as another packet with another identifier: the refused packet is complete and
//! must not be repeated (MQTT 5.0, 4.4). No message is sent during a pause, because more would make
//! it worse; the pause grows with consecutive refusals. Messages in flight behind the refused one
//! may overtake it.
//!
//! A server may also refuse one message permanently, for example a retained message beyond its
//! limit. So a refusal counts against a message if the server has accepted another one since the
//! previous refusal, and after [`REFUSALS`] of these the message is dropped. A server that accepts
//! nothing is retried like one that is unreachable.

use std::time::Duration;

use tokio::time::Instant;

use super::Outbox;
use super::entry::{Entry, Origin};
use super::log_record::LogRecord;
use crate::mqtt::reason_code::ReasonCode;

/// Counted refusals after which the message is dropped. With the default back-off they take some
/// minutes, during which other messages are accepted.
pub(super) const REFUSALS: u8 = 8;

/// State of the throttling by the server.
#[derive(Debug, Default)]
pub(super) struct Throttle {
    /// No message is sent before this time.
    until: Option<Instant>,
    /// Consecutive pauses without an accepted message in between.
    consecutive_pauses: u32,
    /// Number of callers' messages that the server has accepted.
    accepted: u64,
}

impl Throttle {
    /// Returns the end of the current pause, if any.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// Records an accepted message.
    pub(super) fn on_accepted(&mut self, now: Instant) {
        self.accepted += 1;
        // During a pause, it was in flight when the pause started, so it proves nothing.
        if self.pause(now).is_none() {
            self.consecutive_pauses = 0;
        }
    }

    /// Records a refusal. Returns whether to publish the message again.
    pub(super) fn should_retry(&self, entry: &mut Entry) -> bool {
        let last = entry.refusals.last.replace(self.accepted);
        let counts = last.is_some_and(|last| last != self.accepted);
        entry.refusals.counted += u8::from(counts);
        // The server answered it, so it does not end connections, and its packet identifier is
        // free.
        entry.disconnects = 0;
        entry.last_packet_id = 0;
        let exhausted = entry.refusals.counted >= REFUSALS;
        !matches!(entry.origin, Origin::Session) && !entry.withdrawn && !exhausted
    }
}

impl Outbox {
    /// Returns whether nothing is in flight, and nothing will be sent before that time.
    pub(crate) fn is_idle_until(&self, time: Instant) -> bool {
        let paused = self.throttle.until.is_some_and(|until| until >= time);
        self.in_flight.is_empty() && (self.queue.is_empty() || paused)
    }

    /// Pauses sending after a refusal. `wait` returns the duration, given the number of consecutive
    /// pauses. A refusal during a pause has no effect.
    pub(crate) fn pause_sending(
        &mut self,
        reason: ReasonCode,
        now: Instant,
        wait: impl FnOnce(u32) -> Duration,
    ) {
        if self.throttle.pause(now).is_some() {
            return;
        }
        self.throttle.consecutive_pauses = self.throttle.consecutive_pauses.saturating_add(1);
        let pause = wait(self.throttle.consecutive_pauses);
        self.throttle.until = Some(now + pause);
        self.log_records
            .push_back(LogRecord::Throttled { reason, pause });
    }
}
