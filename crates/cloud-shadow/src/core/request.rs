//! Requests of callers, their messages and results.

use serde_json::Value;

use crate::document::{Document, Object};
use crate::error::RequestError;
use crate::topic::Operation;

/// Identifies a caller's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct RequestId(pub(super) u64);

/// A caller's request. States are validated already.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Get,
    /// Sends this `state`, on condition that `version`, if given, is the current one.
    Update {
        state: Value,
        version: Option<u64>,
    },
    /// Sends the part that is not reported already.
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

/// The result of a request.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Response {
    Document(Document),
    Updated(u64),
    /// Reported already; nothing was sent.
    Unchanged,
    Deleted,
}

/// A completed request.
#[derive(Debug)]
pub(crate) struct Completion {
    pub(crate) id: RequestId,
    pub(crate) result: Result<Response, RequestError>,
}

/// A message to publish.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Transmit {
    pub(crate) operation: Operation,
    pub(crate) token: String,
    pub(crate) payload: Vec<u8>,
}
