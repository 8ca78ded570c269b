//! Building and parsing of shadow topics.
//!
//! `$aws/things/<thing>/shadow/` is the prefix of the classic shadow,
//! `$aws/things/<thing>/shadow/name/<name>/` that of a named shadow. After it follow `get`,
//! `update` and `delete`, which the device publishes, each with `/accepted` and `/rejected`, which
//! it receives; and `update/delta` and `update/documents`.

use std::fmt;

/// Maximum length of a thing name in AWS IoT Core, in bytes.
const MAX_THING_NAME: usize = 128;

/// Maximum length of a shadow name in AWS IoT Core, in bytes.
const MAX_SHADOW_NAME: usize = 64;

/// A shadow and its thing, with valid names.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ShadowId {
    prefix: String,
    thing_end: usize,
    named: bool,
}

const THINGS: &str = "$aws/things/";

impl ShadowId {
    /// Identifies the classic (unnamed) shadow of `thing`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] if the name is empty, longer than 128 bytes, or has other characters than
    /// letters, digits and `- _ : .`.
    pub fn classic(thing: &str) -> Result<Self, InvalidName> {
        check("thing", thing, MAX_THING_NAME, "-_:.")?;
        Ok(Self {
            prefix: format!("{THINGS}{thing}/shadow/"),
            thing_end: THINGS.len() + thing.len(),
            named: false,
        })
    }

    /// Identifies the shadow `name` of `thing`.
    ///
    /// # Errors
    ///
    /// [`InvalidName`] as for [`classic`](Self::classic); the shadow's name has at most 64 bytes of
    /// letters, digits and `- _ :`.
    pub fn named(thing: &str, name: &str) -> Result<Self, InvalidName> {
        let mut id = Self::classic(thing)?;
        check("shadow", name, MAX_SHADOW_NAME, "-_:")?;
        id.prefix.push_str("name/");
        id.prefix.push_str(name);
        id.prefix.push('/');
        id.named = true;
        Ok(id)
    }

    /// Returns the name of the thing.
    #[must_use]
    pub fn thing(&self) -> &str {
        &self.prefix[THINGS.len()..self.thing_end]
    }

    /// Returns the name of the shadow, `None` for the classic one.
    #[must_use]
    pub fn name(&self) -> Option<&str> {
        let rest = self.prefix[self.thing_end..].strip_prefix("/shadow/name/")?;
        rest.strip_suffix('/').filter(|_| self.named)
    }

    /// Returns the request topic of `operation`.
    #[must_use]
    pub fn request_topic(&self, operation: Operation) -> String {
        format!("{}{operation}", self.prefix)
    }

    /// Returns the topic filters of all messages about this shadow: four of them, which fit into
    /// one SUBSCRIBE (AWS IoT Core accepts eight).
    #[must_use]
    pub fn filters(&self) -> [String; 4] {
        ["accepted", "rejected", "delta", "documents"]
            .map(|kind| format!("{}+/{kind}", self.prefix))
    }

    /// Classifies a message by its topic; `None` if it is not about this shadow.
    #[must_use]
    pub fn parse(&self, topic: &str) -> Option<MessageKind> {
        Some(match topic.strip_prefix(&self.prefix)? {
            "get/accepted" => MessageKind::Accepted(Operation::Get),
            "get/rejected" => MessageKind::Rejected(Operation::Get),
            "update/accepted" => MessageKind::Accepted(Operation::Update),
            "update/rejected" => MessageKind::Rejected(Operation::Update),
            "delete/accepted" => MessageKind::Accepted(Operation::Delete),
            "delete/rejected" => MessageKind::Rejected(Operation::Delete),
            "update/delta" => MessageKind::Delta,
            "update/documents" => MessageKind::Documents,
            _ => return None,
        })
    }
}

impl fmt::Display for ShadowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.thing(), self.name().unwrap_or("(classic)"))
    }
}

