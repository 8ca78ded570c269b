//! What is worth a line in the log.
//!
//! It is written by the driver, when nothing is locked: whatever takes the log may call the session, to publish it for
//! instance, and would wait for itself.

use std::time::Duration;

use cloud_net::warn_throttled;

use crate::error::DeliveryError;
use crate::log_throttles::LogThrottles;
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
    pub(crate) fn log(&self, throttles: &LogThrottles) {
        match self {
            Self::Unborn(error) => {
                warn_throttled!(throttles.birth_rejected, %error, "the birth message cannot be sent to this server");
            }
            Self::OwnRefused { topic, reason } => {
                warn_throttled!(throttles.own_refused, topic, %reason, "the server refused the session's own message");
            }
            Self::FormerFailed { topic, error } => {
                warn_throttled!(throttles.restored_failed, topic, %error, "a message of an earlier process was not delivered");
            }
            Self::Convicted {
                topic,
                reason,
                connections,
            } => warn_throttled!(
                throttles.poison, topic, %reason, connections,
                "gave up a message that the server has ended connections for"
            ),
            Self::HeldBack { reason, pause } => {
                warn_throttled!(throttles.held_back, %reason, ?pause, "the server takes no messages for now; they are held back");
            }
        }
    }
}
