//! An update of a shadow, after its payload has been checked.

use serde_json::{Map, Value};

/// What an update does to one section of the state.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Change {
    /// The section is not mentioned.
    Keep,
    /// The section is `null`: it goes away.
    Clear,
    /// These keys are merged into it.
    Merge(Map<String, Value>),
}

impl Change {
    /// The section as the request wrote it, for the answer, which repeats it.
    fn as_sent(&self) -> Option<Value> {
        match self {
            Self::Keep => None,
            Self::Clear => Some(Value::Null),
            Self::Merge(patch) => Some(Value::Object(patch.clone())),
        }
    }
}

/// A checked update.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Update {
    pub(super) desired: Change,
    pub(super) reported: Change,
    /// The version that the sender believes to be the current one.
    pub(super) version: Option<u64>,
}

impl Update {
    /// The `state` node as it was sent.
    pub(super) fn state(&self) -> Value {
        let mut state = Map::new();
        for (section, change) in [("desired", &self.desired), ("reported", &self.reported)] {
            if let Some(sent) = change.as_sent() {
                state.insert(section.to_owned(), sent);
            }
        }
        Value::Object(state)
    }
}
