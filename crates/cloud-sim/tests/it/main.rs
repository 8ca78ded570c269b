//! The simulator against clients of each of its interfaces.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

mod common;

mod aws_limits;
mod control_access;
mod faults;
mod messaging;
mod provisioning;
mod responses;
mod rotation;
mod tunnel;
