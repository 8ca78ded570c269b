//! Why the shadow service refuses a request: AWS's codes, with a message for the person who reads
//! them.

use super::limits::{MAX_DEPTH, MAX_DOCUMENT};

/// A refused request. [`code`](Self::code) is what goes over the wire, the message is this type's
/// `Display`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Rejection {
    /// The payload is not a JSON object.
    #[error("Invalid JSON")]
    InvalidJson,
    /// An update without `state`.
    #[error("Missing required node: state")]
    MissingState,
    /// `state`, `desired` or `reported` is there but not an object.
    #[error("{0} node must be an object")]
    NotAnObject(&'static str),
    /// `state` has a section other than `desired` and `reported`, or an array holds a `null`.
    #[error("State contains an invalid node: {0}")]
    InvalidNode(String),
    /// `version` is not a whole number from 0.
    #[error("Invalid version")]
    InvalidVersion,
    /// `clientToken` is not text, or longer than 64 bytes.
    #[error("Invalid clientToken")]
    InvalidClientToken,
    /// The thing's or the shadow's name breaks the naming rules.
    #[error("Invalid thing or shadow name")]
    InvalidName,
    /// Nested too deeply.
    #[error("JSON contains too many levels of nesting; maximum is {MAX_DEPTH}")]
    TooDeep,
    /// No room for one more thing or shadow. AWS has no such answer; it is a bound of the
    /// simulator's own.
    #[error("Too many things or shadows for this simulator")]
    Full,
    /// There is no such shadow.
    #[error("No shadow exists with name: '{0}'")]
    NotFound(String),
    /// The update names a version that is not the current one.
    #[error("Version conflict")]
    VersionConflict,
    /// The payload, or the document that it would make, is too large.
    #[error("The maximum payload size allowed is {MAX_DOCUMENT} bytes")]
    TooLarge,
    /// The payload is not UTF-8.
    #[error("Unsupported document encoding; supported encoding is UTF-8")]
    NotUtf8,
}

impl Rejection {
    /// The code, in the manner of HTTP's status codes.
    #[must_use]
    pub fn code(&self) -> u16 {
        match self {
            Self::InvalidJson
            | Self::MissingState
            | Self::NotAnObject(_)
            | Self::InvalidNode(_)
            | Self::InvalidVersion
            | Self::InvalidClientToken
            | Self::InvalidName
            | Self::TooDeep => 400,
            Self::Full => 403,
            Self::NotFound(_) => 404,
            Self::VersionConflict => 409,
            Self::TooLarge => 413,
            Self::NotUtf8 => 415,
        }
    }
}
