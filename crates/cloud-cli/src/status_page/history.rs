//! The last hour, minute by minute: traffic, visitors, and whether the device was unreachable.

use std::collections::VecDeque;

/// The minutes that the page shows.
pub(super) const MINUTES: usize = 60;

/// One minute.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Minute {
    /// Bytes to visitors.
    pub(super) sent: u64,
    /// Bytes from visitors.
    pub(super) received: u64,
    /// The most visitors at one time.
    pub(super) visitors: usize,
    /// Whether messaging or remote access was down at some time.
    pub(super) down: bool,
}

/// What is known at one time. The numbers of bytes are those since the start.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Sample {
    pub(super) sent: u64,
    pub(super) received: u64,
    pub(super) visitors: usize,
    pub(super) down: bool,
}

/// The last [`MINUTES`], oldest first; fewer after the start.
#[derive(Debug, Clone, Default)]
pub(super) struct History {
    minutes: VecDeque<Minute>,
    /// The number of the newest minute since the start.
    newest: u64,
    sent: u64,
    received: u64,
}

impl History {
    /// Records a sample of a minute, which is not before that of the last sample. Minutes without
    /// a sample are empty: the device slept.
    pub(super) fn record(&mut self, minute: u64, sample: Sample) {
        let missing = match self.minutes.is_empty() {
            true => 1,
            false => minute.saturating_sub(self.newest),
        };
        for _ in 0..missing.min(MINUTES as u64) {
            if self.minutes.len() == MINUTES {
                self.minutes.pop_front();
            }
            self.minutes.push_back(Minute::default());
        }
        self.newest = self.newest.max(minute);
        let Some(current) = self.minutes.back_mut() else {
            return;
        };
        // The numbers begin again when remote access does.
        current.sent += sample.sent.checked_sub(self.sent).unwrap_or(sample.sent);
        current.received += sample
            .received
            .checked_sub(self.received)
            .unwrap_or(sample.received);
        (self.sent, self.received) = (sample.sent, sample.received);
        current.visitors = current.visitors.max(sample.visitors);
        current.down |= sample.down;
    }

    /// Returns the minutes, oldest first.
    pub(super) fn minutes(&self) -> impl DoubleEndedIterator<Item = &Minute> + ExactSizeIterator {
        self.minutes.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(sent: u64) -> Sample {
        Sample {
            sent,
            ..Sample::default()
        }
    }

    #[test]
    fn traffic_is_counted_in_its_minute() {
        let mut history = History::default();
        for (minute, sent) in [(0, 10), (0, 15), (2, 40), (3, 5)] {
            history.record(minute, sample(sent));
        }
        let sent: Vec<u64> = history.minutes().map(|minute| minute.sent).collect();
        assert_eq!(sent, [15, 0, 25, 5], "the last one began again at 0");
    }

    #[test]
    fn only_the_last_hour_is_kept() {
        let mut history = History::default();
        for minute in 0..200 {
            history.record(minute, sample(minute + 1));
        }
        assert_eq!(history.minutes().len(), MINUTES);
        assert!(history.minutes().all(|minute| minute.sent == 1));
        history.record(u64::MAX, sample(200));
        assert_eq!(history.minutes().len(), MINUTES);
        assert!(history.minutes().all(|minute| minute.sent == 0));
    }

    #[test]
    fn a_minute_keeps_its_worst_state() {
        let mut history = History::default();
        let down = Sample {
            visitors: 3,
            down: true,
            ..Sample::default()
        };
        history.record(0, down);
        history.record(0, Sample::default());
        let minute = history.minutes().next().copied().unwrap();
        assert_eq!((minute.visitors, minute.down), (3, true));
    }
}
