//! Topic names and topic filters: validity and matching, by the rules of MQTT.
//!
//! Not here: authorization (the broker decides), and AWS's limits for length and depth
//! ([limits](crate::Limits::topic_bytes) of the session).

use std::fmt;
use std::str::FromStr;

use cloud_net::UntrustedText;
use thiserror::Error;

/// Maximum length of a topic or filter in MQTT, in bytes: its length field has 16 bits.
pub(crate) const MAX_TOPIC_BYTES: usize = 65_535;

/// Why a topic or a topic filter is not valid. Retrying does not help.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[non_exhaustive]
pub enum TopicError {
    /// It has no characters.
    #[error("a topic must not be empty")]
    Empty,
    /// It is longer than allowed.
    #[error("the topic has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// Length in bytes.
        length: usize,
        /// Maximum length in bytes.
        limit: usize,
    },
    /// It has more levels than allowed.
    #[error("the topic has {slashes} slashes, at most {limit} are allowed")]
    TooDeep {
        /// Number of slashes that count.
        slashes: usize,
        /// Maximum number.
        limit: usize,
    },
    /// It contains the character U+0000.
    #[error("a topic must not contain the character U+0000")]
    NulCharacter,
    /// A topic name contains a wildcard.
    #[error("the topic {0:?} contains a wildcard, so nothing can be published to it")]
    Wildcard(String),
    /// A wildcard does not occupy its whole level, or `#` is not the last level.
    #[error(
        "in the filter {0:?} a wildcard is misplaced: `+` fills a level, `#` is the last level"
    )]
    MisplacedWildcard(String),
    /// A shared subscription without a group or without a filter.
    #[error("the shared filter {0:?} must read `$share/GROUP/FILTER`")]
    MalformedShare(String),
}

/// Checks that `topic` is valid for publishing, with at most `limit` bytes.
pub(crate) fn check_name(topic: &str, limit: usize) -> Result<(), TopicError> {
    check_text(topic, limit)?;
    if topic.contains(['+', '#']) {
        return Err(TopicError::Wildcard(topic.to_owned()));
    }
    Ok(())
}

/// Checks that a topic has at most `limit` slashes. AWS does not count those of the first three
/// levels of its own topics.
pub(crate) fn check_depth(topic: &str, limit: usize) -> Result<(), TopicError> {
    let free = if topic.starts_with("$aws/") { 3 } else { 0 };
    let slashes = topic.matches('/').count().saturating_sub(free);
    if slashes > limit {
        return Err(TopicError::TooDeep { slashes, limit });
    }
    Ok(())
}

fn check_text(text: &str, limit: usize) -> Result<(), TopicError> {
    if text.is_empty() {
        return Err(TopicError::Empty);
    }
    if text.len() > limit {
        return Err(TopicError::TooLong {
            length: text.len(),
            limit,
        });
    }
    if text.contains('\0') {
        return Err(TopicError::NulCharacter);
    }
    Ok(())
}

/// A valid topic filter: levels separated by `/`, where `+` matches one level and a final `#` any
/// number of them, including none.
///
/// ```
/// use cloud_iot::TopicFilter;
///
/// let filter: TopicFilter = "c/d/+/res/#".parse()?;
/// assert!(filter.matches("c/d/token/res"));
/// assert!(filter.matches("c/d/token/res/part/1"));
/// assert!(!filter.matches("c/d/token/req"));
/// // A wildcard in the first level does not match the broker's own topics.
/// assert!(!"#".parse::<TopicFilter>()?.matches("$aws/things/a/shadow/get"));
/// assert!("sport/tennis#".parse::<TopicFilter>().is_err());
/// # Ok::<(), cloud_iot::TopicError>(())
/// ```
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct TopicFilter(Box<str>);

impl TopicFilter {
    /// Creates a valid filter.
    ///
    /// # Errors
    ///
    /// [`TopicError`] if it is empty, too long for MQTT, or has a misplaced wildcard.
    pub fn new(filter: impl Into<String>) -> Result<Self, TopicError> {
        let filter = filter.into();
        check_text(&filter, MAX_TOPIC_BYTES)?;
        if filter.starts_with("$share/") && !is_share(&filter) {
            return Err(TopicError::MalformedShare(filter));
        }
        let mut levels = filter.split('/').peekable();
        while let Some(level) = levels.next() {
            let misplaced = match level {
                "+" => false,
                "#" => levels.peek().is_some(),
                other => other.contains(['+', '#']),
            };
            if misplaced {
                return Err(TopicError::MisplacedWildcard(filter));
            }
        }
        Ok(Self(filter.into_boxed_str()))
    }

    /// Returns the filter as it was written.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns whether this filter matches `topic`.
    ///
    /// A filter that starts with a wildcard does not match a topic that starts with `$`. A shared
    /// filter (`$share/GROUP/FILTER`) matches what its last part matches.
    #[must_use]
    pub fn matches(&self, topic: &str) -> bool {
        let filter = self.unshared();
        if topic.starts_with('$') && filter.starts_with(['+', '#']) {
            return false;
        }
        let mut topic = topic.split('/');
        for level in filter.split('/') {
            if level == "#" {
                return true;
            }
            match topic.next() {
                Some(name) if level == "+" || level == name => {}
                _ => return false,
            }
        }
        topic.next().is_none()
    }

