//! Session keys and ciphers.

pub(crate) mod cipher;
pub(crate) mod connection_key;
pub(crate) mod key;
