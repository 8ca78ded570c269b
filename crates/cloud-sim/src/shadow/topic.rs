//! The topics of device shadows, as the cloud sees them: what a request topic asks for, and where
//! its answers go.
//!
//! Protocol: `docs/protocol.md`, "Shadows".

/// A thing name is at most this long, as in AWS IoT Core.
const MAX_THING_NAME: usize = 128;

/// A shadow name is at most this long, as in AWS IoT Core.
const MAX_SHADOW_NAME: usize = 64;

/// Which shadow of which thing.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ShadowId {
    /// The name of the thing.
    pub thing: String,
    /// The name of the shadow; `None` is the classic shadow.
    pub name: Option<String>,
}

impl ShadowId {
    /// The classic shadow of `thing`.
    pub fn classic(thing: impl Into<String>) -> Self {
        Self {
            thing: thing.into(),
            name: None,
        }
    }

    /// The shadow `name` of `thing`.
    pub fn named(thing: impl Into<String>, name: impl Into<String>) -> Self {
        Self {
            thing: thing.into(),
            name: Some(name.into()),
        }
    }

    /// `operation` is what stands after the shadow's own prefix, for example `update/delta`.
    pub(super) fn topic(&self, operation: &str) -> String {
        match &self.name {
            Some(name) => format!("$aws/things/{}/shadow/name/{name}/{operation}", self.thing),
            None => format!("$aws/things/{}/shadow/{operation}", self.thing),
        }
    }

    /// Whether both names keep to the character set and the lengths of AWS IoT Core. A thing name
    /// may also have dots, which serial numbers may have.
    pub(super) fn is_valid(&self) -> bool {
        fits(&self.thing, MAX_THING_NAME, ".:_-")
            && self
                .name
                .as_ref()
                .is_none_or(|name| fits(name, MAX_SHADOW_NAME, ":_-"))
    }
}

fn fits(name: &str, longest: usize, punctuation: &str) -> bool {
    (1..=longest).contains(&name.len())
        && name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || punctuation.contains(c))
}

/// What a device can ask of a shadow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    Get,
    Update,
    Delete,
}

impl Operation {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Get => "get",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

/// Reads a request topic; `None` for every other topic, the answer topics of shadows included.
pub(super) fn parse(topic: &str) -> Option<(ShadowId, Operation)> {
    let (thing, rest) = topic.strip_prefix("$aws/things/")?.split_once('/')?;
    let rest = rest.strip_prefix("shadow/")?;
    let (name, operation) = match rest.strip_prefix("name/") {
        Some(named) => {
            let (name, operation) = named.split_once('/')?;
            (Some(name.to_owned()), operation)
        }
        None => (None, rest),
    };
    let operation = match operation {
        "get" => Operation::Get,
        "update" => Operation::Update,
        "delete" => Operation::Delete,
        _ => return None,
    };
    let thing = thing.to_owned();
    Some((ShadowId { thing, name }, operation))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_requests_of_both_kinds() {
        assert_eq!(
            parse("$aws/things/SN1/shadow/get"),
            Some((ShadowId::classic("SN1"), Operation::Get))
        );
        assert_eq!(
            parse("$aws/things/SN1/shadow/name/config/update"),
            Some((ShadowId::named("SN1", "config"), Operation::Update))
        );
        assert_eq!(
            parse("$aws/things/SN1/shadow/name/config/delete"),
            Some((ShadowId::named("SN1", "config"), Operation::Delete))
        );
    }

    #[test]
    fn what_is_not_a_request_is_left_alone() {
        for topic in [
            "",
            "c/d/SN1/status",
            "$aws/things/SN1/shadow",
            "$aws/things/SN1/shadow/name/config",
            "$aws/things/SN1/shadow/get/accepted",
            "$aws/things/SN1/shadow/name/config/update/delta",
            "$aws/things/SN1/jobs/get",
        ] {
            assert_eq!(parse(topic), None, "{topic}");
        }
    }

    #[test]
    fn topics_are_read_back_as_they_were_built() {
        for id in [ShadowId::classic("SN1"), ShadowId::named("SN1", "config")] {
            assert_eq!(parse(&id.topic("get")), Some((id, Operation::Get)));
        }
    }

    #[test]
    fn names_are_checked() {
        assert!(ShadowId::named("SN.1:a_b-c", "config").is_valid());
        assert!(ShadowId::named("SN1", "n".repeat(64)).is_valid());
        assert!(!ShadowId::named("SN1", "n".repeat(65)).is_valid());
        assert!(!ShadowId::named("SN1", "").is_valid());
        assert!(!ShadowId::named("SN1", "a b").is_valid());
        assert!(!ShadowId::classic("").is_valid());
        assert!(!ShadowId::classic("t".repeat(129)).is_valid());
    }
}
