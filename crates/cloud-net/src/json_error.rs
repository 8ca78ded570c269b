//! The error of JSON from a peer, which does not quote it.

use thiserror::Error;

/// A payload does not match the expected type. The error contains the position and kind of the
/// fault and no content: the payload may contain secrets, and a peer that can publish it would
/// otherwise control the content and volume of the logs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the payload is {} (line {line}, column {column})", if *.is_json { "JSON, but not of the expected form" } else { "not JSON" })]
#[non_exhaustive]
pub struct Malformed {
    /// Whether the payload is valid JSON.
    pub is_json: bool,
    /// Line of the fault, from 1.
    pub line: usize,
    /// Column of the fault in bytes, from 1.
    pub column: usize,
}

impl From<serde_json::Error> for Malformed {
    fn from(error: serde_json::Error) -> Self {
        Self {
            is_json: error.is_data(),
            line: error.line(),
            column: error.column(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_has_position_and_no_content() {
        let fault = |payload: &str| {
            let error = serde_json::from_str::<Vec<u32>>(payload).unwrap_err();
            Malformed::from(error).to_string()
        };
        assert_eq!(
            fault("[1,\n\"hunter2\"]"),
            "the payload is JSON, but not of the expected form (line 2, column 9)"
        );
        assert_eq!(fault("[1,"), "the payload is not JSON (line 1, column 3)");
    }
}
