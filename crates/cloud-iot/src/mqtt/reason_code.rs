//! MQTT reason codes, by number and name.

use std::fmt;

/// An MQTT v5 reason code from the server. Codes from 0x80 on are failures, also those that the
/// standard does not define.
#[derive(Default, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ReasonCode(pub u8);

impl ReasonCode {
    /// Success.
    pub const SUCCESS: Self = Self(0x00);
    /// Failure without a specific reason.
    pub const UNSPECIFIED: Self = Self(0x80);
    /// The packet cannot be decoded.
    pub const MALFORMED_PACKET: Self = Self(0x81);
    /// The packet is not allowed here, or contradicts itself.
    pub const PROTOCOL_ERROR: Self = Self(0x82);
    /// The client's certificate or policy does not permit the operation.
    pub const NOT_AUTHORIZED: Self = Self(0x87);
    /// The server received nothing for one and a half keep-alive intervals.
    pub const KEEP_ALIVE_TIMEOUT: Self = Self(0x8D);
    /// Another connection uses the same client ID.
    pub const SESSION_TAKEN_OVER: Self = Self(0x8E);
    /// The packet exceeds the server's limit.
    pub const PACKET_TOO_LARGE: Self = Self(0x95);
    /// A quota of the server is exceeded.
    pub const QUOTA_EXCEEDED: Self = Self(0x97);
    /// The server does not support retained messages.
    pub const RETAIN_NOT_SUPPORTED: Self = Self(0x9A);
    /// The server does not support the quality of service.
    pub const QOS_NOT_SUPPORTED: Self = Self(0x9B);

    /// Returns whether a DISCONNECT with this code answers a client packet, which may be a message.
    pub(crate) fn is_packet_error(self) -> bool {
        matches!(
            self.0,
            0x81 | 0x82 | 0x87 | 0x90 | 0x95 | 0x99 | 0x9A | 0x9B
        )
    }

    /// Returns whether a refusal with this code is transient: the server is busy, the packet
    /// identifier is in use, the rate is too high, or a quota is exceeded.
    pub(crate) fn is_transient(self) -> bool {
        matches!(self.0, 0x89 | 0x91 | 0x96 | 0x97)
    }

    /// Returns whether the code is a failure.
    #[must_use]
    pub fn is_failure(self) -> bool {
        self.0 >= 0x80
    }

    /// Returns the name of the code in the MQTT specification.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self.0 {
            0x00 => "success",
            0x04 => "disconnect with will message",
            0x10 => "no matching subscribers",
            0x11 => "no subscription existed",
            0x80 => "unspecified error",
            0x81 => "malformed packet",
            0x82 => "protocol error",
            0x83 => "implementation specific error",
            0x84 => "unsupported protocol version",
            0x85 => "client identifier not valid",
            0x86 => "bad user name or password",
            0x87 => "not authorized",
            0x88 => "server unavailable",
            0x89 => "server busy",
            0x8A => "banned",
            0x8B => "server shutting down",
            0x8C => "bad authentication method",
            0x8D => "keep alive timeout",
            0x8E => "session taken over",
            0x8F => "topic filter invalid",
            0x90 => "topic name invalid",
            0x91 => "packet identifier in use",
            0x92 => "packet identifier not found",
            0x93 => "receive maximum exceeded",
            0x94 => "topic alias invalid",
            0x95 => "packet too large",
            0x96 => "message rate too high",
            0x97 => "quota exceeded",
            0x98 => "administrative action",
            0x99 => "payload format invalid",
            0x9A => "retain not supported",
            0x9B => "QoS not supported",
            0x9C => "use another server",
            0x9D => "server moved",
            0x9E => "shared subscriptions not supported",
            0x9F => "connection rate exceeded",
            0xA0 => "maximum connect time",
            0xA1 => "subscription identifiers not supported",
            0xA2 => "wildcard subscriptions not supported",
            code if code >= 0x80 => "unknown failure",
            _ => "unknown reason",
        }
    }
}

impl fmt::Display for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (0x{:02X})", self.name(), self.0)
    }
}

impl fmt::Debug for ReasonCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn unknown_codes_show_number_and_range() {
        for (code, text) in [
            (0x96, "message rate too high (0x96)"),
            (0xA3, "unknown failure (0xA3)"),
            (0x42, "unknown reason (0x42)"),
        ] {
            assert_eq!(ReasonCode(code).to_string(), text);
            assert_eq!(ReasonCode(code).is_failure(), code >= 0x80);
        }
    }
}
