//! A shadow update of the application.

use serde_json::{Map, Value};

use crate::core::Request;
use crate::limits::{InvalidState, check_section, check_size};

/// A shadow update. A section is a JSON object that is merged into the existing one (`null` removes
/// a key, arrays are replaced), or `null`, which removes the section.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Update {
    desired: Option<Value>,
    reported: Option<Value>,
    pub(crate) version: Option<u64>,
}

impl Update {
    /// Creates an empty update.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the change of the desired state.
    #[must_use]
    pub fn desired(mut self, state: Value) -> Self {
        self.desired = Some(state);
        self
    }

    /// Sets the change of the reported state.
    #[must_use]
    pub fn reported(mut self, state: Value) -> Self {
        self.reported = Some(state);
        self
    }

    /// Applies only if this is the current version; the shadow service rejects it with
    /// [`Conflict`](crate::RejectionCode::Conflict) otherwise.
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
