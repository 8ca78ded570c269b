//! The connection to the server: TCP, TLS and MQTT packets.

mod connect;
pub(crate) mod connection;
mod framed;
pub mod tls;
