//! Topic scheduler: handles messages of one topic one after the other, and those of different
//! topics concurrently.
//!
//! Not here: queues, tasks, time.
//!
//! Invariants: at most `concurrency` messages are being handled; never two of one topic; those of
//! one topic in the order of arrival; at most `lookahead` messages wait here.

use std::collections::{HashMap, VecDeque};
use std::hash::Hash;

use crate::routing::bounded_queue::Delivery;

/// `Id` identifies a message that is being handled.
#[derive(Debug)]
pub(crate) struct TopicScheduler<Id> {
    concurrency: usize,
    lookahead: usize,
    waiting: VecDeque<Delivery>,
    handling: HashMap<Id, String>,
}

impl<Id: Eq + Hash> TopicScheduler<Id> {
    /// Creates a scheduler. A `concurrency` of 1 needs no lookahead.
    pub(crate) fn new(concurrency: usize, lookahead: usize) -> Self {
        let concurrency = concurrency.max(1);
        Self {
            concurrency,
            lookahead: if concurrency == 1 {
                1
            } else {
                lookahead.max(1)
            },
            waiting: VecDeque::new(),
            handling: HashMap::new(),
        }
    }

    /// Returns whether a message may be added. With a concurrency of 1, none may while another is
    /// handled, so that messages wait in the queue, where they are counted.
    pub(crate) fn has_room(&self) -> bool {
        let idle = self.concurrency > 1 || self.handling.is_empty();
        idle && self.waiting.len() < self.lookahead
    }

    pub(crate) fn add(&mut self, delivery: Delivery) {
        self.waiting.push_back(delivery);
    }

    /// Returns the next message to handle now, if any. Call [`started`](Self::started) for it.
    pub(crate) fn next(&mut self) -> Option<Delivery> {
        if self.handling.len() >= self.concurrency {
            return None;
        }
        let busy =
            |delivery: &Delivery| self.handling.values().any(|t| *t == delivery.message.topic);
        let index = self.waiting.iter().position(|delivery| !busy(delivery))?;
        self.waiting.remove(index)
    }

    pub(crate) fn started(&mut self, id: Id, topic: String) {
        self.handling.insert(id, topic);
    }

    pub(crate) fn finished(&mut self, id: &Id) {
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
    use crate::mqtt::message::Message;

    fn delivery(topic: u8, number: usize) -> Delivery {
        Message::new(topic.to_string(), number.to_string()).into()
    }

    #[test]
    fn busy_topic_blocks_only_itself() {
        let mut scheduler = TopicScheduler::new(2, 10);
        for (topic, number) in [(1, 0), (1, 1), (2, 2), (3, 3)] {
            scheduler.add(delivery(topic, number));
        }
        let next = |scheduler: &mut TopicScheduler<usize>| {
            let message = scheduler.next()?.message;
            let number = std::str::from_utf8(&message.payload).ok()?.parse().ok()?;
            scheduler.started(number, message.topic);
            Some(number)
        };
        assert_eq!(next(&mut scheduler), Some(0));
        assert_eq!(next(&mut scheduler), Some(2), "1 is of the topic of 0");
        assert_eq!(next(&mut scheduler), None, "two at once");
        scheduler.finished(&2);
        assert_eq!(next(&mut scheduler), Some(3));
        scheduler.finished(&0);
        assert_eq!(next(&mut scheduler), Some(1));
    }

    #[test]
    fn concurrency_of_one_has_no_lookahead() {
        let mut scheduler = TopicScheduler::new(1, 10);
        assert!(scheduler.has_room());
        scheduler.add(delivery(1, 0));
        assert!(!scheduler.has_room());
        scheduler.next().unwrap();
        scheduler.started(0, "1".into());
        assert!(!scheduler.has_room());
        scheduler.finished(&0);
        assert!(scheduler.has_room() && scheduler.is_idle());
    }

    proptest! {
        #[test]
        fn order_per_topic_without_starvation(
            topics in prop::collection::vec(0_u8..4, 0..80),
            ends in prop::collection::vec(0_usize..8, 200),
            concurrency in 1_usize..5,
            lookahead in 1_usize..6,
        ) {
            let mut scheduler = TopicScheduler::new(concurrency, lookahead);
            let mut coming = topics.iter().copied().enumerate().peekable();
            let mut handling: Vec<(usize, u8)> = Vec::new();
            let mut done: Vec<(usize, u8)> = Vec::new();
            let mut ends = ends.into_iter().cycle();
            while coming.peek().is_some() || !scheduler.is_idle() {
                while scheduler.has_room() && let Some((number, topic)) = coming.next() {
                    scheduler.add(delivery(topic, number));
                }
                while let Some(next) = scheduler.next() {
                    let message = next.message;
                    let topic = message.topic.parse().unwrap();
                    let number = std::str::from_utf8(&message.payload).unwrap().parse().unwrap();
                    prop_assert!(!handling.iter().any(|(_, t)| *t == topic));
                    scheduler.started(number, message.topic);
                    handling.push((number, topic));
                    prop_assert!(handling.len() <= concurrency);
                }
                prop_assert!(!handling.is_empty(), "no message is scheduled");
                let ended = handling.remove(ends.next().unwrap() % handling.len());
                scheduler.finished(&ended.0);
                done.push(ended);
            }
            prop_assert_eq!(done.len(), topics.len());
            for topic in 0..4 {
                prop_assert!(done.iter().filter(|(_, t)| *t == topic).is_sorted());
            }
        }
    }
}
