//! Events of one connection, as the [core](crate::core) receives them, and the server's
//! capabilities.
//!
//! Not here: the [connection](crate::transport::connection) itself.

use std::time::Duration;

use crate::error::DeliveryError;
use crate::error::cause::Cause;
use crate::mqtt::decode::SubAck;
use crate::mqtt::message::{Message, QoS};
use crate::mqtt::reader::Packet;
use crate::mqtt::reason_code::ReasonCode;

/// An event of the connection, in order.
#[derive(Debug)]
pub(crate) enum ConnectionEvent {
    /// A CONNACK accepted the connection.
    Connected(ServerCapabilities),
    /// A SUBACK arrived.
    Subscribed(SubAck),
    /// A PUBLISH was written; packet identifier 0 at QoS 0.
    Written(u16),
    /// A PUBACK arrived.
    Acknowledged(u16, ReasonCode),
    /// A message arrived.
    Message(Incoming),
    /// A QoS 1 message arrived that cannot be delivered.
    Undeliverable { packet_id: u16, duplicate: bool },
    /// A packet arrived that answers nothing of this session, with its packet identifier.
    Unexpected(Packet, u16),
    /// The socket is writable again: the peer has received data.
    Progress,
    /// PINGREQ was written.
    PingWritten,
    /// PINGRESP arrived.
    PingResp,
    /// DISCONNECT was written.
    Disconnected,
    /// The connection ended.
    Lost(Cause),
}

/// A received PUBLISH.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) message: Message,
    /// 0 at QoS 0.
    pub(crate) packet_id: u16,
    /// The DUP flag: the message may have arrived before.
    pub(crate) duplicate: bool,
}

/// Server capabilities from CONNACK.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerCapabilities {
    /// Maximum unacknowledged QoS 1 messages.
    pub(crate) receive_maximum: u16,
    /// Maximum packet size in bytes.
    pub(crate) maximum_packet: Option<u32>,
    /// Whether the server supports QoS 1.
    pub(crate) at_least_once: bool,
    /// Whether the server supports retained messages.
    pub(crate) retain: bool,
    /// Keep-alive interval of this connection.
    pub(crate) keep_alive: Duration,
    /// Whether the server has kept the session of the previous connection.
    pub(crate) session_present: bool,
}

impl ServerCapabilities {
    /// Lowers quality of service and retain flag of one of the session's own messages to what the
    /// server supports.
    pub(crate) fn fit(&self, message: Message) -> Message {
        Message {
            qos: if self.at_least_once {
                message.qos
            } else {
                QoS::AtMostOnce
            },
            retain: message.retain && self.retain,
            ..message
        }
    }

    /// Checks that the server supports this message. Sending an unsupported message would make the
    /// server disconnect, on every connection.
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
