//! The session against a real broker, and against a peer that misbehaves by a script.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is test code"
)]

#[path = "../support/mod.rs"]
mod support;

mod common;
mod delivery;
mod diagnosis;
mod faults;
mod firewall;
mod inbound;
mod lifecycle;
mod log_shipping;
mod proxy;
mod requests;
mod slow_handlers;
mod slow_uplink;
mod stored;
