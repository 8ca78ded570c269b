//! One connection, as the [core](crate::core) sees it: what happens on it, and on what terms.
//!
//! Not here: the connection itself, see [`connection`](crate::connection).

use std::time::Duration;

use crate::cause::Cause;
use crate::error::DeliveryError;
use crate::message::{Message, QoS};
use crate::reason::ReasonCode;

/// Something that happened on the connection, in order.
#[derive(Debug)]
pub(crate) enum LinkEvent {
    /// CONNACK came and accepted.
    Connected(ServerTerms),
    /// SUBACK came, with the packet id that it answers and a code for each filter.
    Subscribed(u16, Vec<ReasonCode>),
    /// A PUBLISH of ours was written; packet id 0 at QoS 0.
    Written(u16),
    /// PUBACK came.
    Acknowledged(u16, ReasonCode),
    /// A message came.
    Message(Incoming),
    /// A message at QoS 1 came without a proper topic, so that it is for nobody.
    Nameless { packet_id: u16, duplicate: bool },
    /// The stream takes bytes again after it took none: the peer has received some.
    Progress,
    /// PINGREQ was written.
    Pinged,
    /// PINGRESP came.
    Ponged,
    /// DISCONNECT was written.
    Disconnected,
    /// It is over.
    Lost(Cause),
}

/// A received PUBLISH.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) message: Message,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// Whether the server says that it may have come before.
    pub(crate) duplicate: bool,
}

/// What the server said in CONNACK that it takes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerTerms {
    /// QoS 1 messages that it takes before acknowledging.
    pub(crate) receive_maximum: u16,
    /// The largest packet in bytes.
    pub(crate) maximum_packet: Option<u32>,
    /// Whether it takes QoS 1.
    pub(crate) at_least_once: bool,
    /// Whether it keeps retained messages.
    pub(crate) retain: bool,
    /// How often we probe on this connection.
    pub(crate) keep_alive: Duration,
    /// Whether the server has kept the session of the connection before.
    pub(crate) session_present: bool,
}

impl ServerTerms {
    /// Whether the server takes this message at all. Sending what it does not take would make it
    /// disconnect, and again after every reconnection.
    pub(crate) fn check(&self, message: &Message, expires: bool) -> Result<(), DeliveryError> {
        if let Some(limit) = self.maximum_packet {
            let (size, limit) = (message.packet_bytes(expires), limit as usize);
            if size > limit {
                return Err(DeliveryError::TooLarge { size, limit });
            }
        }
        if message.qos == QoS::AtLeastOnce && !self.at_least_once {
            return Err(DeliveryError::NotSupported("QoS 1"));
        }
        if message.retain && !self.retain {
            return Err(DeliveryError::NotSupported("retained messages"));
        }
        Ok(())
    }
}
