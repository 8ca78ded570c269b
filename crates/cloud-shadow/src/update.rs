//! A change to a shadow, as the application words it.

use serde_json::{Map, Value};

use crate::limits::{InvalidState, check_section, check_size};
use crate::machine::Request;

/// What an update shall change. A section is a JSON object that is merged into what is there (`null` removes a key, arrays
/// are replaced whole), or `null`, which removes the section.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    desired: Option<Value>,
    reported: Option<Value>,
    pub(crate) version: Option<u64>,
}

impl Update {
    /// Changes nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Changes what the cloud wants.
    #[must_use]
    pub fn desired(mut self, state: Value) -> Self {
        self.desired = Some(state);
        self
    }

    /// Changes what the device says of itself.
    #[must_use]
    pub fn reported(mut self, state: Value) -> Self {
        self.reported = Some(state);
        self
    }

    /// Only if this is the current version; the shadow service refuses with [`Conflict`](crate::RejectionCode::Conflict)
    /// otherwise.
    #[must_use]
    pub fn if_version(mut self, version: u64) -> Self {
        self.version = Some(version);
        self
    }

    pub(crate) fn into_request(self) -> Result<Request, InvalidState> {
        let mut state = Map::new();
        for (name, section) in [("desired", self.desired), ("reported", self.reported)] {
            match &section {
                None => continue,
                Some(Value::Null) => {}
                Some(Value::Object(section)) => check_section(section)?,
                Some(_) => return Err(InvalidState::NotAnObject(name)),
            }
            state.extend(section.map(|section| (name.to_owned(), section)));
        }
        if state.is_empty() {
            return Err(InvalidState::Empty);
        }
        let state = Value::Object(state);
        check_size(&state)?;
        Ok(Request::Update {
            state,
            version: self.version,
        })
    }
}
