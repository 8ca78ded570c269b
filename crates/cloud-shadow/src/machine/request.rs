//! What callers ask the machine for, what goes out for it, and what comes back.

use serde_json::Value;

use crate::document::{Document, Object};
use crate::error::RequestError;
use crate::topic::Operation;

/// Names a caller's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(pub(super) u64);

/// What a caller asks for. States are checked already.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Get,
    /// Sends this `state`, on condition that `version` is the current one, if there is one.
    Update {
        state: Value,
        version: Option<u64>,
    },
    /// Sends what of this is not reported already.
    Report(Object),
    Delete,
}

impl Request {
    pub(super) fn operation(&self) -> Operation {
        match self {
            Self::Get => Operation::Get,
            Self::Update { .. } | Self::Report(_) => Operation::Update,
            Self::Delete => Operation::Delete,
        }
    }
}

/// How a request went.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Answer {
    Document(Document),
    Updated(u64),
    /// Reported already, nothing was sent.
    Unchanged,
    Deleted,
}

/// The end of a request.
#[derive(Debug)]
pub(crate) struct Done {
    pub(crate) id: RequestId,
    pub(crate) result: Result<Answer, RequestError>,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transmit {
    pub(crate) operation: Operation,
    pub(crate) token: String,
    pub(crate) payload: Vec<u8>,
}
