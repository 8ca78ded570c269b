//! Protocol versions.
//!
//! The wire does not negotiate the version: the token contains it for the server, and the token's
//! issuer gives it to the client.

use std::fmt;

/// The protocol version of a tunnel. The default, also for a token without the field, is version 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum ProtocolVersion {
    /// No flow control; an IPv4 caller's address travels in the header.
    #[default]
    V0,
    /// Adds PAUSE and RESUME for each channel.
    V1,
    /// Adds the caller's address, IPv4 or IPv6, as an encrypted unit of its own.
    V2,
}

impl ProtocolVersion {
    /// All versions, the oldest first.
    pub const ALL: [Self; 3] = [Self::V0, Self::V1, Self::V2];

    /// Returns whether this version has PAUSE and RESUME.
    pub const fn has_flow_control(self) -> bool {
        !matches!(self, Self::V0)
    }

    /// Returns whether NEW carries the caller's address as a separate encrypted unit.
    pub(crate) const fn has_address_unit(self) -> bool {
        matches!(self, Self::V2)
    }
}

/// An unsupported version number.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("SniTun protocol version {0} is not supported; use 0, 1 or 2")]
pub struct UnsupportedVersion(pub u8);

impl TryFrom<u8> for ProtocolVersion {
    type Error = UnsupportedVersion;

    fn try_from(value: u8) -> Result<Self, Self::Error> {
        match value {
            0 => Ok(Self::V0),
            1 => Ok(Self::V1),
            2 => Ok(Self::V2),
            other => Err(UnsupportedVersion(other)),
        }
    }
}

impl From<ProtocolVersion> for u8 {
    fn from(value: ProtocolVersion) -> Self {
        match value {
            ProtocolVersion::V0 => 0,
            ProtocolVersion::V1 => 1,
            ProtocolVersion::V2 => 2,
        }
    }
}

impl fmt::Display for ProtocolVersion {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", u8::from(*self))
    }
}
