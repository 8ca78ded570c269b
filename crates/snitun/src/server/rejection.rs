//! Reasons for rejecting a connection, for the log and the metrics.

use std::io;

use cloud_net::UntrustedText;

use super::replay_cache::KeyRejected;
use super::token::TokenError;
use crate::close::OpenError;
use crate::driver::EntropyError;
use crate::handshake::HandshakeError;
use crate::sni::SniError;

/// The reason why a device was rejected.
#[derive(Debug, thiserror::Error)]
pub(super) enum DeviceRejection {
    #[error("the token was refused: {0}")]
    Token(#[from] TokenError),
    #[error("the token was refused: {0}")]
    Key(#[from] KeyRejected),
    #[error("the handshake failed: {0}")]
    Handshake(#[from] HandshakeError),
    #[error("the answer to the challenge did not arrive in time")]
    TimedOut,
    #[error("the server is stopping")]
    Stopping,
    #[error("the connection failed: {0}")]
    Io(#[from] io::Error),
    #[error(transparent)]
    Entropy(#[from] EntropyError),
}

/// The reason why a caller was not served, or why its connection failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallerRejection {
    #[error("the ClientHello did not arrive in time")]
    TimedOut,
    #[error("the caller disconnected before its ClientHello was complete")]
    Gone,
    #[error(transparent)]
    Sni(#[from] SniError),
    #[error("no device is connected for {0}")]
    NoDevice(UntrustedText),
    #[error("the device accepts no further channel: {0}")]
    Open(#[from] OpenError),
    #[error("too many callers of its address are being served")]
    TooMany,
    #[error("the server is stopping")]
    Stopping,
    #[error("the connection failed before its ClientHello was complete: {0}")]
    Hello(#[source] io::Error),
    #[error("the connection failed: {0}")]
    Relay(#[source] io::Error),
}
