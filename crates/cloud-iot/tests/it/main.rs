//! The session against a real broker and against a scripted peer.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
mod support;

#[cfg(feature = "durable")]
mod durable;
mod qualification;
mod session;
