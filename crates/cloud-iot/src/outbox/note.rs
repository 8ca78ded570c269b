//! What is worth a line in the log.
//!
//! It is written by the driver, when nothing is locked: whatever takes the log may call the session, to publish it for
//! instance, and would wait for itself.

use std::time::Duration;

use crate::error::DeliveryError;
use crate::reason::ReasonCode;

#[derive(Debug)]
pub(crate) enum Note {
    /// The birth message is not for this server.
    Unborn(DeliveryError),
    /// The session's own message was refused.
    OwnRefused { topic: String, reason: ReasonCode },
    /// Nobody else learns that this one has failed.
    FormerFailed { topic: String, error: DeliveryError },
    /// The server has ended so many connections for a message.
    Convicted {
        topic: String,
        reason: ReasonCode,
        connections: u8,
    },
    /// The server takes no messages for now.
    HeldBack { reason: ReasonCode, pause: Duration },
}

impl Note {
    pub(crate) fn log(&self) {
        match self {
            Self::Unborn(error) => {
                tracing::warn!(%error, "the birth message cannot be sent to this server");
            }
            Self::OwnRefused { topic, reason } => {
                tracing::warn!(topic, %reason, "the server refused the session's own message");
            }
            Self::FormerFailed { topic, error } => {
                tracing::warn!(topic, %error, "a message of an earlier process was not delivered");
            }
            Self::Convicted {
                topic,
                reason,
                connections,
            } => tracing::warn!(
                topic, %reason, connections,
                "gave up a message that the server has ended connections for"
            ),
            Self::HeldBack { reason, pause } => {
                tracing::warn!(%reason, ?pause, "the server takes no messages for now; they are held back");
            }
        }
    }
}
