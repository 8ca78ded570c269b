//! The client against a scripted platform.
//!
//! `secrets` is a separate program because tracing caches the enabled levels per process.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;
mod gateways;

mod keys;
mod network;
mod proxy;
mod registration;
mod responses;
mod tls;
