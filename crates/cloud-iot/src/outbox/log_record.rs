//! Log records of the core and the outbox.
//!
//! The driver writes them without holding a lock: a log subscriber may call the session, for
//! example to publish the record, and would deadlock.

use std::time::Duration;

use cloud_net::warn_throttled;

use crate::error::DeliveryError;
use crate::log_throttles::LogThrottles;
use crate::mqtt::reader::Packet;
use crate::mqtt::reason_code::ReasonCode;

#[derive(Debug)]
pub(crate) enum LogRecord {
    /// The server does not support the birth message.
    BirthRejected(DeliveryError),
    /// The server refused one of the session's own messages.
    SessionMessageRefused { topic: String, reason: ReasonCode },
    /// The server sent a packet that answers nothing.
    UnexpectedPacket { packet: Packet, packet_id: u16 },
    /// A restored message failed. No receipt reports it.
    RestoredFailed { topic: String, error: DeliveryError },
    /// The server has ended this many connections because of a message.
    PoisonDropped {
        topic: String,
        reason: ReasonCode,
        connections: u8,
    },
    /// The server accepts no messages for now.
    Throttled { reason: ReasonCode, pause: Duration },
}

impl LogRecord {
    pub(crate) fn log(&self, throttles: &LogThrottles) {
        match self {
            Self::BirthRejected(error) => {
                warn_throttled!(throttles.birth_rejected, %error, "the birth message cannot be sent to this server");
            }
            Self::SessionMessageRefused { topic, reason } => {
                warn_throttled!(throttles.session_message_refused, topic, %reason, "the server refused the session's own message");
            }
            Self::UnexpectedPacket { packet, packet_id } => {
                warn_throttled!(throttles.unexpected_packet, %packet, packet_id, "ignored a packet of the server that answers nothing");
            }
            Self::RestoredFailed { topic, error } => {
                warn_throttled!(throttles.restored_failed, topic, %error, "a message of an earlier process was not delivered");
            }
            Self::PoisonDropped {
                topic,
                reason,
                connections,
            } => warn_throttled!(
                throttles.poison, topic, %reason, connections,
                "dropped a message because the server ended connections in answer to it"
            ),
            Self::Throttled { reason, pause } => {
                warn_throttled!(throttles.throttled, %reason, ?pause, "the server accepts no messages for now; sending is paused");
            }
        }
    }
}
