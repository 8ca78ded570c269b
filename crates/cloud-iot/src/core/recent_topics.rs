//! The topics that a connection published to last: a DISCONNECT that refuses one of them does not
//! name it.

use std::collections::VecDeque;

/// A server answers within a round trip, in which few messages are sent; more names than these do
/// not help a reader of the log.
const MAX_TOPICS: usize = 4;

/// The last topics without duplicates, the newest at the end.
#[derive(Debug, Default)]
pub(super) struct RecentTopics(VecDeque<String>);

impl RecentTopics {
    pub(super) fn publish(&mut self, topic: &str) {
        if let Some(index) = self.0.iter().position(|known| known == topic) {
            if let Some(known) = self.0.remove(index) {
                self.0.push_back(known);
            }
            return;
        }
        if self.0.len() == MAX_TOPICS {
            self.0.pop_front();
        }
        self.0.push_back(topic.to_owned());
    }

    pub(super) fn into_topics(self) -> Vec<String> {
        self.0.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn recent_topics_are_bounded_and_distinct() {
        let mut recent = RecentTopics::default();
        for topic in ["a", "b", "c", "a", "d", "e", "e"] {
            recent.publish(topic);
        }
        assert_eq!(recent.into_topics(), ["c", "a", "d", "e"]);
    }
}
