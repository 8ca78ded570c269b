//! The connection to the server: TCP, HTTP proxy, TLS and MQTT packets.

mod connect;
pub(crate) mod connection;
mod framed;
mod happy_eyeballs;
pub(crate) mod proxy;
pub mod tls;
