//! AWS's own device qualification (Device Advisor), one test for each case and named after it, against a server that
//! does what the case says. What each case demands and how it ends is in docs/device-qualification.md.
//!
//! The shadow cases are in cloud-shadow's tests; the long run is on virtual time, in the core's own tests.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "this is test code"
)]

#[path = "../session/common.rs"]
#[allow(dead_code, reason = "shared with the other tests")]
mod common;
#[path = "../support/mod.rs"]
mod support;

mod back_off;
mod mqtt;
mod sessions;
mod tls;
