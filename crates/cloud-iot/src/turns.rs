//! Whose turn it is: messages of one topic one after the other, those of different topics side by side.
//!
//! Not here: queues, tasks, time.
//!
//! Invariants: at most `concurrency` messages are being handled; never two of one topic; of one topic, in the order in
//! which they came; no more than `ahead` wait here.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::inbox::Letter;

/// `Id` names a message that is being handled.
#[derive(Debug)]
pub(crate) struct Turns<Id> {
    concurrency: usize,
    ahead: usize,
    waiting: VecDeque<Letter>,
    handling: HashMap<Id, String>,
}

impl<Id: Eq + Hash> Turns<Id> {
    /// With a `concurrency` of 1 nothing needs to be looked for ahead.
    pub(crate) fn new(concurrency: usize, ahead: usize) -> Self {
        let concurrency = concurrency.max(1);
        Self {
            concurrency,
            ahead: if concurrency == 1 { 1 } else { ahead.max(1) },
            waiting: VecDeque::new(),
            handling: HashMap::new(),
        }
    }

    /// Whether a message may be added. One at a time it may not while another is handled, so that what waits waits
    /// where it is counted.
    pub(crate) fn has_room(&self) -> bool {
        let idle = self.concurrency > 1 || self.handling.is_empty();
        idle && self.waiting.len() < self.ahead
    }

    pub(crate) fn add(&mut self, letter: Letter) {
        self.waiting.push_back(letter);
    }

    /// The next message to handle now, if there is one; to be followed by [`begun`](Self::begun).
    pub(crate) fn next(&mut self) -> Option<Letter> {
        if self.handling.len() >= self.concurrency {
            return None;
        }
        let busy = |letter: &Letter| self.handling.values().any(|t| *t == letter.message.topic);
        let index = self.waiting.iter().position(|letter| !busy(letter))?;
        self.waiting.remove(index)
    }

    pub(crate) fn begun(&mut self, id: Id, topic: String) {
        self.handling.insert(id, topic);
    }

    pub(crate) fn ended(&mut self, id: &Id) {
        self.handling.remove(id);
    }

    pub(crate) fn is_idle(&self) -> bool {
        self.waiting.is_empty() && self.handling.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::message::Message;

    fn letter(topic: u8, number: usize) -> Letter {
        Message::new(topic.to_string(), number.to_string()).into()
    }

    #[test]
    fn one_topic_holds_up_only_itself() {
        let mut turns = Turns::new(2, 10);
        for (topic, number) in [(1, 0), (1, 1), (2, 2), (3, 3)] {
            turns.add(letter(topic, number));
        }
        let next = |turns: &mut Turns<usize>| {
            let message = turns.next()?.message;
            let number = std::str::from_utf8(&message.payload).ok()?.parse().ok()?;
            turns.begun(number, message.topic);
            Some(number)
        };
        assert_eq!(next(&mut turns), Some(0));
        assert_eq!(next(&mut turns), Some(2), "1 is of the topic of 0");
        assert_eq!(next(&mut turns), None, "two at once");
        turns.ended(&2);
        assert_eq!(next(&mut turns), Some(3));
        turns.ended(&0);
        assert_eq!(next(&mut turns), Some(1));
    }

    #[test]
    fn one_at_a_time_takes_nothing_ahead() {
        let mut turns = Turns::new(1, 10);
        assert!(turns.has_room());
        turns.add(letter(1, 0));
        assert!(!turns.has_room());
        turns.next().unwrap();
        turns.begun(0, "1".into());
        assert!(!turns.has_room());
        turns.ended(&0);
        assert!(turns.has_room() && turns.is_idle());
    }

    proptest! {
        #[test]
        fn order_is_kept_per_topic_and_all_get_their_turn(
            topics in prop::collection::vec(0_u8..4, 0..80),
            ends in prop::collection::vec(0_usize..8, 200),
            concurrency in 1_usize..5,
            ahead in 1_usize..6,
        ) {
            let mut turns = Turns::new(concurrency, ahead);
            let mut coming = topics.iter().copied().enumerate().peekable();
            let mut handling: Vec<(usize, u8)> = Vec::new();
            let mut done: Vec<(usize, u8)> = Vec::new();
            let mut ends = ends.into_iter().cycle();
            while coming.peek().is_some() || !turns.is_idle() {
                while turns.has_room() && let Some((number, topic)) = coming.next() {
                    turns.add(letter(topic, number));
                }
                while let Some(next) = turns.next() {
                    let message = next.message;
                    let topic = message.topic.parse().unwrap();
                    let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
                    prop_assert!(!handling.iter().any(|(_, t)| *t == topic));
                    turns.begun(number, message.topic);
                    handling.push((number, topic));
                    prop_assert!(handling.len() <= concurrency);
                }
                prop_assert!(!handling.is_empty(), "nobody has a turn");
                let ended = handling.remove(ends.next().unwrap() % handling.len());
                turns.ended(&ended.0);
                done.push(ended);
            }
            prop_assert_eq!(done.len(), topics.len());
            for topic in 0..4 {
                prop_assert!(done.iter().filter(|(_, t)| *t == topic).is_sorted());
            }
        }
    }
}
