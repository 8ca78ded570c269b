//! Messages that the server does not take now: a quota is used up, or it believes that the packet id is in use.
//!
//! Such a refusal passes by itself, and what was accepted is to be delivered. So the message goes back to its place in the
//! queue and is published once more, as another packet under another id: the one that was refused has come to its end and
//! must not be repeated (MQTT 5.0, 4.4). Nothing leaves before a pause is over, since more would make it worse; it grows as
//! long as refusals go on. What was in flight behind the message may come before it.
//!
//! A server may also refuse one message alone, and for ever, such as a retained one that is too many. So a refusal counts
//! against a message if the server has taken another one since it refused this one last, and after [`REFUSALS`] of these it
//! is given up. One that takes nothing at all is waited for, like one that cannot be reached.

use std::time::Duration;

use tokio::time::Instant;

use super::Outbox;
use super::entry::{Entry, Owner};
use super::note::Note;
use crate::reason::ReasonCode;

/// So many refusals are borne that count. With the default back-off they take some minutes, in which others get through.
pub(super) const REFUSALS: u8 = 8;

/// How often the server has put off this message.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Refusals {
    counted: u8,
    /// What [`Deferral::taken`] was at the last one.
    last: Option<u64>,
}

/// How it stands with the server's refusals.
#[derive(Debug, Default)]
pub(super) struct Deferral {
    /// Nothing leaves before.
    until: Option<Instant>,
    /// Pauses since a message was taken outside of one.
    in_a_row: u32,
    /// Messages of callers that the server has taken.
    taken: u64,
}

impl Deferral {
    /// The end of the pause, if there is one.
    pub(super) fn pause(&self, now: Instant) -> Option<Instant> {
        self.until.filter(|until| *until > now)
    }

    /// The server has taken a message.
    pub(super) fn took(&mut self, now: Instant) {
        self.taken += 1;
        // In a pause it is one that was in flight when it began, and tells nothing new.
        if self.pause(now).is_none() {
            self.in_a_row = 0;
        }
    }

    /// The server does not take this message now. Tells whether it is to be published once more.
    pub(super) fn admits(&self, entry: &mut Entry) -> bool {
        let last = entry.refusals.last.replace(self.taken);
        let counts = last.is_some_and(|last| last != self.taken);
        entry.refusals.counted += u8::from(counts);
        // It was answered, which no message is that ends connections; and the server has done with the packet.
        entry.strikes = 0;
        entry.sent_as = 0;
        let lasting = entry.refusals.counted >= REFUSALS;
        !matches!(entry.owner, Owner::Session) && !entry.withdrawn && !lasting
    }
}

impl Outbox {
    /// Whether nothing is in flight, and nothing will leave before that time.
    pub(crate) fn rests_until(&self, time: Instant) -> bool {
        let held_back = self.deferral.until.is_some_and(|until| until >= time);
        self.in_flight.is_empty() && (self.queue.is_empty() || held_back)
    }

    /// The server has put off a message: nothing leaves for a while. `wait` says for how long, given the number of such pauses
    /// in a row. Of several refusals of one time the first counts.
    pub(crate) fn hold_back(
        &mut self,
        reason: ReasonCode,
        now: Instant,
        wait: impl FnOnce(u32) -> Duration,
    ) {
        if self.deferral.pause(now).is_some() {
            return;
        }
        self.deferral.in_a_row = self.deferral.in_a_row.saturating_add(1);
        let pause = wait(self.deferral.in_a_row);
        self.deferral.until = Some(now + pause);
        self.notes.push_back(Note::HeldBack { reason, pause });
    }
}