/// A shadow operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Operation {
    /// Read the document.
    Get,
    /// Merge into the document.
    Update,
    /// Delete the shadow.
    Delete,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Get => "get",
            Self::Update => "update",
            Self::Delete => "delete",
        })
    }
}

/// The kind of a shadow message, from its topic.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum MessageKind {
    /// A request was accepted.
    Accepted(Operation),
    /// A request was rejected.
    Rejected(Operation),
    /// The desired state differs from the reported one.
    Delta,
    /// The whole document before and after an update.
    Documents,
}

/// A name of a thing or shadow that AWS IoT Core does not accept, or that would change the meaning
/// of a topic.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the {what} name {name:?} is not 1 to {longest} characters of A-Z a-z 0-9 and {punctuation}"
)]
pub struct InvalidName {
    what: &'static str,
    name: String,
    longest: usize,
    punctuation: &'static str,
}

fn check(
    what: &'static str,
    name: &str,
    longest: usize,
    punctuation: &'static str,
) -> Result<(), InvalidName> {
    let good = |c: char| c.is_ascii_alphanumeric() || punctuation.contains(c);
    if (1..=longest).contains(&name.len()) && name.chars().all(good) {
        return Ok(());
    }
    Err(InvalidName {
        what,
        name: name.chars().take(longest + 1).collect(),
        longest,
        punctuation,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn named_and_classic_topics_match_aws() {
        let config = ShadowId::named("SN1", "config").unwrap();
        assert_eq!(
            config.request_topic(Operation::Get),
            "$aws/things/SN1/shadow/name/config/get"
        );
        assert_eq!((config.thing(), config.name()), ("SN1", Some("config")));
        assert_eq!(config.to_string(), "SN1/config");

        let classic = ShadowId::classic("SN1").unwrap();
        assert_eq!(
            classic.request_topic(Operation::Update),
            "$aws/things/SN1/shadow/update"
        );
        assert_eq!((classic.thing(), classic.name()), ("SN1", None));
        assert_eq!(
            classic.filters(),
            [
                "$aws/things/SN1/shadow/+/accepted",
                "$aws/things/SN1/shadow/+/rejected",
                "$aws/things/SN1/shadow/+/delta",
                "$aws/things/SN1/shadow/+/documents",
            ]
        );
    }

    #[test]
    fn messages_are_classified_for_this_shadow() {
        let config = ShadowId::named("SN1", "config").unwrap();
        let kind = |rest: &str| config.parse(&format!("$aws/things/SN1/shadow/name/config/{rest}"));
        assert_eq!(
            kind("get/accepted"),
            Some(MessageKind::Accepted(Operation::Get))
        );
        assert_eq!(
            kind("update/rejected"),
            Some(MessageKind::Rejected(Operation::Update))
        );
        assert_eq!(
            kind("delete/accepted"),
            Some(MessageKind::Accepted(Operation::Delete))
        );
        assert_eq!(kind("update/delta"), Some(MessageKind::Delta));
        assert_eq!(kind("update/documents"), Some(MessageKind::Documents));
        assert_eq!(kind("update"), None);
        assert_eq!(kind("get/delta"), None);
        assert_eq!(
            config.parse("$aws/things/SN1/shadow/name/other/update/delta"),
            None
        );
        assert_eq!(config.parse("$aws/things/SN1/shadow/update/delta"), None);
        let classic = ShadowId::classic("SN1").unwrap();
        assert_eq!(
            classic.parse("$aws/things/SN1/shadow/name/config/update/delta"),
            None
        );
    }

    #[test]
    fn invalid_topic_names_are_rejected() {
        for name in ["", "a/b", "+", "#", "a b", "$aws", "é", &"n".repeat(65)] {
            assert!(ShadowId::named("SN1", name).is_err(), "{name}");
        }
        assert!(ShadowId::named("SN.1:a-b_c", &"n".repeat(64)).is_ok());
        assert!(ShadowId::classic(&"t".repeat(129)).is_err());
        let message = ShadowId::classic("a/b").unwrap_err().to_string();
        assert!(message.contains("\"a/b\""), "{message}");
    }
}
