//! The session against a real broker, and against a scripted peer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is test code"
)]

#[path = "../support/mod.rs"]
mod support;

mod causes;
mod common;
mod delivery;
mod faults;
mod firewall;
mod lifecycle;
mod log_shipping;
mod outbox_store;
mod proxy;
mod requests;
mod routing;
mod slow_handlers;
mod slow_uplink;