    /// Returns whether some topic matches both filters.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let (one, two) = (self.unshared(), other.unshared());
        let hidden = |a: &str, b: &str| a.starts_with('$') && b.starts_with(['+', '#']);
        if hidden(one, two) || hidden(two, one) {
            return false;
        }
        let (mut one, mut two) = (one.split('/'), two.split('/'));
        loop {
            match (one.next(), two.next()) {
                (Some("#"), _) | (_, Some("#")) | (None, None) => return true,
                (Some(a), Some(b)) if a == b || a == "+" || b == "+" => {}
                _ => return false,
            }
        }
    }

    /// The part that is compared with topics.
    fn unshared(&self) -> &str {
        self.0
            .strip_prefix("$share/")
            .and_then(|rest| rest.split_once('/'))
            .map_or(&*self.0, |(_group, filter)| filter)
    }
}

fn is_share(filter: &str) -> bool {
    filter
        .strip_prefix("$share/")
        .and_then(|rest| rest.split_once('/'))
        .is_some_and(|(group, rest)| {
            !group.is_empty() && !group.contains(['+', '#']) && !rest.is_empty()
        })
}

impl FromStr for TopicFilter {
    type Err = TopicError;

    fn from_str(filter: &str) -> Result<Self, TopicError> {
        Self::new(filter)
    }
}

impl TryFrom<&str> for TopicFilter {
    type Error = TopicError;

    fn try_from(filter: &str) -> Result<Self, TopicError> {
        Self::new(filter)
    }
}

impl TryFrom<String> for TopicFilter {
    type Error = TopicError;

    fn try_from(filter: String) -> Result<Self, TopicError> {
        Self::new(filter)
    }
}

impl fmt::Display for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        UntrustedText::new(&self.0).fmt(f)
    }
}

impl fmt::Debug for TopicFilter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn filter(text: &str) -> TopicFilter {
        TopicFilter::new(text).unwrap()
    }

    #[test]
    fn matches_as_the_standard_says() {
        for (pattern, topic, expected) in [
            ("a/b", "a/b", true),
            ("a/b", "a/b/", false),
            ("a/b", "A/b", false),
            ("a/+", "a/b", true),
            ("a/+", "a", false),
            ("a/+", "a/", true),
            ("a/+", "a/b/c", false),
            ("+/+", "/finance", true),
            ("/+", "/finance", true),
            ("+", "/finance", false),
            ("a/#", "a", true),
            ("a/#", "a/b/c", true),
            ("a/#", "ab", false),
            ("#", "a/b", true),
            ("#", "$SYS/x", false),
            ("+/x", "$SYS/x", false),
            ("$SYS/#", "$SYS/x", true),
            ("$SYS/+", "$SYS/x", true),
            ("a/+/c/#", "a/b/c", true),
            ("$share/g/a/+", "a/b", true),
            ("$share/g/#", "$SYS/x", false),
        ] {
            assert_eq!(
                filter(pattern).matches(topic),
                expected,
                "{pattern} and {topic}"
            );
        }
    }

    #[test]
    fn refuses_bad_filters_and_names() {
        for bad in [
            "",
            "a#",
            "a/#/b",
            "a/b+",
            "++",
            "##",
            "a\0b",
            "$share/g",
            "$share//a",
            "$share/+/a",
        ] {
            assert!(TopicFilter::new(bad).is_err(), "{bad:?}");
        }
        assert!(TopicFilter::new("x".repeat(MAX_TOPIC_BYTES + 1)).is_err());
        for bad in ["", "a/+", "#", "a\0"] {
            assert!(check_name(bad, 256).is_err(), "{bad:?}");
        }
        assert_eq!(
            check_name("abc", 2),
            Err(TopicError::TooLong {
                length: 3,
                limit: 2
            })
        );
        assert_eq!(check_name("$aws/things/a/shadow/get", 256), Ok(()));
    }

    #[test]
    fn topic_depth_is_counted_as_in_aws() {
        assert_eq!(check_depth("1/2/3/4/5/6/7/8", 7), Ok(()));
        let deep = TopicError::TooDeep {
            slashes: 8,
            limit: 7,
        };
        assert_eq!(check_depth("1/2/3/4/5/6/7/8/", 7), Err(deep.clone()));
        assert_eq!(check_depth("$aws/things/x/1/2/3/4/5/6/7/8", 7), Ok(()));
        let topic = "$aws/things/x/1/2/3/4/5/6/7/8/9";
        assert_eq!(check_depth(topic, 7), Err(deep));
        assert_eq!(check_depth("$aws/x", 0), Ok(()));
    }

    #[test]
    fn overlap_is_symmetric() {
        for (a, b, expected) in [
            ("a/+", "+/b", true),
            ("a/b", "a/c", false),
            ("a/#", "a", true),
            ("#", "$aws/x", false),
            ("$aws/+", "$aws/x", true),
            ("a/b", "a", false),
            ("+/b/#", "a/b/c/d", true),
        ] {
            assert_eq!(filter(a).overlaps(&filter(b)), expected, "{a} and {b}");
            assert_eq!(filter(b).overlaps(&filter(a)), expected, "{b} and {a}");
        }
    }

    proptest! {
        /// A topic that matches both filters proves that they overlap.
        #[test]
        fn common_topic_means_overlap(
            a in "[ab+]/[ab+](/[ab+#])?", b in "[ab+]/[ab+](/[ab+#])?", topic in "[ab]/[ab](/[ab]){0,2}",
        ) {
            let (a, b) = (filter(&a), filter(&b));
            if a.matches(&topic) && b.matches(&topic) {
                prop_assert!(a.overlaps(&b));
            }
        }
    }
}
