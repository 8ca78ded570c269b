//! The session against a real broker, and against a peer that misbehaves by a script.

#[path = "../support/mod.rs"]
mod support;

mod common;
mod delivery;
mod diagnosis;
mod faults;
mod inbound;
mod lifecycle;
